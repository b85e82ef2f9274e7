"""What is shown once a run has ended."""

import sys
import traceback

from rich.console import Console

from ._notes import notes_table
from ._outcome import Ending, Outcome
from ._problem import complain
from ._screen import show
from ._table import receipts_table


def show_receipts(console: Console, outcome: Outcome) -> None:
    """Show the receipts as a table.

    Args:
        console: Where.
        outcome: How the run ended.
    """
    show(console, receipts_table(console, outcome.run, outcome.ending))


def show_notes(console: Console, outcome: Outcome) -> None:
    """Show what the table does not say, if there is anything.

    Args:
        console: Where.
        outcome: How the run ended.
    """
    notes = notes_table(outcome.run)
    if notes is not None:
        show(console, "")
        show(console, notes)


def show_problem(outcome: Outcome, *, debug: bool) -> None:
    """Tell on stderr, on one line, what went wrong, if anything did.

    Args:
        outcome: How the run ended.
        debug: Whether the traceback comes before it.
    """
    if outcome.problem is None:
        return
    if debug:
        traceback.print_exception(outcome.error, file=sys.stderr)
    hint = "" if debug or outcome.ending is not Ending.FAILED else "; --debug shows the traceback"
    complain(f"{outcome.problem}{hint}")
