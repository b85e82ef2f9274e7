"""What lists and statistics are read from: the columns of a receipt and of a run, derived from their records."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from stepwarden.core._money import picodollars
from stepwarden.core._receipt import Status

STATUSES = tuple(Status)
"""By their number in the file; only ever added to."""
KINDS = ("step", "persona")
_RAN_OUT = frozenset({"skipped", "escalated"})
_MOST = 2**63 - 1
_NOTHING: Mapping[str, Any] = {}
_MOST_PRESSURE = 1_000_000


class ReceiptColumns(NamedTuple):
    """Be what is looked up of one receipt.

    Args:
        kind: Its number in `KINDS`.
        status: Its number in `STATUSES`.
        persona: The persona that it ran in, or None.
        name: The step's or persona's name.
        model: The last model, or None.
        ended_at: When it ended, in milliseconds since the epoch.
        cost: What it and everything under it spent, in picodollars.
        tokens: The same in tokens.
        own_cost: What it spent itself, in picodollars; None where that is all.
        own_tokens: The same in tokens.
        pressure: How much of its tightest limit was used, in thousandths, at most a million; None without a limit.
        ran_out: Whether a limit of its own or of a scope around it ended it, or was passed.
    """

    kind: int
    status: int
    persona: str | None
    name: str
    model: str | None
    ended_at: int
    cost: int
    tokens: int
    own_cost: int | None
    own_tokens: int | None
    pressure: int | None
    ran_out: bool


def columns_of(record: Mapping[str, Any], at_ns: int) -> ReceiptColumns:
    """Derive the columns of a receipt from its record.

    Args:
        record: The record's fields, as they were encoded or decoded.
        at_ns: The record's time, in nanoseconds since the epoch.
    """
    own = record.get("own") or _NOTHING
    total = record.get("total") or own
    cost, tokens = (cost_of(total), _tokens_of(total)) if total else (0, 0)
    own_cost, own_tokens = (cost, tokens) if own is total else (cost_of(own), _tokens_of(own))
    status = record.get("status", Status.COMPLETED)
    duration_ns = int(record["duration_ns"])
    started_ns = int(record.get("started_at", (at_ns - duration_ns) // 1_000 * 1_000))
    error = record.get("error")
    return ReceiptColumns(
        KINDS.index(record.get("scope", "step")),
        STATUSES.index(status),
        record.get("persona"),
        record["name"],
        record.get("model"),
        (started_ns + duration_ns) // 1_000_000,
        cost,
        tokens,
        None if own_cost == cost else own_cost,
        None if own_tokens == tokens else own_tokens,
        _pressure(record.get("budget"), total, duration_ns),
        status in _RAN_OUT or "overshoot" in record or (error is not None and error[0] == "BudgetExceededError"),
    )


def cost_of(usage: Mapping[str, Any]) -> int:
    """Return the cost of a usage in picodollars, at most what a column holds."""
    cost = usage.get("cost_usd")
    return 0 if cost is None else min(_MOST, picodollars(Decimal(cost), "cost_usd"))


def count_of(usage: Mapping[str, Any], name: str) -> int:
    """Return a number of a usage, at most what a column holds."""
    return min(_MOST, int(usage.get(name, 0)))


def _tokens_of(usage: Mapping[str, Any]) -> int:
    return min(_MOST, int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0)))


def _pressure(budget: Mapping[str, Any] | None, total: Mapping[str, Any], duration_ns: int) -> int | None:
    if not budget:
        return None
    tightest = 0
    for name, limit in budget.items():
        spent, most = _compared(name, limit, total, duration_ns)
        used = -(-1_000 * spent // most) if most else (_MOST_PRESSURE if spent else 0)
        tightest = max(tightest, used)
    return min(_MOST_PRESSURE, tightest)


def _compared(name: str, limit: Any, total: Mapping[str, Any], duration_ns: int) -> tuple[int, int]:
    if name == "max_usd":
        return cost_of(total), min(_MOST, picodollars(Decimal(limit), name))
    if name == "max_seconds":
        return duration_ns, int(Decimal(limit) * 1_000_000_000)
    if name == "max_tokens":
        return _tokens_of(total), int(limit)
    return count_of(total, name.removeprefix("max_")), int(limit)
