"""Calls on accounts: taken after the hold on the tree, which goes back where an account refuses or has no room now."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

from ._account import time_of
from ._accounting import no_price
from ._amount import unpacked
from ._book import Book, Settle, Take
from ._budget import in_units
from ._charge import show
from ._ledger import KeepsAccounts, Ticket
from ._settings import settings
from ._sheet import NOTHING, Amounts, Blocked, Booking, amount_of, usage_of
from ._tree import runs_event_loop
from .errors import AccountPausedError, BudgetExceededError, DefinitionError, ReserveTimeoutError, WouldBlockError

if TYPE_CHECKING:
    from ._account import Account
    from ._firing import Pending
    from ._hold import Hold
    from ._run import Run
    from ._scope import Scope

_FIRST_LOOK_SECONDS = 0.01
_LAST_LOOK_SECONDS = 0.25
_LOOK_AT_RUN_SECONDS = 1.0
"""How long a waiting caller may miss that its run has ended."""


def book_of(run: Run) -> Book:
    """Return the book that the accounts of a run are kept in.

    Raises:
        DefinitionError: If its ledger keeps none.
        LedgerError: If its ledger is closed.
    """
    # What is in memory only, and not asked for, ends with its run, as an account must not.
    ledger: object = settings.memory if run.ledger is run.memory else run.ledger
    if not isinstance(ledger, KeepsAccounts):
        raise DefinitionError(f"run.accounts needs a ledger that keeps accounts, and {ledger!r} does not")
    return ledger.book


def _entries(scope: Scope | None) -> list[tuple[Book, Booking]]:
    """Make an entry for each book that has accounts around a scope, outermost first."""
    found: dict[int, tuple[Book, list[Account]]] = {}
    chain: list[tuple[Run, tuple[Account, ...]]] = []
    while scope is not None:
        if scope.plan.accounts:
            chain.append((scope.run, scope.plan.accounts))
        scope = scope.parent
    for run, accounts in reversed(chain):
        book = book_of(run)
        found.setdefault(id(book), (book, []))[1].extend(accounts)
    now = settings.clock.time_ns()
    return [(book, Booking(tuple(accounts), now)) for book, accounts in found.values()]


def draw(hold: Hold, *, never_waits: bool) -> Pending[tuple[Book, Blocked] | None]:
    """Take a hold on every account around; where one has no room, give everything back, the tree's first of all.

    Args:
        hold: The hold on the tree, which is open.
        never_waits: Whether its context has another hold open.

    Returns:
        None where it was taken, else the account that must be waited for, with its book.

    Raises:
        AccountPausedError: If an account is paused.
        BudgetExceededError: If what an account has spent leaves no room.
        UnpricedModelError: If an account has a USD limit and the model has no price.
        LedgerError: If the accounts cannot be written.
    """
    scope = hold.scope
    assert scope is not None
    entries: list[tuple[Book, Booking]] = []
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


def look_first(hold: Hold) -> Pending[None]:
    """Let an account refuse a call that the tree has no room for now, since they come first; errors as in `draw`."""
    scope = hold.scope
    assert scope is not None
    for book, entry in _entries(scope):
        take = Take(entry, hold, never_waits=False, looks_only=True)
        book.put(take)
        yield book.ticket()
        if take.blocked is not None:
            refuse(scope, hold, take.blocked, never_waits=False)


def _give_back(hold: Hold, entries: list[tuple[Book, Booking]]) -> None:
    with hold.tree.lock:
        if hold.is_open:
            hold.give_back()
    for book, entry in entries:
        book.put(Settle(entry))


def settle_entries(entries: Iterable[tuple[Book, Booking]], spent: Amounts, uncertain: Amounts = NOTHING) -> None:
    """Charge the accounts of a hold; after ``uncertain``, again.

    Raises:
        LedgerError: If their ledger is closed.
    """
    for book, entry in entries:
        book.put(Settle(entry, spent, uncertain))


def count_in_accounts(scope: Scope, spent: int) -> None:
    """Charge a call that was recorded after the fact to every account around; the next one is refused if it must."""
    settle_entries(_entries(scope), unpacked(spent))


def refuse(scope: Scope, hold: Hold, blocked: Blocked, *, never_waits: bool) -> None:
    """Raise for a call that an account refuses; return where others' holds could come back."""
    if blocked.paused is not None:
        why = f": {blocked.paused}" if blocked.paused else ""
        raise AccountPausedError(
            f"account `{blocked.name}` is paused{why}; `stepwarden accounts resume` lets it go on",
            account=blocked.name,
            reason=blocked.paused,
        )
    if blocked.limit == "max_usd" and hold.is_unpriced:
        raise no_price(scope, hold.model)
    if blocked.is_ever or never_waits:
        raise _no_room(blocked)


