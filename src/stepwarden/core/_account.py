"""Accounts: budgets that outlive a run, as they are declared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._budget import Budget, Limits, parse_budget, parse_name
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
