"""The book of accounts in memory: for one process, and as long as its ledger."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from typing import Any

from stepwarden.core._ledger import Ticket

from ._book import Book, Change, Settle, Take
from ._sheet import Booking, Sheet, Terms, state_of
from ._window import AccountState

_Kept = dict[tuple[Any, ...], Any]
"""Terms by the account's name, and sheets by that, the window and its beginning; and which change was the last."""
_LAST_MADE = (None,)


class MemoryBook(Book):
    """Keep accounts in memory; a change is made when it comes.

    Where it comes in the middle of another one on the same thread, from a finaliser or a signal handler, it is made
    when that is over. A handler that raises leaves a change made or not made: what ends a call is made with the next
    change then, and what was asked for is not, since whoever asked is told.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: _Kept = {}
        self._coming: deque[Change] = deque()
        self._frees = False
        self._turn = threading.RLock()

    def put(self, change: Change) -> None:
        """Make a change."""
        self._coming.append(change)
        if self._turn._is_owned():  # type: ignore[attr-defined]
            return
        try:
            with self._turn:
                while self._coming:
                    self._make_first()
        finally:
            if self._frees:
                self.tell_changed()
                self._frees = False

    def _make_first(self) -> None:
        """Make the first change that is coming, unless it was made before."""
        one, kept = self._coming[0], self._kept
        before = None if one.entry is None else one.entry.state()
        try:
            if kept.get(_LAST_MADE) is not one:
                pages = _MemoryPages(kept)
                one.apply(pages)
                pages.changed[_LAST_MADE] = one
                # One call into C: all of it is kept, or nothing.
                kept.update(pages.changed)
            if isinstance(one, Take) and one.blocked is not None:
                one.blocked.changes = self.changes
        except BaseException:
            if kept.get(_LAST_MADE) is not one:
                if one.entry is not None and before is not None:
                    one.entry.put_back(before)
                if not isinstance(one, Settle):
                    self._coming.popleft()
            raise
        self._frees = self._frees or one.frees
        self._coming.popleft()

    def ticket(self) -> Ticket:
        """Return what has nothing to wait for."""
        return _Made()

    def states(self, now_ns: int) -> tuple[AccountState, ...]:
        """Return what is known of every account, by name, in the windows that run then."""
        with self._turn:
            pages = _MemoryPages(self._kept)
            return tuple(state_of(pages, name, now_ns) for name in pages.names())


class _Made(Ticket):
    """Be what was made at once."""

    __slots__ = ()

    def wait(self) -> None:
        """Go on."""

    def __await__(self) -> Generator[Any, Any, None]:
        """Go on."""
        yield from ()


class _MemoryPages:
    """Show a book that is kept in a dictionary, with the changes of one that is being made, which collects them.

    Args:
        kept: The book.

    Attributes:
        changed: What is to be kept instead.
    """

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept
        self.changed: _Kept = {}

    def names(self) -> list[str]:
        return sorted({key[0] for key in self._kept.copy() if key is not _LAST_MADE})

    def terms(self, name: str) -> Terms:
        terms: Terms = self._found((name,)) or Terms()
        return Terms(dict(terms.declared), dict(terms.fixed), terms.paused)

    def keep_terms(self, name: str, terms: Terms) -> None:
        self.changed[name,] = terms

    def sheet(self, name: str, window: str, start: int) -> Sheet:
        sheet: Sheet = self._found((name, window, start)) or Sheet()
        return Sheet(sheet.spent, sheet.held, sheet.uncertain)

    def keep_sheet(self, name: str, window: str, start: int, sheet: Sheet) -> None:
        self.changed[name, window, start] = sheet

    def note(self, entry: Booking) -> None:
        """Need no note: what is in memory is gone with the process, and its holds with it."""

    def forget(self, entry: Booking) -> None:
        """Have no note to forget."""

    def note_uncertain(self, entry: Booking) -> None:
        """Need no note of that, either."""

    def _found(self, key: tuple[Any, ...]) -> Any:
        return self.changed.get(key) or self._kept.get(key)
