"""Accounts: budgets that outlive a run, by window of time, and what their numbers are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ._budget import Budget, Limits, Usage, parse_budget, parse_name
from ._unknown import refuse_unknown_keys
from .errors import DefinitionError

WINDOWS = {"total": 0, "daily": 86_400, "hourly": 3_600}
"""Each window and its length in seconds; 0 is without end. All begin at a whole one in UTC."""
TENANT = "tenant:"
"""What the name of a tenant's account begins with."""


@dataclass(frozen=True, slots=True, init=False)
class Account:
    """Declare a budget that outlives a run: in total, per day and per hour, in UTC.

    The ledger keeps its numbers under its name, so every run and process that names it in the same ledger shares it.
    Limits that an operator has set there (``stepwarden accounts set``) override those that are declared here.

    Example:
        >>> Account("triage_captain", daily=Budget(max_usd=20)).daily.max_usd
        Decimal('20')

    Args:
        name: Its name in the ledger.
        total: Its limits in total.
        daily: Its limits for each day.
        hourly: Its limits for each hour.

    Raises:
        DefinitionError: If a field is invalid; an account has no *max_seconds* and no *max_tool_calls*.
    """

    name: str
    total: Budget | None
    daily: Budget | None
    hourly: Budget | None

    def __init__(
        self,
        name: str,
        *,
        total: Budget | Mapping[str, Any] | None = None,
        daily: Budget | Mapping[str, Any] | None = None,
        hourly: Budget | Mapping[str, Any] | None = None,
    ) -> None:
        object.__setattr__(self, "name", parse_name(name, "account.name"))
        for window, given in (("total", total), ("daily", daily), ("hourly", hourly)):
            object.__setattr__(self, window, parse_account_budget(given, f"account.{window}"))

    def budgets(self) -> Iterator[tuple[str, Budget]]:
        """Give each window that has limits, with them."""
        for window in WINDOWS:
            budget = getattr(self, window)
            if Limits.of(budget) is not None:
                yield window, budget


def parse_account_budget(value: object, path: str) -> Budget | None:
    """Read the limits of one window; *path* is the name that an error message uses for it."""
    budget = parse_budget(value, path)
    for field in ("max_seconds", "max_tool_calls"):
        if budget is not None and getattr(budget, field) is not None:
            raise DefinitionError(f"{path}.{field} cannot be limited in an account, which counts model calls only")
    return budget


def parse_accounts(value: object, path: str) -> tuple[Account, ...]:
    """Read a list of accounts, each an `Account` or a mapping of its fields."""
    if isinstance(value, str | bytes | Mapping | Account) or not isinstance(value, Iterable):
        raise DefinitionError(f"{path} must be a list of Account, not {value!r}")
    parsed: list[Account] = []
    for one in value:
        account = one
        if isinstance(one, Mapping):
            refuse_unknown_keys(f"{path}[{len(parsed)}]", one, ("name", *WINDOWS))
            account = Account(**{"name": None, **one})
        if not isinstance(account, Account):
            raise DefinitionError(f"{path} must be a list of Account, and has {one!r}")
        parsed.append(account)
    return tuple(parsed)


def start_of(window: str, at_ns: int) -> int:
    """Return when the window began in which a time lies, in seconds since the epoch; *at_ns* is nanoseconds."""
    length = WINDOWS[window]
    return at_ns // 1_000_000_000 // length * length if length else 0


@dataclass(frozen=True, slots=True)
class WindowState:
    """Tell of an account in one window.

    Args:
        window: ``"total"``, ``"daily"`` or ``"hourly"``.
        since: When it began (UTC); None for the one without end.
        budget: The limits in force.
        is_set: Whether an operator set them; else they were declared.
        spent: What was spent in it.
        uncertain: What is set aside for calls whose cost never became known.
        held: What open calls hold.
    """

    window: str
    since: datetime | None
    budget: Budget
    is_set: bool
    spent: Usage
    uncertain: Usage
    held: Usage


@dataclass(frozen=True, slots=True)
class AccountState:
    """Tell of an account.

    Args:
        name: Its name.
        paused: Why it is paused, which may be empty; None where it is not.
        windows: Its numbers in the windows that are running.
    """

    name: str
    paused: str | None
    windows: tuple[WindowState, ...]


def time_of(start: int) -> datetime | None:
    """Return the beginning of a window as a time, or None of the one without."""
    return datetime.fromtimestamp(start, UTC) if start else None
