"""How activations went, by persona, step, model or day: what half of them and nearly all of them cost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from stepwarden.core._money import dollars

from ._columns import KINDS
from ._filtering import conditions
from ._rows import ReceiptFilter, Spread, StatsRow
from ._schema import SEQ_BITS

_KEYS = {"persona": "name", "step": "name", "model": "model", "day": "ended_at / 86400000"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS_AT_ONCE = 10_000


class _Group:
    """Collect what the activations of one row have spent."""

    __slots__ = ("costs", "own_cost", "own_tokens", "pressures", "ran_out", "runs", "tokens")

    def __init__(self) -> None:
        self.costs: list[int] = []
        self.tokens: list[int] = []
        self.pressures: list[int] = []
        self.own_cost = self.own_tokens = self.ran_out = 0
        self.runs: set[int] = set()


def statistics(database: sqlite3.Connection, by: str, chosen: ReceiptFilter) -> tuple[StatsRow, ...]:
    """Group the receipts that are chosen, those that cost most first; arguments and errors as in `Reading.stats`."""
    if by not in _KEYS:
        raise ValueError(f"by must be one of {', '.join(_KEYS)}, not {by!r}")
    wanted = conditions(database, chosen)
    wanted["kind"] = ("kind = ?", (KINDS.index("persona" if by == "persona" else "step"),))
    where = " AND ".join(text for text, _ in wanted.values())
    query = (
        f"SELECT {_KEYS[by]}, record >> {SEQ_BITS}, cost, tokens, coalesce(own_cost, cost),"  # noqa: S608 - written here
        f" coalesce(own_tokens, tokens), pressure, ran_out FROM receipts WHERE {where}"
    )
    groups: dict[int | None, _Group] = {}
    cursor = database.execute(query, tuple(value for _, values in wanted.values() for value in values))
    while found := cursor.fetchmany(_ROWS_AT_ONCE):
        for key, run, cost, tokens, own_cost, own_tokens, pressure, ran_out in found:
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group()
            group.costs.append(cost)
            group.tokens.append(tokens)
            group.own_cost += own_cost
            group.own_tokens += own_tokens
            group.ran_out += ran_out
            group.runs.add(run)
            if pressure is not None:
                group.pressures.append(pressure)
    ordered = sorted(groups.items(), key=lambda item: item[1].own_cost, reverse=True)
    return tuple(_row(_name(database, by, key), group) for key, group in ordered)


def _name(database: sqlite3.Connection, by: str, key: int | None) -> str | None:
    if key is None:
        return None
    if by == "day":
        return (_EPOCH + timedelta(days=key)).date().isoformat()
    text: str = database.execute("SELECT text FROM names WHERE number = ?", (key,)).fetchone()[0]
    return text


def _row(key: str | None, group: _Group) -> StatsRow:
    count = len(group.costs)
    return StatsRow(
        key=key,
        activations=count,
        runs=len(group.runs),
        ran_out=group.ran_out / count,
        cost_usd=_spread(group.costs, dollars, dollars(group.own_cost)),
        tokens=_spread(group.tokens, int, group.own_tokens),
        pressure=_spread(group.pressures, lambda used: used / 1_000, None) if group.pressures else None,
    )


def _spread(values: list[int], show: Callable[[int], Decimal | int | float], total: Any) -> Spread:
    values.sort()
    return Spread(show(_percentile(values, 50)), show(_percentile(values, 95)), total)


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the smallest value that at least *percent* of a hundred do not pass."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
