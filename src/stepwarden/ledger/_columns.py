"""What lists and statistics are read from: the columns of a receipt and of a run, derived from their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from stepwarden.core._money import picodollars
from stepwarden.core._receipt import Status

from ._receipt_record import Limited, ReceiptRecord, Spent

STATUSES = tuple(Status)
"""By their number in the file; only ever added to."""
KINDS = ("step", "persona")
_STATUSES: dict[str, int] = {status.value: number for number, status in enumerate(STATUSES)}
_RAN_OUT = frozenset({"skipped", "escalated"})
_NOTHING = Spent()
_MOST = 2**63 - 1
_MOST_PRESSURE = 1_000_000
_REMEMBERED = 100_000
_pico_of: dict[str, int] = {}


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


def row_of(record: ReceiptRecord, key: int, number_of: Callable[[str | None], int | None]) -> tuple[Any, ...]:
    """Derive the row of a receipt from its record.

    Written out for speed, and plain: every receipt that is written comes by here, and every one that is verified.

    Args:
        record: The record.
        key: What comes first in the row.
        number_of: Gives the number of a name, and None for None.

    Returns:
        That, and then what `ReceiptColumns` has, its names by their numbers.
    """
    own, total = record.own, record.total
    own_cost = own_tokens = None
    if total is None:
        total = own or _NOTHING
    elif own is not None:
        own_cost, own_tokens = _pico(own.cost_usd), _tokens_of(own)
    else:
        own_cost = own_tokens = 0
    cost = _pico_of.get(total.cost_usd)
    if cost is None:
        cost = _pico(total.cost_usd)
    tokens = _tokens_of(total)
    duration_ns = int(record.duration_ns)
    started = record.started_at
    started_ns = (int(record.at) - duration_ns) // 1_000 * 1_000 if started is None else int(started)
    status, error, budget = record.status, record.error, record.budget
    return (
        key,
        0 if record.scope == "step" else 1,
        _STATUSES[status],
        number_of(record.persona),
        number_of(record.name),
        number_of(record.model),
        (started_ns + duration_ns) // 1_000_000,
        cost,
        tokens,
        None if own_cost == cost else own_cost,
        None if own_tokens == tokens else own_tokens,
        None if budget is None else _pressure(budget, total, cost, tokens, duration_ns),
        status in _RAN_OUT or record.overshoot is not None or (error is not None and error[0] == "BudgetExceededError"),
    )


def cost_of(usage: Mapping[str, Any]) -> int:
    """Return the cost of a usage in picodollars, at most what a column holds."""
    cost = usage.get("cost_usd")
    return 0 if cost is None else _pico(cost)


def count_of(usage: Mapping[str, Any], name: str) -> int:
    """Return a number of a usage, at most what a column holds."""
    return min(_MOST, int(usage.get(name, 0)))


def _tokens_of(spent: Spent) -> int:
    tokens = int(spent.input_tokens) + int(spent.output_tokens)
    return min(_MOST, tokens)


def _pico(text: str) -> int:
    known = _pico_of.get(text)
    if known is None:
        if len(_pico_of) >= _REMEMBERED:
            _pico_of.clear()
        known = _pico_of[text] = min(_MOST, picodollars(Decimal(text), "cost_usd"))
    return known


def _pressure(budget: Limited, total: Spent, cost: int, tokens: int, duration_ns: int) -> int:
    # Written out, since most budgets have one limit or two, and every receipt that is written or verified comes by.
    tightest = 0
    limit = budget.max_usd
    if limit is not None:
        tightest = _used(cost, _pico(limit))
    count = budget.max_tokens
    if count is not None:
        tightest = max(tightest, _used(tokens, int(count)))
    if budget.max_calls is not None:
        tightest = max(tightest, _used(int(total.calls), int(budget.max_calls)))
    if budget.max_seconds is not None:
        tightest = max(tightest, _used(duration_ns, int(Decimal(budget.max_seconds) * 1_000_000_000)))
    if budget.max_input_tokens is not None:
        tightest = max(tightest, _used(int(total.input_tokens), int(budget.max_input_tokens)))
    if budget.max_output_tokens is not None:
        tightest = max(tightest, _used(int(total.output_tokens), int(budget.max_output_tokens)))
    if budget.max_tool_calls is not None:
        tightest = max(tightest, _used(int(total.tool_calls), int(budget.max_tool_calls)))
    return min(_MOST_PRESSURE, tightest)


def _used(spent: int, limit: int) -> int:
    if limit:
        return -(-1_000 * spent // limit)
    return _MOST_PRESSURE if spent else 0