def _no_room(blocked: Blocked) -> BudgetExceededError:
    limit, sheet = blocked.limit, blocked.sheet
    spent, held, uncertain = (amount_of(limit, each) for each in (sheet.spent, sheet.held, sheet.uncertain))
    message = (
        f"account `{blocked.name}` has no room in {blocked.window} {limit} ({show(limit, spent)} of "
        f"{show(limit, blocked.value)} spent, {show(limit, held)} held, "
        + (f"{show(limit, uncertain)} uncertain, " if uncertain else "")
        + f"{show(limit, blocked.needed)} needed)"
        + ("" if blocked.is_ever else "; it would wait for a hold while its own context has one open")
    )
    began = time_of(blocked.start)
    error = BudgetExceededError(
        message,
        scope_kind="account",
        scope_name=blocked.name,
        scope_id=f"account.{blocked.name}.{blocked.window}" + ("" if began is None else f".{began:%Y-%m-%dT%H}"),
        function=blocked.name,
        limit=limit,
        limit_value=in_units(limit, blocked.value),
        consumed=in_units(limit, spent),
        requested=in_units(limit, blocked.needed),
        held=in_units(limit, held),
        uncertain=in_units(limit, uncertain),
        reason="no_room" if blocked.is_ever else "would_deadlock",
        phase="reserve",
        usage=usage_of(sheet.spent),
    )
    error.add_note(f"to spend more, raise the {blocked.window} {limit} of account `{blocked.name}`")
    return error


def account_timed_out(blocked: Blocked, waited: float) -> ReserveTimeoutError:
    """Make the error for a call that waited for an account for as long as it may, *waited* in seconds."""
    return ReserveTimeoutError(
        f"account `{blocked.name}` has no room in {blocked.window} {blocked.limit} now: other calls hold it "
        f"(waited {waited:.3g}s)",
        waited=waited,
        scope_kind="account",
        scope_name=blocked.name,
        limit=blocked.limit,
    )


def longest_look(book: Book, looks: int) -> float:
    """Return how long to wait for a book before it is looked at again, in seconds; *looks* is how often it was."""
    if not book.is_shared:
        return _LOOK_AT_RUN_SECONDS
    return min(_LAST_LOOK_SECONDS, _FIRST_LOOK_SECONDS * (1 << min(looks, 10)))


class NextChange(Ticket):
    """Wait until a book has changed since a hold was refused, and no longer than *seconds*."""

    __slots__ = ("_book", "_seconds", "_seen")

    def __init__(self, book: Book, seen: int, seconds: float) -> None:
        self._book = book
        self._seen = seen
        self._seconds = seconds

    def wait(self) -> None:
        """Block this thread.

        Raises:
            WouldBlockError: If it runs an event loop.
        """
        if runs_event_loop():
            raise WouldBlockError(
                "acquire() would wait for an account on a thread that runs an event loop, and freeze it; "
                "use `await reserve(...)` or `async with reserve(...)`, or wait=False"
            )
        gate = threading.Event()
        if self._book.call_when_changed(self, gate.set, self._seen):
            try:
                gate.wait(self._seconds)
            finally:
                self._book.call_no_more(self)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait without blocking the event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(_finish, woken)
            except RuntimeError:  # the loop was closed while this one waited: nobody is there to hear it
                self._book.call_no_more(self)

        if self._book.call_when_changed(self, wake, self._seen):
            timer = loop.call_later(self._seconds, _finish, woken)
            try:
                yield from woken
            finally:
                timer.cancel()
                self._book.call_no_more(self)


def _finish(woken: Any) -> None:
    if not woken.done():
        woken.set_result(None)


def wait_for_room(scope: Scope, found: tuple[Book, Blocked], looks: int, longest: float) -> Pending[None]:
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
