"""After a crash: the runs of processes that have died are accounted for, and ended as abandoned."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwarden.core._budget import Usage
from stepwarden.core.errors import LedgerError

from ._account_pages import SQLitePages
from ._entry import Chain, Entry
from ._lock import claim, names
from ._log import between, of_run
from ._packed import unpack
from ._record import decode, receipt_fields
from ._remains import Remains
from ._schema import SEQ_BITS
from ._store import SQLiteStore, open_database


@dataclass(frozen=True, slots=True)
class RecoveredRun:
    """Tell of a run whose process had died.

    Args:
        id: Its id.
        name: Its name.
        total: What it had spent.
        uncertain: What is set aside for calls that were in flight, or whose cost never became known.
        in_flight: How many calls were in flight.
        abandoned: How many steps and personas were open.
    """

    id: str
    name: str
    total: Usage
    uncertain: Usage
    in_flight: int
    abandoned: int


def recover(path: str | os.PathLike[str]) -> tuple[RecoveredRun, ...]:
    """Account for the runs of processes that have died; never touch one that a living process has open.

    Each call that was in flight is charged its input as estimated and the rest as uncertain, each scope that was
    open gets its receipt, and the run ends, all with the status abandoned.

    Args:
        path: The ledger's file.

    Returns:
        The runs that were recovered, in the order in which they began.

    Raises:
        LedgerError: If there is no such file, or it cannot be read or written.
    """
    file = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays a link
    if not file.exists():
        raise LedgerError(f"there is no ledger at {path}")
    database = open_database(file, "full")
    try:
        return recover_in(database, file)
    finally:
        database.close()


def recover_in(database: sqlite3.Connection, path: Path) -> tuple[RecoveredRun, ...]:
    """Do the same in a file that is open; arguments and errors as in `recover`."""
    try:
        # A run may have ended, and its process died before the last settlement was in its accounts.
        query = (
            "SELECT process FROM runs WHERE ended_at IS NULL UNION SELECT process FROM account_holds"
            " UNION SELECT process FROM account_uncertain WHERE process IS NOT NULL"
        )
        open_in = {process for (process,) in database.execute(query)}
        recovered: list[tuple[int, RecoveredRun]] = []
        for process in sorted(open_in | set(names(path))):
            with claim(path, process) as is_dead:
                if is_dead and process in open_in:
                    recovered += _bury(database, process)
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path} cannot be recovered: {error}") from error
    except LedgerError as error:
        raise LedgerError(f"{path} is damaged: {error}") from error
    return tuple(run for _, run in sorted(recovered, key=lambda found: found[0]))


def _bury(database: sqlite3.Connection, process: str) -> list[tuple[int, RecoveredRun]]:
    database.execute("BEGIN IMMEDIATE")
    try:
        # The inner ones first, since what they spent is part of the outer ones' totals.
        query = "SELECT number, id, name FROM runs WHERE process = ? AND ended_at IS NULL ORDER BY number DESC"
        runs = database.execute(query, (process,)).fetchall()
        recovered = [(number, _end(database, number, run, name, process)) for number, run, name in runs]
        SQLitePages(database, process).bury()
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    return recovered


def _end(database: sqlite3.Connection, number: int, run: str, name: str, process: str) -> RecoveredRun:
    remains = Remains(run)
    chain = Chain(run, process)
    chain.row = number
    unlisted = []
    start = number << SEQ_BITS
    bounds = between(start, start + (1 << SEQ_BITS) - 1)
    for key, head, stored, place in database.execute(of_run("head, data, records.place"), bounds):
        data = unpack(stored, run)
        record = _decoded(run, key - start, data)
        remains.add(record)
        if record["kind"] == "receipt":
            unlisted.append((place, number, data))
        chain.head, chain.count = head, key - start + 1
    for child, child_id in database.execute("SELECT number, id FROM runs WHERE parent = ?", (run,)).fetchall():
        remains.add_child(*_ends_of(database, child, child_id, run))
    now = time.time_ns()
    in_flight = remains.settle()
    entries = [Entry(chain, "settlement", now, fields) for fields in in_flight]
    receipts = remains.receipts()
    entries += [Entry(chain, "receipt", now, receipt_fields(receipt)) for receipt in receipts]
    entries.append(Entry(chain, "run_ended", now, remains.end()))
    store = SQLiteStore(database, f"run {run}")
    _, listed = store.write(entries)
    store.put_on_lists([*unlisted, *listed])
    return RecoveredRun(run, name, remains.total, remains.uncertain, len(in_flight), len(receipts))


def _ends_of(database: sqlite3.Connection, number: int, child: str, run: str) -> tuple[Any, Any]:
    """Return the first and the last record of a run inside *run*."""
    start = number << SEQ_BITS
    bounds = between(start, start + (1 << SEQ_BITS) - 1, 1)
    first = database.execute(of_run("data"), bounds).fetchone()
    last = database.execute(of_run("data", last_first=True), bounds).fetchone()
    return tuple(_decoded(f"{number} in {run}", key - start, unpack(data, child)) for key, data in (first, last))


def _decoded(run: str, seq: int, data: bytes) -> Any:
    try:
        return decode(data)
    except LedgerError as error:
        raise LedgerError(f"record {seq} of run {run} cannot be read: {error}") from error
