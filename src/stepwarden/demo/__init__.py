"""One agent run for real, on a model in this process: `stepwarden demo`.

Start with `_persona.py`: it is the agent, written the way a user of the package would write it. `_tools.py` is what it
may do, `_main.py` starts the model and the run. Nothing here prints; the command line shows the run.
"""

from ._main import DemoOutcome, run_demo
from ._persona import MODEL, Triage, triage_captain

__all__ = ["MODEL", "DemoOutcome", "Triage", "run_demo", "triage_captain"]
