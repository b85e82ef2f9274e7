"""What is in a ledger's file: its tables, made by a list of functions of which each runs once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from stepwarden.core.errors import LedgerError

from ._log import place_all

APPLICATION = 0x73746570
"""SQLite's mark of whose file it is: the letters ``step``."""
SEQ_BITS = 32
"""A record's key is its run's number and its own: a run's records have one key after the other."""
FEW_HAVE = "(ran_out OR own_cost IS NOT NULL OR own_tokens IS NOT NULL)"
"""What few receipts have, and statistics ask for apart; written alike in the index and in the question."""


def runs_and_records(database: sqlite3.Connection) -> None:
    """Make the tables that hold what cannot be made anew: the runs and their records."""
    database.execute(
        """CREATE TABLE runs(
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            parent TEXT,
            name TEXT NOT NULL,
            tenant TEXT,
            process TEXT NOT NULL,
            started_at INTEGER NOT NULL,
            ended_at INTEGER,
            status TEXT,
            input_tokens INTEGER NOT NULL DEFAULT 0,
            output_tokens INTEGER NOT NULL DEFAULT 0,
            calls INTEGER NOT NULL DEFAULT 0,
            cost INTEGER NOT NULL DEFAULT 0,
            count INTEGER NOT NULL DEFAULT 0,
            head BLOB,
            signature TEXT
        ) STRICT"""
    )
    database.execute("CREATE TABLE records(key INTEGER PRIMARY KEY, head BLOB NOT NULL, data BLOB NOT NULL) STRICT")


def receipts_to_look_up(database: sqlite3.Connection) -> None:
    """Make what lists and statistics are read from: a few columns of each receipt, derived from its record."""
    database.execute("CREATE TABLE names(number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT")
    database.execute(
        """CREATE TABLE receipts(
            number INTEGER PRIMARY KEY,
            record INTEGER NOT NULL REFERENCES records,
            kind INTEGER NOT NULL,
            status INTEGER NOT NULL,
            persona INTEGER REFERENCES names,
            name INTEGER NOT NULL REFERENCES names,
            model INTEGER REFERENCES names,
            ended_at INTEGER NOT NULL,
            cost INTEGER NOT NULL,
            tokens INTEGER NOT NULL,
            own_cost INTEGER,
            own_tokens INTEGER,
            pressure INTEGER,
            ran_out INTEGER NOT NULL
        ) STRICT"""
    )
    database.execute("CREATE UNIQUE INDEX receipts_by_record ON receipts(record)")
    look_up_receipts(database)
    database.execute("CREATE INDEX runs_open ON runs(process) WHERE ended_at IS NULL")
    database.execute("CREATE INDEX runs_by_parent ON runs(parent) WHERE parent IS NOT NULL")


def look_up_receipts(database: sqlite3.Connection) -> None:
    """Make the indexes of the table of receipts."""
    # Lists are in the order of time, so what they are filtered by is looked up in that order.
    for column in ("persona", "name"):
        database.execute(f"CREATE INDEX receipts_by_{column} ON receipts({column}, ended_at)")
    # Nearly all are completed.
    database.execute("CREATE INDEX receipts_by_status ON receipts(status, ended_at) WHERE status <> 0")
    for column in ("ended_at", "cost"):
        database.execute(f"CREATE INDEX receipts_by_{column} ON receipts({column})")
    database.execute(f"CREATE INDEX receipts_with_more ON receipts(kind) WHERE {FEW_HAVE}")


def accounts(database: sqlite3.Connection) -> None:
    """Make the tables of accounts: their terms, their numbers in each window, and the holds that are open on them."""
    database.execute(
        "CREATE TABLE accounts(name TEXT PRIMARY KEY, declared TEXT NOT NULL, fixed TEXT NOT NULL, paused TEXT)"
        " STRICT, WITHOUT ROWID"
    )
    # Four numbers each: input tokens, output tokens, picodollars, calls.
    database.execute(
        """CREATE TABLE account_windows(
            account TEXT NOT NULL,
            window TEXT NOT NULL,
            start INTEGER NOT NULL,
            spent TEXT NOT NULL,
            held TEXT NOT NULL,
            uncertain TEXT NOT NULL,
            PRIMARY KEY(account, window, start)
        ) STRICT, WITHOUT ROWID"""
    )
    database.execute(
        """CREATE TABLE account_holds(
            key TEXT PRIMARY KEY,
            process TEXT NOT NULL,
            accounts TEXT NOT NULL,
            at TEXT NOT NULL,
            held TEXT NOT NULL,
            input_cost TEXT NOT NULL
        ) STRICT, WITHOUT ROWID"""
    )
    database.execute("CREATE INDEX account_holds_by_process ON account_holds(process)")


