"""The ledger's protocol: where what runs leave is kept, and what waits until it is durable there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ._hold import Hold
    from ._receipt import Receipt, ToolRecord
    from ._run import Run
    from ._scope import Scope
    from ._tally import CallEntry, Extra


class Ticket(ABC):
    """Be waited for until everything that a journal was told before is durable."""

    __slots__ = ()

    @abstractmethod
    def wait(self) -> None:
        """Block this thread; raise a `LedgerError` where it cannot be made durable."""

    @abstractmethod
    def __await__(self) -> Generator[Any, Any, None]:
        """Do the same without blocking the event loop."""


class Journal(Protocol):
    """Be told of what happens in one run, in order; outside the tree's lock. Only its tickets take time."""

    def held(self, hold: Hold) -> None:
        """Note that a call is about to be sent."""

    def settled(self, hold: Hold, owner: Scope, outcome: str, call: CallEntry | None, extra: Extra | None) -> None:
        """Note what became of a hold: ``"settled"``, ``"uncertain"`` or ``"released"``, and what *owner* was charged.

        After ``"uncertain"``, another one replaces what was charged.
        """

    def used(self, owner: Scope, call: CallEntry, extra: Extra | None) -> None:
        """Note a call that was recorded after the fact."""

    def called(self, owner: Scope, tool: ToolRecord) -> None:
        """Note the outcome of a tool call."""

    def closed(self, scope: Scope) -> None:
        """Note that a step, a persona or the run itself has closed, with its numbers as they stay."""

    def ticket(self) -> Ticket:
        """Return what waits for all that was noted so far."""


@runtime_checkable
class Ledger(Protocol):
    """Keep what runs leave: in memory, in a file, in a database."""

    def open(self, run: Run) -> Journal | None:
        """Begin the records of a run; None where nobody has to be told or waited for.

        Raises:
            LedgerError: If the ledger is closed or cannot record.
        """

    def latest(self, limit: int) -> tuple[Receipt, ...]:
        """Return the newest receipts of all runs, in the order in which they were left."""

    def close(self) -> None:
        """Make everything durable and let go of what is open; again is harmless.

        Raises:
            LedgerError: If something could not be made durable.
        """
