"""The ledger in memory: the newest receipts of a run, in the order in which they were left."""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

from ._receipt import Receipt
from .errors import DefinitionError


class Finished(Protocol):
    """Be a closed scope: what a receipt is made from when it is read."""

    @property
    def receipt(self) -> Receipt | None:
        """The receipt, once closed."""


class MemoryLedger:
    """Keep the newest receipts in memory.

    Args:
        max_receipts: How many it keeps; older ones are dropped and counted.

    Raises:
        DefinitionError: If *max_receipts* is not an int >= 0.
    """

    __slots__ = ("_drained", "_finished", "_kept", "_lock")

    def __init__(self, max_receipts: int = 10_000) -> None:
        if type(max_receipts) is not int or max_receipts < 0:
            raise DefinitionError(f"max_receipts must be an int >= 0, not {max_receipts!r}")
        self._finished: deque[Finished] = deque(maxlen=max_receipts)
        self._kept = 0
        self._drained = 0
        self._lock = threading.RLock()

    def keep(self, finished: Finished) -> None:
        """Keep a closed scope, from which its receipt is made when it is read.

        Args:
            finished: The scope. The caller holds the lock of the one tree that writes here.
        """
        self._kept += 1
        self._finished.append(finished)

    def keep_shared(self, finished: Finished) -> None:
        """Keep a closed scope where several trees write here."""
        with self._lock:
            self.keep(finished)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts kept, in completion order."""
        return _receipts(self._finished.copy())

    @property
    def dropped(self) -> int:
        """How many receipts were dropped to make room."""
        return self._kept - self._drained - len(self._finished)

    def drain(self) -> tuple[Receipt, ...]:
        """Return the receipts kept and forget them."""
        taken: list[Finished] = []
        while self._finished:
            taken.append(self._finished.popleft())
        self._drained += len(taken)
        return _receipts(taken)


def _receipts(finished: deque[Finished] | list[Finished]) -> tuple[Receipt, ...]:
    made = (scope.receipt for scope in finished)
    return tuple(receipt for receipt in made if receipt is not None)
