"""Calls on accounts: taken after the hold on the tree, which goes back where an account refuses or has no room now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from stepwarden.core._funds import NOTHING, Amounts
from stepwarden.core._hold import context_hold
from stepwarden.core._memory import MemoryLedger
from stepwarden.core._settings import settings
from stepwarden.core._tree import chain
from stepwarden.core._waiting import longest_wait, out_of_time
from stepwarden.core._watch import tell_refused
from stepwarden.core.errors import DefinitionError, RunClosedError, StepwardenError

from ._book import Book, Settle, Take
from ._memory_book import MemoryBook
from ._next_change import NextChange, longest_look
from ._refusal import refuse, timed_out
from ._sheet import Blocked, Booking

if TYPE_CHECKING:
    from stepwarden.core._account import Account
    from stepwarden.core._firing import Pending
    from stepwarden.core._hold import Hold
    from stepwarden.core._ledger import Ticket
    from stepwarden.core._run import Run
    from stepwarden.core._scope import Scope

_Entries = list[tuple[Book, Booking]]


def book_in(ledger: object) -> Book:
    """Return the book that a ledger keeps its accounts in.

    Raises:
        DefinitionError: If it keeps none.
        LedgerError: If it is closed.
    """
    if isinstance(ledger, MemoryLedger):
        # In one call, so that two threads do not make two.
        found: Book = ledger.beside.get(MemoryBook) or ledger.beside.setdefault(MemoryBook, MemoryBook())
        return found
    book = getattr(ledger, "book", None)
    if not isinstance(book, Book):
        raise DefinitionError(f"run.accounts needs a ledger that keeps accounts, and {ledger!r} does not")
    return book


def _book_of(run: Run) -> Book:
    # What is in memory only, and not asked for, ends with its run, as an account must not.
    return book_in(settings.memory if run.ledger is run.memory else run.ledger)


def _entries(scope: Scope | None) -> _Entries:
    """Make an entry for each book that has accounts around a scope, outermost first."""
    found: dict[int, tuple[Book, list[Account]]] = {}
    accounted = [one for one in chain(scope) if one.plan.accounts]
    for one in reversed(accounted):
        book = _book_of(one.run)
        found.setdefault(id(book), (book, []))[1].extend(one.plan.accounts)
    now = settings.clock.time_ns()
    return [(book, Booking(tuple(accounts), now)) for book, accounts in found.values()]


class LedgerFunds:
    """Draw calls on accounts in the books of the ledgers around them."""

    def take(self, scope: Scope, hold: Hold, contend: Callable[[Hold], Ticket], timeout: float | None) -> Pending[None]:
        """Take a hold on every account around its scope, and on its tree, waiting in turns until both have room."""
        never_waits = context_hold() is not None
        began, looks = time.monotonic(), 0
        try:
            if not hold.is_open:
                yield from _look_first(scope, hold)
                yield contend(hold)
            while found := (yield from _draw(scope, hold, never_waits=never_waits)):
                if timeout is not None and timeout <= 0:
                    raise timed_out(found[1], 0.0)
                waited = time.monotonic() - began
                longest, hurried = longest_wait(timeout, scope, waited)
                if longest <= 0:
                    raise timed_out(found[1], waited) if hurried is None else out_of_time(hurried)
                yield from _wait_for_room(scope, found, looks, longest)
                looks += 1
                if scope.run.status is not None:
                    raise RunClosedError(f"run `{scope.run.name}` ended while a call waited in it")
                hold.ask_again()
                yield contend(hold)
        except StepwardenError as error:
            tell_refused(scope, error)
            raise

    def settle(self, hold: Hold, spent: Amounts, uncertain: Amounts) -> None:
        """Replace what a hold has on its accounts, or was charged there while its cost was unknown."""
        # It has none where it was taken before the persona with accounts was opened.
        _settle(getattr(hold, "entries", ()), spent, uncertain)

    def charge(self, scope: Scope, spent: Amounts) -> None:
        """Charge a call that was recorded after the fact to every account around *scope*."""
        _settle(_entries(scope), spent)


def _draw(scope: Scope, hold: Hold, *, never_waits: bool) -> Pending[tuple[Book, Blocked] | None]:
    """Take a hold on every account around; where one has no room, give everything back, the tree's first of all.

    Args:
        scope: Where the call is to be made.
        hold: Its hold, which is open in the tree.
        never_waits: Whether its context has another hold open.

    Returns:
        None where it was taken, else the account that must be waited for, with its book.
    """
    entries: _Entries = []
    blocked = None
    try:
        for book, entry in _entries(scope):
            entries.append((book, entry))
            take = Take(entry, hold, never_waits=never_waits, looks_only=False)
            book.put(take)
            yield book.ticket()
            blocked = take.blocked
            if blocked is not None:
                break
            if take.output_tokens < hold.output_tokens:
                hold.lower(take.output_tokens)
    except BaseException:
        _give_back(hold, entries)
        raise
    if blocked is None:
        hold.entries = entries
        return None
    _give_back(hold, entries)
    refuse(scope, hold, blocked, never_waits=never_waits)
    return entries[-1][0], blocked


def _look_first(scope: Scope, hold: Hold) -> Pending[None]:
    """Let an account refuse a call that the tree has no room for now, since accounts come first."""
    for book, entry in _entries(scope):
        take = Take(entry, hold, never_waits=False, looks_only=True)
        book.put(take)
        yield book.ticket()
        if take.blocked is not None:
            refuse(scope, hold, take.blocked, never_waits=False)


def _give_back(hold: Hold, entries: _Entries) -> None:
    with hold.tree.lock:
        if hold.is_open:
            hold.give_back()
    _settle(entries, NOTHING)


def _settle(entries: Iterable[tuple[Book, Booking]], spent: Amounts, uncertain: Amounts = NOTHING) -> None:
    for book, entry in entries:
        book.put(Settle(entry, spent, uncertain))


def _wait_for_room(scope: Scope, found: tuple[Book, Blocked], looks: int, longest: float) -> Pending[None]:
    """Wait until an account may have room.

    Args:
        scope: Where the call is to be made.
        found: The account that has none, and its book.
        looks: How often it was waited for before.
        longest: How long it may be waited for, in seconds.
    """
    book, blocked = found
    began = time.monotonic()
    yield NextChange(book, blocked.changes, min(longest, longest_look(book, looks)))
    for listener in settings.listeners:
        listener.waited(scope, blocked.limit, time.monotonic() - began)
