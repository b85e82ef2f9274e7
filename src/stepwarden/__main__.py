"""Run the command line as ``python -m stepwarden``."""

import sys

from stepwarden.cli import main

if __name__ == "__main__":
    sys.exit(main())
