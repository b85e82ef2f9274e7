"""Where records lie in the file: all runs' together, in the order in which they came, and each run's found by its keys.

Runs at once would otherwise write a page each for one record each. What tells where a run's records are, its `places`,
follows for hundreds of them at a time, one row for those that lie together; the records behind the last one that has a
place are few, and are looked through.
"""

from __future__ import annotations

import sqlite3

_UNPLACED = "place > (SELECT upto FROM placed)"
_FIRST_WITH_ANY = "coalesce((SELECT max(key) FROM places WHERE key <= :first), :first)"
HIDDEN = (
    f"NOT {_UNPLACED} AND NOT EXISTS (SELECT 1 FROM places"  # noqa: S608 - constants
    " WHERE places.key = (SELECT max(key) FROM places WHERE key <= records.key)"
    " AND records.place - places.place = records.key - places.key AND records.key - places.key < places.count)"
)
"""Chooses records that no run shows, of which there are none where nobody tampered with the file."""


def of_run(columns: str, *, last_first: bool = False) -> str:
    """Write the query for the records of a run in order, to be asked with `between`.

    Args:
        columns: What of them, after their keys.
        last_first: Whether the order is the opposite one.
    """
    order = "DESC" if last_first else "ASC"
    placed = (
        f"SELECT places.key + records.place - places.place AS key, {columns}"  # noqa: S608 - all of it is written in this package
        " FROM places CROSS JOIN records ON records.place BETWEEN"
        " places.place + max(0, :first - places.key) AND places.place + min(count - 1, :last - places.key)"
        f" WHERE places.key BETWEEN {_FIRST_WITH_ANY} AND :last"
        f" ORDER BY places.key {order}, records.place {order} LIMIT :limit"
    )
    unplaced = (
        f"SELECT key, {columns} FROM records WHERE {_UNPLACED} AND key BETWEEN :first AND :last"  # noqa: S608 - the same
        f" ORDER BY place {order} LIMIT :limit"
    )
    before, after = (unplaced, placed) if last_first else (placed, unplaced)
    return f"SELECT * FROM ({before}) UNION ALL SELECT * FROM ({after}) LIMIT :limit"  # noqa: S608 - the same


def between(first: int, last: int, limit: int = -1) -> dict[str, int]:
    """Return what `of_run` is asked with: the least and the largest key, and how many at most, -1 for all."""
    return {"first": first, "last": last, "limit": limit}


def place_all(database: sqlite3.Connection) -> None:
    """Give every record a place, whichever process wrote it, inside a transaction that is open."""
    # Those that lie together are as far from each other by key. One whose key is there already was not written here,
    # and is left to be found by whoever verifies.
    database.execute(
        "INSERT INTO places(key, place, count) SELECT min(key), min(place), count(*) FROM records"  # noqa: S608 - a constant
        f" WHERE {_UNPLACED} GROUP BY key - place ON CONFLICT DO NOTHING"
    )
    database.execute("UPDATE placed SET upto = (SELECT coalesce(max(place), 0) FROM records)")
