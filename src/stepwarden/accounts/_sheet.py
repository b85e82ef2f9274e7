"""What a book of accounts is written in: sheets of numbers, terms, and the calls that are entered there."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from stepwarden.core._account import WINDOWS, Account
from stepwarden.core._budget import Budget, Usage
from stepwarden.core._funds import NOTHING, Amounts
from stepwarden.core._money import dollars

from ._window import AccountState, WindowState, start_of, time_of


@dataclass(slots=True, eq=False)
class Sheet:
    """Be the numbers of one account in one window, each as input tokens, output tokens, picodollars and calls."""

    spent: Amounts = NOTHING
    held: Amounts = NOTHING
    uncertain: Amounts = NOTHING


@dataclass(slots=True, eq=False)
class Terms:
    """Be what holds for an account whoever asks: the limits that were declared last or set, and whether it is paused.

    Args:
        declared: The limits of each window as they were declared last.
        fixed: Those that an operator has set, which come first.
        paused: Why it is paused, or None.
    """

    declared: dict[str, Budget] = field(default_factory=dict)
    fixed: dict[str, Budget] = field(default_factory=dict)
    paused: str | None = None


class Pages(Protocol):
    """Keep a book where its ledger keeps what it has; used while one change is made, and by nobody else meanwhile."""

    def names(self) -> list[str]:
        """Return the names of all accounts, sorted."""

    def terms(self, name: str) -> Terms:
        """Return the terms of an account; those of one that is new are empty."""

    def keep_terms(self, name: str, terms: Terms) -> None:
        """Keep them."""

    def sheet(self, name: str, window: str, start: int) -> Sheet:
        """Return the numbers of a window; *start* is in seconds since the epoch."""

    def keep_sheet(self, name: str, window: str, start: int, sheet: Sheet) -> None:
        """Keep them."""

    def note(self, entry: Booking) -> None:
        """Keep an open hold, so that it is not lost with its process."""

    def forget(self, entry: Booking) -> None:
        """Forget it: it is over."""

    def note_uncertain(self, entry: Booking) -> None:
        """Keep what is uncertain of a hold that is over, or forget it where nothing is any more."""


class Booking:
    """Be one call on the accounts of one book: what it holds, and what it was charged.

    Args:
        accounts: The accounts, outermost first; one name may stand there with several limits.
        at_ns: When it was taken, in nanoseconds since the epoch: it belongs to the windows of that time for good.
    """

    __slots__ = ("accounts", "at_ns", "held", "input_cost", "key", "spent", "uncertain")

    def __init__(self, accounts: tuple[Account, ...], at_ns: int) -> None:
        self.key = os.urandom(10).hex()
        self.accounts = accounts
        self.at_ns = at_ns
        self.held = self.spent = self.uncertain = NOTHING
        # What is charged for it if its process dies before its cost is known, in picodollars.
        self.input_cost = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its accounts, each once."""
        return tuple(dict.fromkeys(account.name for account in self.accounts))

    def state(self) -> tuple[Amounts, Amounts, Amounts]:
        """Return what changes in it, to be put back where a change was not kept."""
        return self.held, self.spent, self.uncertain

    def put_back(self, state: tuple[Amounts, Amounts, Amounts]) -> None:
        """Make it what it was."""
        self.held, self.spent, self.uncertain = state


@dataclass(slots=True, eq=False)
class Blocked:
    """Tell why an account gives no hold.

    Args:
        name: The account.
        window: The window without room; empty where it is paused.
        start: When that began, in seconds since the epoch.
        limit: The `Budget` field without room.
        value: That limit, in internal units.
        sheet: The numbers of the window.
        needed: The least that would be accepted, in internal units.
        is_ever: Whether what is spent leaves no room, so that waiting is of no use.
        paused: Why it is paused, or None.

    Attributes:
        changes: How often the book had changed when this was found.
    """

    name: str
    window: str = ""
    start: int = 0
    limit: str = ""
    value: int = 0
    sheet: Sheet = field(default_factory=Sheet)
    needed: int = 0
    _: KW_ONLY
    is_ever: bool = True
    paused: str | None = None
    changes: int = field(default=0, init=False)


def move(pages: Pages, entry: Booking, held: Amounts, spent: Amounts, uncertain: Amounts) -> None:
    """Make an entry's amounts these, in every window that it belongs to."""
    for name in entry.names:
        for window in WINDOWS:
            start = start_of(window, entry.at_ns)
            sheet = pages.sheet(name, window, start)
            sheet.held = _instead(sheet.held, entry.held, held)
            sheet.spent = _instead(sheet.spent, entry.spent, spent)
            sheet.uncertain = _instead(sheet.uncertain, entry.uncertain, uncertain)
            pages.keep_sheet(name, window, start, sheet)
    entry.put_back((held, spent, uncertain))


def _instead(total: Amounts, old: Amounts, new: Amounts) -> Amounts:
    return (
        total[0] - old[0] + new[0], total[1] - old[1] + new[1],
        total[2] - old[2] + new[2], total[3] - old[3] + new[3],
    )  # fmt: skip


def amount_of(limit: str, amounts: Amounts) -> int:
    """Return how much of *limit* amounts are, in internal units."""
    match limit:
        case "max_tokens":
            return amounts[0] + amounts[1]
        case "max_input_tokens":
            return amounts[0]
        case "max_output_tokens":
            return amounts[1]
        case "max_usd":
            return amounts[2]
    return amounts[3]


def usage_of(amounts: Amounts) -> Usage:
    """Return amounts as users see them."""
    return Usage(input_tokens=amounts[0], output_tokens=amounts[1], cost_usd=dollars(amounts[2]), calls=amounts[3])


def state_of(pages: Pages, name: str, now_ns: int) -> AccountState:
    """Return what is known of an account in the windows that run at a time."""
    terms = pages.terms(name)
    windows = []
    for window in WINDOWS:
        start = start_of(window, now_ns)
        sheet = pages.sheet(name, window, start)
        budget = terms.fixed.get(window, terms.declared.get(window, Budget()))
        amounts = (usage_of(sheet.spent), usage_of(sheet.uncertain), usage_of(sheet.held))
        windows.append(WindowState(window, time_of(start), budget, window in terms.fixed, *amounts))
    return AccountState(name, terms.paused, tuple(windows))