def records_as_they_came(database: sqlite3.Connection) -> None:
    """Put the records of all runs behind one another; and receipts under their records' places, with those of a run."""
    for table in ("records", "receipts"):
        database.execute(f"ALTER TABLE {table} RENAME TO {table}_by_run")
    database.execute(
        "CREATE TABLE records(place INTEGER PRIMARY KEY, key INTEGER NOT NULL, head BLOB NOT NULL, data BLOB NOT NULL)"
        " STRICT"
    )
    database.execute("INSERT INTO records(key, head, data) SELECT key, head, data FROM records_by_run ORDER BY key")
    # Which records lie together: from this key and this place on, so many.
    database.execute(
        "CREATE TABLE places(key INTEGER PRIMARY KEY, place INTEGER NOT NULL, count INTEGER NOT NULL) STRICT"
    )
    database.execute("CREATE TABLE placed(upto INTEGER NOT NULL) STRICT")
    database.execute("INSERT INTO placed VALUES (0)")
    place_all(database)
    # What they refer to is compared by whoever verifies; looking it up for each would be a tenth of what one costs.
    database.execute(
        """CREATE TABLE receipts(
            place INTEGER PRIMARY KEY,
            run INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            status INTEGER NOT NULL,
            persona INTEGER,
            name INTEGER NOT NULL,
            model INTEGER,
            ended_at INTEGER NOT NULL,
            cost INTEGER NOT NULL,
            tokens INTEGER NOT NULL,
            own_cost INTEGER,
            own_tokens INTEGER,
            pressure INTEGER,
            ran_out INTEGER NOT NULL
        ) STRICT"""
    )
    columns = "kind, status, persona, name, model, ended_at, cost, tokens, own_cost, own_tokens, pressure, ran_out"
    database.execute(
        f"INSERT INTO receipts SELECT place, key >> {SEQ_BITS}, {columns}"  # noqa: S608 - written just above
        " FROM receipts_by_run JOIN records ON key = record ORDER BY place"
    )
    database.execute("DROP TABLE receipts_by_run")
    database.execute("DROP TABLE records_by_run")
    database.execute("CREATE INDEX receipts_by_run ON receipts(run)")
    look_up_receipts(database)


def uncertain_calls(database: sqlite3.Connection) -> None:
    """Make the table of calls whose cost did not become known, each on each of its accounts."""
    # Without a process, it has died and will never learn it.
    database.execute(
        """CREATE TABLE account_uncertain(
            key TEXT NOT NULL,
            account TEXT NOT NULL,
            process TEXT,
            at TEXT NOT NULL,
            uncertain TEXT NOT NULL,
            PRIMARY KEY(key, account)
        ) STRICT, WITHOUT ROWID"""
    )


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    runs_and_records,
    receipts_to_look_up,
    accounts,
    records_as_they_came,
    uncertain_calls,
)
"""In the order in which they run; one that was released is never changed, only followed by others."""


def prepare(database: sqlite3.Connection, path: str) -> None:
    """Bring a file to the newest schema, each step in a transaction of its own.

    Args:
        database: A connection without implicit transactions.
        path: What error messages call the file.

    Raises:
        LedgerError: If the file is another program's, or was written by a newer stepwarden.
    """
    check_owner(database, path)
    if is_current(database, path):
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        # Only now, since another process may have made the file meanwhile.
        check_owner(database, path)
        database.execute("CREATE TABLE IF NOT EXISTS migrations(name TEXT PRIMARY KEY) STRICT")
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    for migration in MIGRATIONS:
        database.execute("BEGIN IMMEDIATE")
        try:
            if migration.__name__ not in applied(database, path):
                migration(database)
                database.execute("INSERT INTO migrations VALUES (?)", (migration.__name__,))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise


def check_owner(database: sqlite3.Connection, path: str) -> None:
    """Raise a `LedgerError` if a file has something in it that is no ledger."""
    # In this order: another process may make the ledger in between, with its tables and its mark in one transaction.
    has_tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    owner = database.execute("PRAGMA application_id").fetchone()[0]
    if owner != APPLICATION and (owner or has_tables):
        raise LedgerError(f"{path} is another program's SQLite file, not a stepwarden ledger; name another file")


def is_current(database: sqlite3.Connection, path: str) -> bool:
    """Tell whether a file of ours has the newest schema; arguments and errors as in `applied`."""
    return _is_made(database) and len(applied(database, path)) == len(MIGRATIONS)


def _is_made(database: sqlite3.Connection) -> bool:
    return bool(database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'migrations'").fetchone()[0])


def applied(database: sqlite3.Connection, path: str) -> set[str]:
    """Return the names of the migrations that a file has had.

    Raises:
        LedgerError: If it has had one that is not known here.
    """
    done = {name for (name,) in database.execute("SELECT name FROM migrations")}
    unknown = sorted(map(str, done - {migration.__name__ for migration in MIGRATIONS}))
    if unknown:
        raise LedgerError(
            f"{path} was written by a newer stepwarden ({', '.join(unknown)} in its schema); upgrade stepwarden"
        )
    return done
