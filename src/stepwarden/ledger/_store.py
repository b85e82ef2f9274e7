"""The file: how records are put into SQLite, a batch a transaction."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from stepwarden.core.errors import LedgerError

from ._chain import extend
from ._columns import cost_of, count_of, row_of
from ._entry import Chain, Entry
from ._log import between, of_run, place_all
from ._packed import pack, unpack
from ._plain_receipt import PlainForm, PlainReceipt
from ._receipt_record import decode_receipt
from ._record import encode
from ._schema import SEQ_BITS, check_owner, prepare

DURABILITIES = {"full": "FULL", "process": "NORMAL"}
"""What is asked for, and what SQLite calls it."""
_BUSY_SECONDS = 30
_MOST_UNPLACED = 1_024
_PAGES_IN_LOG = 4_000
Listed = tuple[int, int, bytes | PlainReceipt]
"""A receipt: the place of its record, the number of its run, and what it is or its record."""
_Numbers = tuple[int, int, int, int, int]
"""The numbers that lists have for what receipts of one form have in common."""
_TRIES_TO_SWITCH = 200

_ADD_RUN = "INSERT INTO runs(id, parent, name, tenant, process, started_at) VALUES (?, ?, ?, ?, ?, ?)"
_ADD_RECORD = "INSERT INTO records(place, key, head, data) VALUES (?, ?, ?, ?)"
_LAST_PLACE = "SELECT max(place) FROM records"
_ADD_RECEIPT = (
    "INSERT INTO receipts(place, kind, status, persona, name, model, ended_at, cost, tokens, own_cost, own_tokens,"
    " pressure, ran_out, run) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
# None, bytes and truth values take several times as long to hand over as numbers do.
_PLAIN_COLUMNS = "place, run, kind, status, persona, name, model, ended_at, cost, tokens, pressure, ran_out"
_PLAIN_ROW = "(?, ?, ?, 0, nullif(?, 0), ?, nullif(?, 0), ?, 0, 0, nullif(?, -1), 0)"
_ADD_PLAIN_RECEIPT = f"INSERT INTO receipts({_PLAIN_COLUMNS}) VALUES {_PLAIN_ROW} ON CONFLICT DO NOTHING"  # noqa: S608 - constants
_ROWS_AHEAD = 64
# So many in one statement, in which no other thread has to wait for this one.
_ADD_PLAIN_RECEIPTS = _ADD_PLAIN_RECEIPT.replace(_PLAIN_ROW, ", ".join([_PLAIN_ROW] * _ROWS_AHEAD))
_MOST_ROWS = 1_024


def open_database(path: Path, durability: str) -> sqlite3.Connection:
    """Open a ledger's file for writing, making it or bringing it to the newest schema where needed.

    Args:
        path: The file.
        durability: A key of `DURABILITIES`.

    Raises:
        LedgerError: If that cannot be done.
    """
    try:
        _make_directory(path.parent)
        # The writer sees to it that one thread at a time uses it.
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"{path} cannot be opened: {error}") from error
    try:
        # First, since switching to the log would change even a file that is another program's.
        check_owner(database, str(path))
        # Before the file is made, so that its own entry in the directory is durable too.
        database.execute("PRAGMA synchronous = EXTRA")
        database.execute("PRAGMA foreign_keys = ON")
        _switch_to_wal(database, path)
        prepare(database, str(path))
        database.execute(f"PRAGMA synchronous = {DURABILITIES[durability]}")
        # Pages that are written again and again are copied into the file less often.
        database.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_IN_LOG}")
    except BaseException as error:
        database.close()
        if isinstance(error, sqlite3.Error | UnicodeDecodeError):
            raise LedgerError(f"{path} cannot be opened: {error}") from error
        raise
    return database


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    above = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def _switch_to_wal(database: sqlite3.Connection, path: Path) -> None:
    for _ in range(_TRIES_TO_SWITCH):
        try:
            mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            # While another process makes the file: SQLite does not wait for this lock by itself.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                raise LedgerError(f"{path} cannot be opened: its file system keeps no write-ahead log")
            return
    raise LedgerError(f"{path} cannot be opened: another program keeps it locked")


class _Written:
    """Be how far a chain gets with the batch under way."""

    __slots__ = ("count", "ended", "head", "is_ended", "row", "total")

    def __init__(self, chain: Chain) -> None:
        self.row = chain.row
        self.count = chain.count
        self.head = chain.head
        self.is_ended = chain.is_ended
        self.ended: tuple[int, str] | None = None
        self.total: Mapping[str, Any] | None = None


class SQLiteStore:
    """Put records into a file that is open; in one thread at a time.

    What receipts are looked up by is many pages for one receipt and not many more for hundreds, so it is put in a
    little later, with others; at the latest with the end of the run, so that only a run in progress may lack some.

    Args:
        database: The connection, which is this store's own.
        name: What error messages call the ledger.
    """

    def __init__(self, database: sqlite3.Connection, name: str) -> None:
        self._ledger = name
        self._database = database
        self._names: dict[str, int] = {}
        self._plain_numbers: dict[PlainForm, _Numbers] = {}
        self._unlisted: list[Listed] = []
        self._unplaced = 0
        self._is_in_doubt = False
        (self._synchronous,) = database.execute("PRAGMA synchronous").fetchone()
        self._is_relaxed = False

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def commit(self, entries: Sequence[Entry], *, tidies: bool = False) -> None:
        """Write entries and extend their runs' chains, all of them or none; where it *tidies*, the lists too.

        Raises:
            LedgerError: If they cannot be written.
        """
        try:
            self._commit(entries, tidies=tidies)
        except sqlite3.Error as error:
            raise LedgerError(f"{self._ledger} cannot record: {error}") from error

    def _commit(self, entries: Sequence[Entry], *, tidies: bool) -> None:
        database = self._database
        if database.in_transaction:
            database.execute("ROLLBACK")  # a signal handler raised before it was undone
        if self._is_relaxed:
            database.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._is_relaxed = False
        unplaced = self._unplaced + len(entries)
        database.execute("BEGIN IMMEDIATE")
        try:
            if self._is_in_doubt:
                entries = self._not_written(entries)
            written, unlisted = self.write(entries)
            unlisted = [*self._unlisted, *unlisted]
            if tidies or unplaced >= _MOST_UNPLACED or any(state.ended for state in written.values()):
                self.put_on_lists(unlisted)
                unlisted, unplaced = [], 0
            # Until the chains know of it: a signal handler that raises may come between the two.
            self._is_in_doubt = True
            database.execute("COMMIT")
        except BaseException:
            self._names.clear()  # some of them may have been new
            self._plain_numbers.clear()
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        self._unlisted, self._unplaced = unlisted, unplaced
        for chain, state in written.items():
            chain.row, chain.count, chain.head, chain.is_ended = state.row, state.count, state.head, state.is_ended
        self._is_in_doubt = False

    def tidy(self) -> None:
        """Put on the lists what was left for later."""
        if self._unplaced:
            self.commit((), tidies=True)

    def put_on_lists(self, receipts: Iterable[Listed]) -> None:
        """Put in what records and receipts are looked up by, each once, inside a transaction that is open."""
        place_all(self._database)
        rows: list[tuple[Any, ...]] = []
        plain: list[tuple[int, ...]] = []
        numbers_of = self._plain_numbers
        for place, run, receipt in receipts:
            if isinstance(receipt, PlainReceipt):
                numbers = numbers_of.get(receipt.form) or self._numbers_of(receipt.form)
                plain.append(_plain_row(place, run, receipt, numbers))
            else:
                rows.append((*row_of(decode_receipt(receipt), place, self._name), run))
        self._database.executemany(_ADD_PLAIN_RECEIPT, plain)
        self._database.executemany(_ADD_RECEIPT, rows)

    def prepare_ahead(self) -> Callable[[], None] | None:
        """Get ready to put a part of what was left for later on the lists while callers run; None for nothing to do.

        Returns:
            Puts it there, in a statement that lets other threads run. What it cannot put there is left for later.
        """
        ahead, numbers_of = self._unlisted[:_ROWS_AHEAD], self._plain_numbers
        if len(ahead) < _ROWS_AHEAD:
            return None
        row: list[int] = []
        for place, run, receipt in ahead:
            numbers = numbers_of.get(receipt.form) if isinstance(receipt, PlainReceipt) else None
            if numbers is None:
                return None  # in their order, since whoever verifies takes only the newest ones to be missing
            row += _plain_row(place, run, cast("PlainReceipt", receipt), numbers)

        def put() -> None:
            # An error is one of the file, which the next commit meets too, with callers that hear of it.
            with suppress(sqlite3.Error):
                self._database.execute(_ADD_PLAIN_RECEIPTS, row)
                del self._unlisted[:_ROWS_AHEAD]

        # Lists follow from the records, so that nothing is lost with them. Where this fails, they are flushed, too.
        self._is_relaxed = True
        with suppress(sqlite3.Error):
            self._database.execute("PRAGMA synchronous = NORMAL")
        return put

    def _numbers_of(self, form: PlainForm) -> _Numbers:
        _, kind, _, persona, name, model, *_, pressure, _ = row_of(form.record, 0, self._name)
        if len(self._plain_numbers) >= _MOST_ROWS:
            self._plain_numbers.clear()
        numbers = kind, persona or 0, name, model or 0, -1 if pressure is None else pressure
        self._plain_numbers[form] = numbers
        return numbers

    def _not_written(self, entries: Sequence[Entry]) -> list[Entry]:
        """Let the chains catch up with the file; return the entries that are not in it yet."""
        ahead: dict[Chain, int] = {}
        for chain in {entry.chain for entry in entries}:
            ahead[chain] = 0
            found = self._database.execute("SELECT number, ended_at FROM runs WHERE id = ?", (chain.run,)).fetchone()
            if found is None:
                continue
            start = found[0] << SEQ_BITS
            newest = between(start, start + (1 << SEQ_BITS) - 1, 1)
            key, head = self._database.execute(of_run("head", last_first=True), newest).fetchone()
            ahead[chain] = key - start + 1 - chain.count
            chain.row, chain.count, chain.head, chain.is_ended = found[0], key - start + 1, head, found[1] is not None
        missing = []
        for entry in entries:
            if ahead[entry.chain] > 0:
                key = (entry.chain.row << SEQ_BITS) + entry.chain.count - ahead[entry.chain]
                ahead[entry.chain] -= 1
                if entry.kind == "receipt":
                    found = self._database.execute(of_run("data, records.place"), between(key, key, 1)).fetchone()
                    self._unlisted.append((found[2], entry.chain.row, unpack(found[1], entry.chain.run)))
            else:
                missing.append(entry)
        return missing

    def write(self, entries: Sequence[Entry]) -> tuple[dict[Chain, _Written], list[Listed]]:
        """Write entries inside a transaction that is open, and leave the chains as they are.

        Returns:
            How far each chain got, and the receipts that are not on the lists yet.
        """
        written: dict[Chain, _Written] = {}
        records: list[tuple[int, int, bytearray, bytes | bytearray]] = []
        receipts: list[Listed] = []
        (last,) = self._database.execute(_LAST_PLACE).fetchone()
        for place, entry in enumerate(entries, (last or 0) + 1):
            chain = entry.chain
            state = written.get(chain)
            if state is None:
                state = written[chain] = _Written(chain)
            made = entry.fields
            if isinstance(made, PlainReceipt) and not state.is_ended:
                data = made.encode(state.count)
                stored: bytes | bytearray = data
                receipts.append((place, state.row, made))
            else:
                data, is_receipt, stored = self._encode(entry, state)
                if is_receipt:
                    receipts.append((place, state.row, data))
            state.head = head = extend(state.head, data)
            records.append((place, state.row << SEQ_BITS | state.count, bytearray(head), stored))
            state.count += 1
        self._database.executemany(_ADD_RECORD, records)
        for chain, state in written.items():
            if state.is_ended:
                self._end_run(chain, state)
        return written, receipts

    def _encode(self, entry: Entry, state: _Written) -> tuple[bytes, bool, bytearray]:
        """Return the next record of a run, whether it is a receipt, and how it is stored."""
        chain, kind, fields = entry.chain, entry.kind, entry.made_fields()
        if state.is_ended:
            kind, fields = "late", {**fields, "of": kind}
        data = encode(kind, chain.run, state.count, entry.at_ns, fields)
        if kind == "run_started":
            state.row = self._add_run(chain, entry.at_ns, fields)
        elif kind == "run_ended":
            state.is_ended = True
            state.ended = entry.at_ns // 1_000_000, fields["status"]
        state.total = fields.get("total", state.total)
        # Packing takes longer than all else that a step costs which only ran, and whose record is short.
        is_plain = kind == "receipt" and "own" not in fields
        return data, kind == "receipt", bytearray(data if is_plain else pack(data, chain.run))

    def _add_run(self, chain: Chain, at_ns: int, fields: Mapping[str, Any]) -> int:
        values = (
            chain.run, fields.get("parent_run"), _encodable(fields["name"]), _encodable(fields.get("tenant")),
            chain.process, at_ns // 1_000_000,
        )  # fmt: skip
        return self._database.execute(_ADD_RUN, values).lastrowid or 0

    def _name(self, text: str | None) -> int | None:
        if text is None:
            return None
        number = self._names.get(text)
        if number is None:
            written = _encodable(text)
            self._database.execute("INSERT INTO names(text) VALUES (?) ON CONFLICT DO NOTHING", (written,))
            found = self._database.execute("SELECT number FROM names WHERE text = ?", (written,)).fetchone()
            number = self._names[text] = int(found[0])
        return number

    def _end_run(self, chain: Chain, state: _Written) -> None:
        values: dict[str, Any] = {"count": state.count, "head": state.head}
        if chain.sign is not None:
            values["signature"] = chain.sign(chain.run, state.count, state.head)
        if state.ended is not None:
            values["ended_at"], values["status"] = state.ended
        if state.total is not None:
            values |= {name: count_of(state.total, name) for name in ("input_tokens", "output_tokens", "calls")}
            values["cost"] = cost_of(state.total)
        columns = ", ".join(f"{name} = ?" for name in values)
        change = f"UPDATE runs SET {columns} WHERE number = ?"  # noqa: S608 - the names are written above
        self._database.execute(change, (*values.values(), state.row))


def _plain_row(place: int, run: int, receipt: PlainReceipt, numbers: _Numbers) -> tuple[int, ...]:
    kind, persona, name, model, pressure = numbers
    return place, run, kind, persona, name, model, receipt.ended_at, pressure


def _encodable(text: str | None) -> str | None:
    """Write a lone surrogate as its escape, as the record does."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()
