"""The book of accounts: the changes that can be made to what is spent, held and uncertain in each window.

What decides stands here once; a ledger brings the pages that it is written on, and applies each change as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from stepwarden.core._budget import Limits
from stepwarden.core._funds import NOTHING, Amounts
from stepwarden.core._queue import needed_of, output_that_fits

from ._sheet import Blocked, Booking, Pages, Sheet, Terms, amount_of, move
from ._window import start_of

if TYPE_CHECKING:
    from stepwarden.core._hold import Hold
    from stepwarden.core._ledger import Ticket

    from ._window import AccountState


class _Line(NamedTuple):
    """Be the limits of an account in one window, beside its numbers there."""

    name: str
    window: str
    start: int
    sheet: Sheet
    limits: Limits


class Change(ABC):
    """Be one change to a book, made as a whole or not at all."""

    __slots__ = ()
    entry: Booking | None = None
    frees = False
    """Whether somebody who waits for room may find some after it."""

    @abstractmethod
    def apply(self, pages: Pages) -> None:
        """Make it."""


class Take(Change):
    """Take a hold on every account of an entry, or on none.

    Args:
        entry: The entry.
        hold: What its call holds in the tree.
        never_waits: Whether it takes less output rather than to wait.
        looks_only: Whether it only tells what it would meet.

    Attributes:
        output_tokens: The output that was granted.
        blocked: Why it was not, or None.
    """

    __slots__ = ("blocked", "entry", "frees", "hold", "looks_only", "never_waits", "output_tokens")

    def __init__(self, entry: Booking, hold: Hold, *, never_waits: bool, looks_only: bool) -> None:
        self.entry: Booking = entry
        self.hold = hold
        self.never_waits = never_waits
        self.looks_only = looks_only
        self.output_tokens = hold.output_tokens
        self.blocked: Blocked | None = None
        self.frees = False

    def apply(self, pages: Pages) -> None:
        """Take it."""
        entry, hold = self.entry, self.hold
        lines: list[_Line] = []
        for account in entry.accounts:
            terms = pages.terms(account.name)
            declared = dict(account.budgets())
            if declared and terms.declared != declared:
                terms.declared = declared
                pages.keep_terms(account.name, terms)
            if terms.paused is not None:
                self.blocked = Blocked(account.name, paused=terms.paused)
                return
            for window, budget in {**declared, **terms.fixed}.items():
                limits = Limits.of(budget)
                if limits is not None:
                    start = start_of(window, entry.at_ns)
                    sheet = pages.sheet(account.name, window, start)
                    lines.append(_Line(account.name, window, start, sheet, limits))
        self.blocked = self._lower(lines)
        if self.blocked is None and not self.looks_only:
            output = self.output_tokens
            entry.input_cost = min(hold.cost, hold.charge_if_unknown())
            held = (hold.input_tokens, output, hold.cost_of(output), 1)
            move(pages, entry, held, NOTHING, NOTHING)
            pages.note(entry)

    def _lower(self, lines: Iterable[_Line]) -> Blocked | None:
        """Lower the output to what can ever fit; tell what has no room."""
        hold = self.hold
        least = min(hold.min_output, hold.output_tokens)
        rooms = [room for line in lines for room in _rooms(line)]
        is_unpriced = hold.is_unpriced and bool(hold.model or hold.input_tokens or hold.output_tokens)
        output = self.output_tokens
        for room in rooms:
            fits = output_that_fits(hold, room.limit, room.ever, self.output_tokens)
            if fits < least or (is_unpriced and room.limit == "max_usd"):
                return room.blocked(needed_of(hold, room.limit, least), is_ever=True)
            output = min(output, fits)
        if self.never_waits:
            # What is free now, as long as that is of use.
            for room in rooms:
                output = max(least, min(output, output_that_fits(hold, room.limit, room.now, output)))
        for room in rooms:
            needed = needed_of(hold, room.limit, output)
            if needed > room.now:
                return room.blocked(needed, is_ever=False)
        self.output_tokens = output
        return None


class _Room(NamedTuple):
    """Be what one limit of an account leaves: ever, and now that others hold what they hold."""

    line: _Line
    limit: str
    value: int
    ever: int
    now: int

    def blocked(self, needed: int, *, is_ever: bool) -> Blocked:
        """Tell that it is not enough."""
        line = self.line
        return Blocked(line.name, line.window, line.start, self.limit, self.value, line.sheet, needed, is_ever=is_ever)


def _rooms(line: _Line) -> Iterator[_Room]:
    sheet = line.sheet
    for limit, value in line.limits.items():
        if value is not None:
            ever = value - amount_of(limit, sheet.spent) - amount_of(limit, sheet.uncertain)
            yield _Room(line, limit, value, ever, ever - amount_of(limit, sheet.held))


class Settle(Change):
    """Replace what an entry holds, or was charged while its cost was unknown.

    Args:
        entry: The entry; one that was never granted is left alone.
        spent: What it is charged.
        uncertain: What stays set aside for it.
    """

    __slots__ = ("entry", "frees", "spent", "uncertain")

    def __init__(self, entry: Booking, spent: Amounts = NOTHING, uncertain: Amounts = NOTHING) -> None:
        self.entry: Booking = entry
        self.spent = spent
        self.uncertain = uncertain
        # What was never granted frees nothing: who waits must not wake others by being refused again.
        self.frees = False

    def apply(self, pages: Pages) -> None:
        """Replace it."""
        entry = self.entry
        if entry.state() == (NOTHING, NOTHING, NOTHING) and self.spent == NOTHING:
            return
        self.frees = True
        was_certain = entry.uncertain == NOTHING
        move(pages, entry, NOTHING, self.spent, self.uncertain)
        pages.forget(entry)
        if not was_certain or self.uncertain != NOTHING:
            pages.note_uncertain(entry)


class SetTerms(Change):
    """Change what holds for an account, by a function that is given its terms."""

    __slots__ = ("alter", "name")
    frees = True

    def __init__(self, name: str, alter: Callable[[Terms], None]) -> None:
        self.name = name
        self.alter = alter

    def apply(self, pages: Pages) -> None:
        """Change it."""
        terms = pages.terms(self.name)
        self.alter(terms)
        pages.keep_terms(self.name, terms)


class Book(ABC):
    """Take changes to the accounts of one ledger; whoever waits for room is woken when something changes.

    Attributes:
        is_shared: Whether other processes change it, too, so that who waits looks again from time to time.
        changes: How often room was given back in this process.
    """

    is_shared = False

    def __init__(self) -> None:
        self.changes = 0
        self._waiting: dict[object, Callable[[], object]] = {}

    @abstractmethod
    def put(self, change: Change) -> None:
        """Take a change, to be made soon, in the order in which they come; never waits.

        Raises:
            LedgerError: If the ledger is closed.
        """

    @abstractmethod
    def ticket(self) -> Ticket:
        """Return what waits until all changes so far are made, and durable."""

    @abstractmethod
    def states(self, now_ns: int) -> tuple[AccountState, ...]:
        """Return what is known of every account, by name, in the windows that run at *now_ns* since the epoch."""

    def call_when_changed(self, key: object, wake: Callable[[], object], seen: int) -> bool:
        """Have a waiting caller woken at the next change; tell whether it has changed *seen* times so far."""
        self._waiting[key] = wake
        if self.changes == seen:
            return True
        self.call_no_more(key)
        return False

    def call_no_more(self, key: object) -> None:
        """Let a caller go that waits no more."""
        self._waiting.pop(key, None)

    def tell_changed(self) -> None:
        """Wake everybody who waits, since there may be room."""
        self.changes += 1
        for wake in tuple(self._waiting.values()):
            wake()
