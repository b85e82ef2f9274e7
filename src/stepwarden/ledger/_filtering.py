"""A page of receipts as SQL: whatever is asked for, the index that leaves least to look at."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

from stepwarden.core._money import picodollars
from stepwarden.core._receipt import Status

from ._columns import KINDS, STATUSES
from ._rows import Cursor, ReceiptFilter

Condition = tuple[str, tuple[Any, ...]]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FEW = 2_000
"""What can be sorted in no time; more than that is walked in the order of time."""
_NONE = ("0", ())
_NOT_INDEXED = frozenset({"completed", "kind", "model"})


def conditions(database: sqlite3.Connection, chosen: ReceiptFilter) -> dict[str, Condition]:
    """Write what receipts are chosen by as SQL, each condition under the column that it is about.

    Raises:
        ValueError: If a kind or status is unknown.
    """
    found: dict[str, Condition] = {}
    if chosen.run is not None:
        row = database.execute("SELECT number FROM runs WHERE id = ?", (chosen.run,)).fetchone()
        found["run"] = _NONE if row is None else ("run = ?", row)
    for column, text in (("persona", chosen.persona), ("name", chosen.name), ("model", chosen.model)):
        if text is not None:
            row = database.execute("SELECT number FROM names WHERE text = ?", (text,)).fetchone()
            found[column] = _NONE if row is None else (f"{column} = ?", row)
    numbered = (("status", chosen.status, STATUSES), ("kind", chosen.kind, KINDS))
    for column, value, known in numbered:
        if value is not None:
            if value not in known:
                raise ValueError(f"{column} must be one of {', '.join(known)}, not {value!r}")
            found[column] = (f"{column} = ?", (known.index(value),))
    if chosen.status == Status.COMPLETED:
        found["completed"] = found.pop("status")  # nearly all of them are, and the index has the others
    elif chosen.status is not None:
        found["status"] = (f"{found['status'][0]} AND status <> 0", found["status"][1])
    found |= _ranges(chosen)
    return found


def _ranges(chosen: ReceiptFilter) -> dict[str, Condition]:
    found: dict[str, Condition] = {}
    least = None if chosen.min_cost_usd is None else picodollars(chosen.min_cost_usd, "min_cost_usd")
    most = None if chosen.max_cost_usd is None else picodollars(chosen.max_cost_usd, "max_cost_usd")
    bounds = (
        ("cost", least, most),
        ("ended_at", _milliseconds(chosen.since, "since", up=True), _milliseconds(chosen.until, "until", up=False)),
    )
    for column, low, high in bounds:
        parts = [(f"{column} >= ?", low), (f"{column} <= ?", high)]
        given = [(text, value) for text, value in parts if value is not None]
        if given:
            found[column] = (" AND ".join(text for text, _ in given), tuple(value for _, value in given))
    return found


def _milliseconds(time: datetime | None, name: str, *, up: bool) -> int | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"{name} must have a time zone, and {time.isoformat()} has none")
    microseconds = (time - _EPOCH) // _MICROSECOND
    return -(-microseconds // 1_000) if up else microseconds // 1_000


def page_of(
    database: sqlite3.Connection, chosen: ReceiptFilter, limit: int, after: Cursor | None
) -> tuple[str, tuple[Any, ...]]:
    """Write the query for a page: its place, pressure, whether it ran out, position in the list, data and run of each.

    Args:
        database: Where the names are looked up, and how many each condition leaves.
        chosen: Which receipts.
        limit: The most of them.
        after: Where the page before ended, or None.
    """
    wanted = conditions(database, chosen)
    # Of one run, in the order of its records: it may be long, and its index has that order.
    position, index = ("place", "run") if "run" in wanted else ("ended_at", "ended_at")
    index = _index(database, wanted, index)
    texts, values = [text for text, _ in wanted.values()], [value for _, given in wanted.values() for value in given]
    if after is not None:
        texts.append(f"({position}, place) < (?, ?)")
        values += after
    where = f"WHERE {' AND '.join(texts)}" if texts else ""
    query = (
        f"SELECT place, pressure, ran_out, {position}, data,"  # noqa: S608 - the names are written here
        f" (SELECT id FROM runs WHERE number = run) FROM receipts INDEXED BY receipts_by_{index}"
        f" CROSS JOIN records USING (place) {where} ORDER BY {position} DESC, place DESC LIMIT ?"
    )
    return query, (*values, limit)


def _index(database: sqlite3.Connection, wanted: dict[str, Condition], ordered: str) -> str:
    best, fewest = ordered, _FEW
    for column, (text, values) in wanted.items():
        if column in _NOT_INDEXED:
            continue
        query = f"SELECT count(*) FROM (SELECT 1 FROM receipts WHERE {text} LIMIT ?)"  # noqa: S608 - written above
        number = database.execute(query, (*values, _FEW)).fetchone()[0]
        if number < fewest:
            best, fewest = column, number
    if best == ordered == "ended_at" and fewest == _FEW:
        # All of them are many: one that keeps the order of time leaves the most out.
        best = next((column for column in ("status", "name", "persona") if column in wanted), ordered)
    return best
