"""How much chance and repetition the proofs may take: little in each build, and as much as one likes by hand."""

import os

EFFORT = int(os.environ.get("STEPWARDEN_TEST_EFFORT", "1"))
"""A factor for the number of examples, rounds and cases: 1 takes seconds, 100 takes hours."""
