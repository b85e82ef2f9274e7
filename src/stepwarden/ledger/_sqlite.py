"""The embedded ledger: one SQLite file, which several processes may share."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stepwarden.core.errors import DefinitionError, LedgerError

from ._account_book import SQLiteBook
from ._entry import Chain
from ._journal import RunJournal
from ._lock import LiveLock
from ._reading import Reading
from ._recovery import RecoveredRun, recover_in
from ._sign import signer
from ._store import DURABILITIES, SQLiteStore, open_database
from ._writer import Writer

if TYPE_CHECKING:
    from stepwarden.core._receipt import Receipt
    from stepwarden.core._run import Run


class SQLiteLedger:
    """Keep runs in one SQLite file on a local disk, so that nothing that was acknowledged is lost.

    Opening it creates the file if there is none, migrates an older one to this version, and accounts for the runs of
    processes that have died. A forked child opens the file again when it first uses the ledger.

    Args:
        path: The file; missing directories are created.
        durability: ``"full"``: what is acknowledged survives a power cut, at one disk flush per commit;
            ``"process"``: it survives a crash of the process, but not of the machine.

    Raises:
        DefinitionError: If an argument cannot be right.
        LedgerError: If the file is not ours, is newer than this version, or cannot be written.

    Attributes:
        recovered: The runs of dead processes that were accounted for when it was opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: str = "full") -> None:
        given: object = path
        if not isinstance(given, str | os.PathLike) or not os.fspath(given) or "\0" in os.fsdecode(given):
            raise DefinitionError(f"path must be the path of a file, not {path!r}")
        # Each would be the name of a file here, and whoever writes it means something else.
        if given == ":memory:":
            raise DefinitionError("path must be the path of a file, not ':memory:'; MemoryLedger() is kept in memory")
        if isinstance(given, str) and "://" in given:
            raise DefinitionError(f"path must be the path of a file, not the address {path!r}")
        if durability not in tuple(DURABILITIES):  # and not in the mapping, which a list cannot be looked up in
            raise DefinitionError(f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}")
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays a link
        self.durability = durability
        self.is_closed = False
        self._engine: _Engine | None = _Engine(self.path, durability)
        self.recovered: tuple[RecoveredRun, ...] = self._engine.recovered
        _ledgers.add(self)

    def open(self, run: Run) -> RunJournal:
        """Begin the records of a run.

        Raises:
            LedgerError: If the ledger is closed, or the key that it is to be signed with cannot be read.
        """
        engine = self._running()
        sign = None if run.sign is None else signer(run.sign)
        return RunJournal(run, engine.writer, Chain(run.id, engine.lock.name, sign))

    def latest(self, limit: int) -> tuple[Receipt, ...]:
        """Return the newest receipts of all runs, at most *limit*, in the order in which they were left."""
        with self.read() as reading:
            return reading.latest(limit)

    def read(self) -> Reading:
        """Open the file for reading; close what is returned, or use it in a ``with`` block.

        Raises:
            LedgerError: If the ledger is closed or cannot record what is left.
        """
        self._running().writer.tidy()
        return Reading(self.path)

    @property
    def book(self) -> SQLiteBook:
        """The book of accounts in the file; raises a `LedgerError` if the ledger is closed."""
        return self._running().book()

    def close(self) -> None:
        """Write what is left and close the file; again is harmless.

        Raises:
            LedgerError: If something could not be written.
        """
        engine, self._engine = self._engine, None
        self.is_closed = True
        if engine is not None:
            engine.stop()

    def __enter__(self) -> Self:
        self._running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SQLiteLedger({str(self.path)!r}, durability={self.durability!r})"

    def _disown(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.disown()

    def _running(self) -> _Engine:
        if self.is_closed:
            raise LedgerError(f"ledger {self.path} is closed; open it again with SQLiteLedger(...)")
        if self._engine is None:
            self._engine = _Engine(self.path, self.durability)
        return self._engine


class _Engine:
    """Be what this process has open of a ledger: its lock, and its writer with the file."""

    def __init__(self, path: Path, durability: str) -> None:
        database = open_database(path, durability)
        try:
            self.recovered = recover_in(database, path)
        finally:
            database.close()
        self.lock = LiveLock(path)
        self._path = path
        try:
            self.writer = Writer(partial(_open_store, path, durability), f"ledger {path}")
        except BaseException:
            self.lock.release()
            raise
        # At the exit of the interpreter, too.
        self._writers = [self.writer]
        self._book: SQLiteBook | None = None
        self._open_database = partial(open_database, path, durability)
        self._making = threading.Lock()
        self._finalizer = weakref.finalize(self, _stop, self._writers, self.lock, os.getpid())

    def book(self) -> SQLiteBook:
        """Return the book of accounts, with a writer of its own from the first time on."""
        with self._making:
            if self._book is None:
                self._book = SQLiteBook(self._open_database, self._path, self.lock.name)
                self._writers.append(self._book.writer)
            return self._book

    def stop(self) -> None:
        """Write what is left and let go of everything."""
        if self._finalizer.detach():
            _stop(self._writers, self.lock, os.getpid())

    def disown(self) -> None:
        """Leave everything to the parent process, in a forked child."""
        self._finalizer.detach()
        self.lock.disown()


def _open_store(path: Path, durability: str) -> SQLiteStore:
    return SQLiteStore(open_database(path, durability), f"ledger {path}")


def _stop(writers: list[Writer], lock: LiveLock, process: int) -> None:
    if os.getpid() != process:
        return
    with contextlib.ExitStack() as last:
        last.callback(lock.release)
        for writer in writers:
            last.callback(writer.close)


_ledgers: weakref.WeakSet[SQLiteLedger] = weakref.WeakSet()


def _disown_all() -> None:
    for ledger in tuple(_ledgers):
        ledger._disown()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_disown_all)
