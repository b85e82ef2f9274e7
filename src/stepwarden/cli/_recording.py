"""Recording a run: the ledger that a command writes to, and what it says of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stepwarden import LedgerError, SQLiteLedger
from stepwarden.ledger._sign import signer

from ._ledger_path import how_to_look, ledger_path
from ._problem import UsageError, complain
from ._recover_command import describe_recovered
from ._screen import show


class Recording:
    """Be the ledger that a command writes to.

    Args:
        ledger: The ledger, open.
        path: Its file, as the user would name it.

    Attributes:
        failure: What went wrong when it was closed, or None.
    """

    def __init__(self, ledger: SQLiteLedger, path: Path) -> None:
        self.ledger = ledger
        self.path = path
        self.failure: LedgerError | None = None

    def say_how_to_look(self, console: Console, run: str) -> None:
        """Tell how the run can be looked at later.

        Args:
            console: Where.
            run: The run's id.
        """
        show(console, "")
        show(console, Text(f"recorded; show it again with: {how_to_look('show', run, self.path)}", "dim"))


@contextmanager
def recording(option: str | None, sign: str | None) -> Iterator[Recording]:
    """Open the ledger that a run is recorded in, and tell of runs that were left open by processes that have died.

    Args:
        option: What ``--ledger`` names, or None.
        sign: What ``--sign`` names, or None.

    Raises:
        UsageError: If there is no such key.
        LedgerError: If the ledger cannot be opened.
    """
    path = ledger_path(option)
    if sign is not None:
        try:
            signer(sign)
        except LedgerError as error:
            raise UsageError(f"--sign: {error}") from error
    ledger = SQLiteLedger(path)
    for run in ledger.recovered:
        complain(f"{describe_recovered(run)}; {how_to_look('show', run.id, path)}")
    opened = Recording(ledger, path)
    try:
        yield opened
    finally:
        try:
            ledger.close()
        except LedgerError as error:
            opened.failure = error
