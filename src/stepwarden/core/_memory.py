"""The ledger in memory: the newest receipts of a run, in the order in which they were left."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, Self

from ._receipt import Receipt
from .errors import DefinitionError, LedgerError

if TYPE_CHECKING:
    from types import TracebackType

    from ._run import Run

Keep = Callable[[Any], None]


class Finished(Protocol):
    """Be a closed scope: what a receipt is made from when it is read."""

    @property
    def receipt(self) -> Receipt | None:
        """The receipt, once closed."""


class MemoryLedger:
    """Keep the newest receipts in memory; writing to it takes no waiting.

    Every run has one of its own; a run that is given one keeps its receipts there, too.

    Args:
        max_receipts: How many it keeps; older ones are dropped and counted.

    Raises:
        DefinitionError: If *max_receipts* is not an int >= 0.
    """

    __slots__ = ("__weakref__", "_dropped", "_finished", "_lock", "_max", "_trim_above", "beside", "is_closed")

    def __init__(self, max_receipts: int = 10_000) -> None:
        if type(max_receipts) is not int or max_receipts < 0:
            raise DefinitionError(f"max_receipts must be an int >= 0, not {max_receipts!r}")
        self._finished: deque[Finished] = deque()
        self._max = max_receipts
        # Dropping needs a lock, so it is done for many at once.
        self._trim_above = max_receipts + _DROPPED_AT_ONCE
        self._dropped = 0
        self.is_closed = False
        # What other layers keep in this ledger, by its class.
        self.beside: dict[type, Any] = {}
        self._lock = threading.RLock()
        _ledgers.add(weakref.ref(self, _ledgers.discard))

    def open(self, run: Run) -> None:
        """Keep what a run leaves here too, from now on.

        Raises:
            LedgerError: If it is closed.
            DefinitionError: If the run is to be signed.
        """
        self._refuse_closed()
        if run.sign is not None:
            raise DefinitionError("run.sign needs a ledger that keeps records, such as SQLiteLedger")
        if run.memory is not self:
            run.keep = keep_in_both(run.memory.keep, self.keep)

    def latest(self, limit: int) -> tuple[Receipt, ...]:
        """Return the newest receipts that it keeps, at most *limit*, in completion order."""
        self._refuse_closed()
        return self.receipts[-limit:] if limit > 0 else ()

    def close(self) -> None:
        """Take no further run; what is kept can still be read from `receipts`."""
        self.is_closed = True

    def __enter__(self) -> Self:
        self._refuse_closed()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self.is_closed:
            raise LedgerError("this MemoryLedger is closed; make another one")

    def keep(self, finished: Finished) -> None:
        """Keep a closed scope, from which its receipt is made when it is read."""
        self._finished.append(finished)
        if len(self._finished) > self._trim_above:
            self._trim()

    def keep_once(self, finished: Finished) -> None:
        """Keep a closed scope unless it is kept already."""
        if not any(one is finished for one in self._finished):
            self.keep(finished)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts kept, in completion order."""
        self._trim()
        return _receipts(self._finished.copy())

    @property
    def dropped(self) -> int:
        """How many receipts were dropped to make room."""
        self._trim()
        return self._dropped

    def drain(self) -> tuple[Receipt, ...]:
        """Return the receipts kept and forget them."""
        with self._lock:
            self._trim()
            taken = [self._finished.popleft() for _ in range(len(self._finished))]
        return _receipts(taken)

    def _trim(self) -> None:
        with self._lock:
            for _ in range(len(self._finished) - self._max):
                self._finished.popleft()
                self._dropped += 1


def keep_in_both(first: Keep, second: Keep) -> Keep:
    """Return what keeps a closed scope in two places."""

    def keep(finished: Any) -> None:
        first(finished)
        second(finished)

    return keep


_DROPPED_AT_ONCE = 256
# What the collector calls to take one out is a function of C, which a WeakSet's is not: see `_collector`.
_ledgers: set[weakref.ref[MemoryLedger]] = set()


def _renew_locks() -> None:
    # Another thread may have held one when the process forked, and is not there to release it.
    for ledger in filter(None, (known() for known in _ledgers.copy())):
        ledger._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)


def _receipts(finished: Iterable[Finished]) -> tuple[Receipt, ...]:
    # One that was kept twice, since a signal handler or another thread came between, is one.
    made = (scope.receipt for scope in dict.fromkeys(finished))
    return tuple(receipt for receipt in made if receipt is not None)
