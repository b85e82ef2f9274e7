"""How activations went, by persona, step, model or day: what half of them and nearly all of them cost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from stepwarden.core._money import dollars
from stepwarden.core.errors import LedgerError

from ._columns import KINDS
from ._filtering import conditions
from ._rows import ReceiptFilter, Spread, StatsRow
from ._schema import FEW_HAVE

_KEYS = {"persona": "name", "step": "name", "model": "model", "day": "ended_at / 86400000"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Group:
    """Collect what the activations of one row have spent."""

    __slots__ = ("costs", "nested", "nested_tokens", "pressures", "ran_out", "runs", "tokens")

    def __init__(self) -> None:
        self.costs: list[int] = []
        self.tokens: list[int] = []
        self.pressures: list[int | None] = []
        self.runs: set[int] = set()
        self.ran_out = self.nested = self.nested_tokens = 0

    @property
    def cost(self) -> int:
        """What they spent without what counts elsewhere, in picodollars."""
        return sum(self.costs) - self.nested


def statistics(database: sqlite3.Connection, by: str, chosen: ReceiptFilter) -> tuple[StatsRow, ...]:
    """Group the receipts that are chosen, those that cost most first; arguments and errors as in `Reading.stats`."""
    if by not in _KEYS:
        raise ValueError(f"by must be one of {', '.join(_KEYS)}, not {by!r}")
    wanted = conditions(database, chosen)
    wanted["kind"] = ("kind = ?", (KINDS.index("persona" if by == "persona" else "step"),))
    where = " AND ".join(text for text, _ in wanted.values())
    values = tuple(value for _, given in wanted.values() for value in given)
    key = _KEYS[by]
    groups: dict[int | None, _Group] = {}
    adds: dict[int | None, tuple[Callable[[Any], None], ...]] = {}
    # As little as can be for each row, since there may be a million: what few rows have is asked for apart.
    query = f"SELECT {key}, run, cost, tokens, pressure FROM receipts WHERE {where}"  # noqa: S608
    for group, run, cost, tokens, pressure in database.execute(query, values):
        try:
            add_run, add_cost, add_tokens, add_pressure = adds[group]
        except KeyError:
            made = groups[group] = _Group()
            adds[group] = made.runs.add, made.costs.append, made.tokens.append, made.pressures.append
            add_run, add_cost, add_tokens, add_pressure = adds[group]
        add_run(run)
        add_cost(cost)
        add_tokens(tokens)
        add_pressure(pressure)
    rare = (
        f"SELECT {key}, sum(ran_out), sum(cost - coalesce(own_cost, cost)), sum(tokens - coalesce(own_tokens, tokens))"  # noqa: S608
        f" FROM receipts WHERE {where} AND {FEW_HAVE} GROUP BY 1"
    )
    for group, ran_out, nested, nested_tokens in database.execute(rare, values):
        if group in groups:  # else it was written between the two
            one = groups[group]
            one.ran_out = ran_out
            if by != "persona":  # a persona spends by its steps, and a step that is nested counts where it is listed
                one.nested, one.nested_tokens = nested, nested_tokens
    ordered = sorted(groups.items(), key=lambda item: item[1].cost, reverse=True)
    return tuple(_row(_name(database, by, group), one) for group, one in ordered)


def _name(database: sqlite3.Connection, by: str, key: int | None) -> str | None:
    if key is None:
        return None
    if by == "day":
        return (_EPOCH + timedelta(days=key)).date().isoformat()
    row = database.execute("SELECT text FROM names WHERE number = ?", (key,)).fetchone()
    if row is None:
        raise LedgerError(f"the ledger is damaged: its list of names has no number {key}")
    text: str = row[0]
    return text


def _row(key: str | None, group: _Group) -> StatsRow:
    count = len(group.costs)
    pressures = [pressure for pressure in group.pressures if pressure is not None]
    cost, tokens = dollars(group.cost), sum(group.tokens) - group.nested_tokens
    return StatsRow(
        key=key,
        activations=count,
        runs=len(group.runs),
        ran_out=min(1.0, group.ran_out / count),
        cost_usd=_spread(group.costs, dollars, cost),
        tokens=_spread(group.tokens, int, tokens),
        pressure=_spread(pressures, lambda used: used / 1_000, None) if pressures else None,
    )


def _spread(values: list[int], show: Callable[[int], Decimal | int | float], total: Any) -> Spread:
    values.sort()
    return Spread(show(_percentile(values, 50)), show(_percentile(values, 95)), total)


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the smallest value that at least *percent* of a hundred do not pass."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
