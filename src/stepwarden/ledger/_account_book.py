"""The book of accounts in a ledger's file, which the processes that share the file share, too."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stepwarden.accounts._book import Book, Change, Take
from stepwarden.accounts._sheet import state_of, usage_of
from stepwarden.core._budget import Usage
from stepwarden.core.errors import LedgerError

from ._account_pages import SQLitePages
from ._recovery import recover_in
from ._writer import Writer

if TYPE_CHECKING:
    from pathlib import Path

    from stepwarden.accounts._window import AccountState
    from stepwarden.core._ledger import Ticket


_RECOVER_SECONDS = 1.0
"""How often it is looked whether whoever is waited for has died."""


class _Making:
    """Be one change on its way, which is made once."""

    __slots__ = ("change", "is_made")

    def __init__(self, change: Change) -> None:
        self.change = change
        self.is_made = False


class _Look(Change):
    """Read what is known of every account."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self.found: tuple[AccountState, ...] = ()

    def apply(self, pages: Any) -> None:
        """Read it."""
        self.found = tuple(state_of(pages, name, self._now_ns) for name in pages.names())


class SettleLeft(Change):
    """Settle what calls of processes that have died left uncertain on an account, since someone knows what they cost.

    Args:
        name: The account.
        is_spent: Whether all of that was spent, or nothing.

    Attributes:
        calls: How many calls there were.
        amount: What was uncertain of them.
    """

    frees = True

    def __init__(self, name: str, *, is_spent: bool) -> None:
        self._name = name
        self._is_spent = is_spent
        self.calls = 0
        self.amount = Usage()

    def apply(self, pages: Any) -> None:
        """Settle it."""
        self.calls, total = pages.settle_left(self._name, is_spent=self._is_spent)
        self.amount = usage_of(total)


class AccountStore:
    """Make changes in a file that is open, a batch a transaction; in one thread at a time.

    Args:
        database: The connection, which is this store's own.
        path: The file.
        process: The name of the lock that tells that this process lives.
        book: The book whose changes these are.
    """

    def __init__(self, database: sqlite3.Connection, path: Path, process: str, book: Callable[[], SQLiteBook]) -> None:
        self._database = database
        self._path = path
        self._ledger = f"ledger {path}"
        self._waits = False
        self._recovered_at = time.monotonic()
        self._pages = SQLitePages(database, process)
        self._book = book

    def commit(self, entries: Sequence[Any]) -> None:
        """Make changes, all of them or none.

        Raises:
            LedgerError: If they cannot be written.
        """
        todo: list[_Making] = [one for one in entries if not one.is_made]
        if not todo:
            return
        database = self._database
        if database.in_transaction:
            database.execute("ROLLBACK")  # a signal handler raised before it was undone
        self._recover_whom_it_waits_for()
        before = [(one.change.entry, one.change.entry.state()) for one in todo if one.change.entry is not None]
        try:
            database.execute("BEGIN IMMEDIATE")
            for one in todo:
                one.change.apply(self._pages)
            database.execute("COMMIT")
            for one in todo:
                one.is_made = True
        except BaseException as error:
            is_kept = not isinstance(error, sqlite3.Error) and not database.in_transaction
            if is_kept:
                for one in todo:
                    one.is_made = True
                raise
            for entry, state in reversed(before):
                entry.put_back(state)
            if database.in_transaction:
                database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise LedgerError(f"{self._ledger} cannot record: {error}") from error
            raise
        book = self._book()
        for one in todo:
            if isinstance(one.change, Take) and one.change.blocked is not None:
                one.change.blocked.changes = book.changes
                self._waits = True
        if any(one.change.frees for one in todo):
            book.tell_changed()

    def _recover_whom_it_waits_for(self) -> None:
        """Account for what dead processes hold, where somebody here had no room and asks again."""
        if self._waits and time.monotonic() - self._recovered_at >= _RECOVER_SECONDS:
            recover_in(self._database, self._path)
            self._waits = False
            self._recovered_at = time.monotonic()

    def tidy(self) -> None:
        """Leave nothing for later."""

    def prepare_ahead(self) -> None:
        """Do nothing ahead."""

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class SQLiteBook(Book):
    """Keep accounts in a ledger's file.

    Args:
        open_database: Opens the file, in the writer's thread.
        path: The file.
        process: The name of the lock that tells that this process lives.
    """

    is_shared = True

    def __init__(self, open_database: Callable[[], sqlite3.Connection], path: Path, process: str) -> None:
        super().__init__()
        self._name = f"ledger {path}"
        self.writer = Writer(lambda: AccountStore(open_database(), path, process, lambda: self), self._name)

    def put(self, change: Change) -> None:
        """Take a change, to be made soon, in the order in which they come; never waits.

        Raises:
            LedgerError: If the ledger is closed.
        """
        if not self.writer.append(_Making(change)):  # type: ignore[arg-type]
            raise LedgerError(f"{self._name} is closed, and its accounts with it")

    def ticket(self) -> Ticket:
        """Return what waits until all changes so far are made, and durable."""
        return self.writer

    def states(self, now_ns: int) -> tuple[AccountState, ...]:
        """Return what is known of every account, by name, in the windows that run then."""
        look = _Look(now_ns)
        self.put(look)
        self.writer.wait()
        return look.found
