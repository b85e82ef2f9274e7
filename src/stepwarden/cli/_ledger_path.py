"""Which ledger a command means, and which run in it."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepwarden import LedgerError
from stepwarden.ledger._reading import Reading
from stepwarden.ledger._rows import RunRow

from ._problem import UsageError

VARIABLE = "STEPWARDEN_LEDGER"
DEFAULT = Path(".stepwarden", "ledger.db")
LAST = "last"
_SHOWN = 8
"""Characters of a run's id that are shown where there is little room; two runs hardly ever share them."""


def ledger_path(option: str | None) -> Path:
    """Return the file of the ledger.

    Args:
        option: What ``--ledger`` names, or None: the environment's, else the default in the current folder.

    Raises:
        UsageError: If it is empty, or the address of a database, which this version does not know.
    """
    named, where = (option, "--ledger") if option is not None else (os.environ.get(VARIABLE), f"${VARIABLE}")
    if named is None:
        return DEFAULT
    if not named:
        raise UsageError(f"{where} must be the path of a ledger's file, not empty")
    if "://" in named:
        raise UsageError(f"{where} must be the path of a ledger's file, not {named!r}: databases are not supported yet")
    return Path(named)


def existing_ledger(option: str | None) -> Path:
    """Do the same for a command that makes no ledger.

    Raises:
        UsageError: If there is no such file, either.
    """
    path = ledger_path(option)
    if not path.is_file():
        raise UsageError(f"there is no ledger at {path}; `stepwarden run` creates one, and --ledger names another")
    return path


@contextmanager
def reading(option: str | None) -> Iterator[Reading]:
    """Open the ledger for reading.

    Raises:
        UsageError: If there is none.
        LedgerError: If it cannot be read.
    """
    with Reading(existing_ledger(option)) as opened:
        yield opened


def find_run(opened: Reading, wanted: str) -> RunRow:
    """Return the run that is meant.

    Args:
        opened: The ledger.
        wanted: Its id, the beginning of it, or ``last``: the newest one that is inside no other.

    Raises:
        UsageError: If there is none, or more than one.
    """
    if wanted == LAST:
        before: int | None = None
        while page := opened.runs(limit=_PAGE, before=before):
            for row in page:
                if row.parent is None:
                    return row
            before = page[-1].number
        raise UsageError(f"there is no run in {opened.path} yet")
    try:
        return opened.run(wanted)
    except LedgerError as error:
        if error.__cause__ is not None:  # the file is at fault, and not the question
            raise
        raise UsageError(str(error)) from error


_PAGE = 100


def short(run: str) -> str:
    """Return as much of a run's id as is shown in a table."""
    return run[:_SHOWN]


def how_to_look(command: str, run: str, path: Path) -> str:
    """Return the command that shows a run.

    Args:
        command: ``show`` or another command that takes a run.
        run: The run's id.
        path: The ledger that it is in.
    """
    where = "" if path == ledger_path(None) else f" --ledger {shlex.quote(str(path))}"
    return f"stepwarden {command} {short(run)}{where}"
