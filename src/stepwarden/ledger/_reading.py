"""Reading a ledger's file: lists by the page, a run's records in order, and statistics; never writing records."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from stepwarden.core._budget import Usage
from stepwarden.core._money import dollars
from stepwarden.core._receipt import Receipt, Status
from stepwarden.core.errors import LedgerError

from ._filtering import page_of
from ._log import HIDDEN, between, of_run
from ._packed import unpack
from ._record import decode, receipt_from
from ._rows import Cursor, ReceiptFilter, ReceiptRow, RunRow, StatsRow, StoredRecord
from ._schema import SEQ_BITS, check_owner, is_current
from ._sign import SignedHead
from ._statistics import statistics
from ._store import open_database
from ._verify import End

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEQ_MASK = (1 << SEQ_BITS) - 1
_ROWS_AT_ONCE = 1_000
_SHORTEST_PREFIX = 4
_RUN_COLUMNS = (
    "number, id, parent, name, tenant, started_at, ended_at, status, input_tokens, output_tokens, calls, cost, "
    "(SELECT count(*) FROM receipts WHERE run = runs.number), signature"
)


class Reading:
    """Read what a ledger's file holds, while others may be writing it; a context manager.

    Each method sees what is durable at that moment.

    Args:
        path: The file; one that is empty is made into a ledger.

    Raises:
        LedgerError: If there is no such file, or it is no ledger of this version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise LedgerError(f"there is no ledger at {self.path}")
        with self._errors("opened"):
            if not self.path.stat().st_size:
                open_database(self.path, "full").close()
            address = f"file:{quote(os.fspath(self.path))}?mode=ro"
            if not os.access(self.path.parent, os.W_OK) and not Path(f"{self.path}-wal").exists():
                # Even a reader makes SQLite's two files beside it, which it cannot here. That they are missing shows
                # that nobody has the ledger open, so that it can be read as it lies there: an archive, a snapshot.
                address += "&immutable=1"
            self._database = sqlite3.connect(address, uri=True, timeout=30, isolation_level=None)
            try:
                self._check_version()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Close the file; again is harmless."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def runs(self, *, limit: int = 50, before: int | None = None) -> tuple[RunRow, ...]:
        """Return the newest runs, newest first.

        Args:
            limit: The most of them.
            before: The number of the run that the page before ended with.
        """
        found = self._all(
            f"SELECT {_RUN_COLUMNS} FROM runs WHERE number < ? ORDER BY number DESC LIMIT ?",  # noqa: S608 - a constant
            (1 << 62 if before is None else before, limit),
        )
        with self._sound():
            return tuple(_run_row(row) for row in found)

    def run(self, wanted: str) -> RunRow:
        """Return one run.

        Args:
            wanted: Its id, or the beginning of it, at least four characters.

        Raises:
            LedgerError: If there is none, or more than one.
        """
        found = self._all(
            f"SELECT {_RUN_COLUMNS} FROM runs WHERE id = ? OR (? AND substr(id, 1, ?) = ?) LIMIT 2",  # noqa: S608
            (wanted, len(wanted) >= _SHORTEST_PREFIX, len(wanted), wanted),
        )
        if not found:
            raise LedgerError(f"there is no run {wanted} in {self.path}")
        if len(found) > 1:
            raise LedgerError(f"more than one run in {self.path} begins with {wanted}; give more of its id")
        with self._sound():
            return _run_row(found[0])

    def children(self, run: str) -> tuple[RunRow, ...]:
        """Return the runs that were opened inside a run, oldest first.

        Args:
            run: The id of the run.
        """
        query = f"SELECT {_RUN_COLUMNS} FROM runs WHERE parent = ? ORDER BY number"  # noqa: S608 - a constant
        found = self._all(query, (run,))
        with self._sound():
            return tuple(_run_row(row) for row in found)

    def receipts(
        self, chosen: ReceiptFilter | None = None, *, limit: int = 50, after: Cursor | None = None
    ) -> tuple[ReceiptRow, ...]:
        """Return a page of receipts, those that ended last first; of one run, those that were written last.

        Args:
            chosen: Which receipts; None for all.
            limit: The most of them.
            after: The cursor of the last one on the page before.
        """
        with self._errors("read"):
            query, values = page_of(self._database, chosen or ReceiptFilter(), limit, after)
        found = self._all(query, values)
        with self._sound():
            return tuple(
                ReceiptRow(
                    place,
                    record["seq"],
                    receipt_from(record),
                    None if pressure is None else pressure / 1_000,
                    bool(ran_out),
                    (position, place),
                )
                for place, pressure, ran_out, position, data, run in found
                for record in (_receipt_record(data, run),)
            )

    def latest(self, limit: int) -> tuple[Receipt, ...]:
        """Return the receipts that were written last, in the order in which they were."""
        found = self._all(
            "SELECT data, (SELECT id FROM runs WHERE number = run) FROM receipts CROSS JOIN records USING (place)"
            " ORDER BY place DESC LIMIT ?",
            (limit,),
        )
        with self._sound():
            return tuple(receipt_from(_receipt_record(data, run)) for data, run in reversed(found))

    def records(self, run: str) -> Iterator[StoredRecord]:
        """Give the records of a run in order, byte by byte.

        Args:
            run: The id of the run.
        """
        row = self.run(run)
        start = row.number << SEQ_BITS
        at, stop = start - 1, start + _SEQ_MASK
        while True:
            found = self._all(of_run("data, head"), between(at + 1, stop, _ROWS_AT_ONCE))
            for at, data, head in found:
                yield StoredRecord(at & _SEQ_MASK, unpack(_bytes(data), row.id), _bytes(head))
            if len(found) < _ROWS_AT_ONCE:
                return

    def last_records(self, run: str, limit: int) -> tuple[StoredRecord, ...]:
        """Return the last records of a run, the last one first.

        Args:
            run: The id of the run.
            limit: The most of them.
        """
        row = self.run(run)
        start = row.number << SEQ_BITS
        found = self._all(of_run("data, head", last_first=True), between(start, start + _SEQ_MASK, limit))
        return tuple(
            StoredRecord(key & _SEQ_MASK, unpack(_bytes(data), row.id), _bytes(head)) for key, data, head in found
        )

    def columns(self, run: str) -> Iterator[tuple[Any, ...]]:
        """Give what stands beside a run's receipts to look them up by, in order.

        Each has the key of its record, and then what `ReceiptColumns` has, its names by their numbers in `names`.

        Args:
            run: The id of the run.
        """
        number, at = self.run(run).number, 0
        query = (
            "SELECT key, kind, status, persona, name, model, ended_at, cost, tokens, own_cost, own_tokens, pressure,"
            " ran_out, place FROM receipts INDEXED BY receipts_by_run CROSS JOIN records USING (place)"
            " WHERE run = ? AND place > ? ORDER BY place LIMIT ?"
        )
        while found := self._all(query, (number, at, _ROWS_AT_ONCE)):
            yield from (row[:-1] for row in found)
            at = found[-1][-1]

    def names(self) -> dict[int, str]:
        """Return the names that columns have by number."""
        return dict(self._all("SELECT number, text FROM names", ()))

    def strays(self) -> tuple[int, int, int]:
        """Count what belongs to no run: runs that are missing from the file, records, and receipts in lists."""
        known = "(SELECT number FROM runs)"
        runs = self._all("SELECT coalesce(max(number), 0) - count(*) FROM runs", ())
        records = self._all(f"SELECT count(*) FROM records WHERE key >> 32 NOT IN {known} OR {HIDDEN}", ())  # noqa: S608
        wrong = f"run NOT IN {known} OR key >> {SEQ_BITS} IS NOT run"
        receipts = self._all(f"SELECT count(*) FROM receipts LEFT JOIN records USING (place) WHERE {wrong}", ())  # noqa: S608
        return runs[0][0], records[0][0], receipts[0][0]

    def damage(self) -> str | None:
        """Return what SQLite finds wrong with its pages and indexes, all of which it reads; None where nothing is."""
        found: str = self._all("PRAGMA integrity_check(1)", ())[0][0]
        return None if found == "ok" else found

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """Let all that is read in a ``with`` block be of one moment, while others write."""
        self._all("BEGIN", ())
        try:
            yield self
        finally:
            self._all("COMMIT", ())

    def end(self, run: str) -> End:
        """Return how a run's records end: as it is stored beside them, or while it is open, as they stand."""
        row = self.run(run)
        count, head = self._all("SELECT count, head FROM runs WHERE number = ?", (row.number,))[0]
        if row.ended_at is None:
            start = row.number << SEQ_BITS
            query = of_run("head", last_first=True)
            for key, head in self._all(query, between(start, start + _SEQ_MASK, 1)):  # noqa: B007 - there is one at least
                count = (key & _SEQ_MASK) + 1
        signed = None if row.signature is None else SignedHead.parse(row.signature)
        return End(count, head or b"", signed, is_ended=row.ended_at is not None)

    def stats(self, by: str, chosen: ReceiptFilter | None = None) -> tuple[StatsRow, ...]:
        """Tell how activations went, those that cost most first.

        Args:
            by: ``"persona"``, ``"step"``, ``"model"`` or ``"day"``; all but the first look at steps.
            chosen: Which receipts; None for all.

        Raises:
            ValueError: If *by* is something else.
        """
        with self._errors("read"):
            return statistics(self._database, by, chosen or ReceiptFilter())

    def _check_version(self) -> None:
        check_owner(self._database, str(self.path))
        if not is_current(self._database, str(self.path)):
            raise LedgerError(f"{self.path} was written by an older stepwarden; `stepwarden recover` makes it current")

    def _all(self, query: str, values: tuple[Any, ...] | dict[str, int]) -> list[Any]:
        with self._errors("read"):
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise LedgerError(f"{self.path} cannot be {done}: {error}") from error

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Report what no column that was written here can have, which SQLite itself does not notice."""
        try:
            yield
        except (LedgerError, TypeError, ValueError, OverflowError) as error:
            raise LedgerError(f"{self.path} is damaged: {error}") from error


def _run_row(row: tuple[Any, ...]) -> RunRow:
    number, name, parent, title, tenant, started, ended, status, tokens_in, tokens_out, calls, cost, receipts, sig = row
    total = Usage(input_tokens=tokens_in, output_tokens=tokens_out, calls=calls, cost_usd=dollars(cost))
    return RunRow(
        number, name, parent, title, tenant, _time(started), None if ended is None else _time(ended),
        None if status is None else Status(status), total, receipts, sig,
    )  # fmt: skip


def _receipt_record(data: bytes, run: str | None) -> Mapping[str, Any]:
    if run is None:
        raise LedgerError("the run of a receipt is missing")
    return decode(unpack(data, run))


def _bytes(stored: Any) -> bytes:
    # What is none in a damaged file is then no record, or not its head, and is found with those that are not theirs.
    return stored if isinstance(stored, bytes) else b""


def _time(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)
