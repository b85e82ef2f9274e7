"""The book of accounts in memory: for one process, and as long as its ledger."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from typing import Any

from ._account import AccountState
from ._book import Book, Change, Take
from ._ledger import Ticket
from ._sheet import Booking, Sheet, Terms, state_of


class MemoryBook(Book):
    """Keep accounts in memory; a change is made when it comes.

    Where it comes in the middle of another one on the same thread, from a finaliser or a signal handler, it is made
    when that is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pages = _MemoryPages()
        self._coming: deque[Change] = deque()
        self._turn = threading.RLock()

    def put(self, change: Change) -> None:
        """Make a change."""
        self._coming.append(change)
        if self._turn._is_owned():  # type: ignore[attr-defined]
            return
        frees = False
        with self._turn:
            while self._coming:
                one = self._coming.popleft()
                one.apply(self._pages)
                frees = frees or one.frees
                if isinstance(one, Take) and one.blocked is not None:
                    one.blocked.changes = self.changes
        if frees:
            self.tell_changed()

    def ticket(self) -> Ticket:
        """Return what has nothing to wait for."""
        return _Made()

    def states(self, now_ns: int) -> tuple[AccountState, ...]:
        """Return what is known of every account, by name, in the windows that run then."""
        with self._turn:
            return tuple(state_of(self._pages, name, now_ns) for name in self._pages.names())


class _Made(Ticket):
    """Be what was made at once."""

    __slots__ = ()

    def wait(self) -> None:
        """Go on."""

    def __await__(self) -> Generator[Any, Any, None]:
        """Go on."""
        yield from ()


class _MemoryPages:
    """Keep a book in dictionaries."""

    def __init__(self) -> None:
        self._terms: dict[str, Terms] = {}
        self._sheets: dict[tuple[str, str, int], Sheet] = {}

    def names(self) -> list[str]:
        return sorted({*self._terms, *(name for name, _, _ in self._sheets)})

    def terms(self, name: str) -> Terms:
        return self._terms.get(name) or Terms()

    def keep_terms(self, name: str, terms: Terms) -> None:
        self._terms[name] = terms

    def sheet(self, name: str, window: str, start: int) -> Sheet:
        return self._sheets.get((name, window, start)) or Sheet()

    def keep_sheet(self, name: str, window: str, start: int, sheet: Sheet) -> None:
        self._sheets[name, window, start] = sheet

    def note(self, entry: Booking) -> None:
        """Need no note: what is in memory is gone with the process, and its holds with it."""

    def forget(self, entry: Booking) -> None:
        """Have no note to forget."""
