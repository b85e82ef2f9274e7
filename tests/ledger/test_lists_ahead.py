"""Lists that are written ahead: beside callers who run, in the order of the records, and never at a record's expense."""

import sqlite3

import pytest

import stepwarden as sw
from stepwarden.ledger._entry import Chain, Entry
from stepwarden.ledger._plain_receipt import PlainForm, PlainReceipt
from stepwarden.ledger._reading import Reading
from stepwarden.ledger._store import SQLiteStore, open_database
from stepwarden.ledger._stored import find_strays, verify_run

RUN = "1f0a9c000000700080000000"
NOW = 1_790_000_000_000_000_000
AHEAD = 64


class Filling:
    """Put receipts of one run into a file, a batch at a time."""

    def __init__(self, path):
        self.path = path
        self.database = open_database(path, "full")
        self.store = SQLiteStore(self.database, f"ledger {path}")
        self._chain = Chain(RUN, "process")
        self._form = PlainForm(RUN, {"name": "plan"})
        self._serial = 0
        self.store.commit([Entry(self._chain, "run_started", NOW, {"name": "run"}), *self._plain(1)], tidies=True)

    def _plain(self, count):
        for _ in range(count):
            self._serial += 1
            at_ns = NOW + self._serial * 1_000_000
            yield Entry(self._chain, "receipt", at_ns, PlainReceipt(self._form, at_ns, 1_000, 0, self._serial))

    def commit(self, count):
        self.store.commit(list(self._plain(count)))

    def commit_one_with_more(self):
        (one,) = self._plain(1)
        fields = {**one.fields(), "own": {"calls": 1}}
        self.store.commit([Entry(self._chain, "receipt", one.at_ns, fields)])

    def findings(self):
        with Reading(self.path) as reading:
            return [*verify_run(reading, RUN).findings, *find_strays(reading)]


@pytest.fixture
def filling(tmp_path):
    """Give a file with a run in progress, whose first receipt is on the lists."""
    filling = Filling(tmp_path / "ledger.db")
    yield filling
    filling.store.close()


def _rows(filling):
    return filling.database.execute("SELECT count(*), count(DISTINCT place) FROM receipts").fetchone()


def test_receipts_are_listed_ahead(filling):
    """Of receipts that wait for the lists, the oldest are put there whole, and nothing is put there twice."""
    filling.commit(AHEAD + 6)
    assert _rows(filling) == (1, 1)
    filling.store.prepare_ahead()()
    assert _rows(filling) == (1 + AHEAD, 1 + AHEAD)
    assert filling.findings() == []
    filling.store.tidy()
    assert _rows(filling) == (AHEAD + 7, AHEAD + 7)
    assert filling.findings() == []


def test_too_few_are_left_for_later(filling):
    """One receipt fewer than a statement takes is left for later."""
    filling.commit(AHEAD - 1)
    assert filling.store.prepare_ahead() is None


def test_the_order_is_kept(filling):
    """Nothing is listed before a receipt that came earlier, so that only the newest ones may be missing."""
    filling.commit(AHEAD - 1)
    filling.commit_one_with_more()
    filling.commit(AHEAD)
    assert filling.store.prepare_ahead() is None
    filling.store.tidy()
    assert _rows(filling) == (1 + 2 * AHEAD, 1 + 2 * AHEAD)


def test_records_are_flushed_after_lists_were_not(filling):
    """Lists are written without waiting for the disk, and the records that come after them are not."""
    filling.commit(AHEAD)
    put = filling.store.prepare_ahead()
    assert filling.database.execute("PRAGMA synchronous").fetchone() == (1,)
    put()
    statements = []
    filling.database.set_trace_callback(statements.append)
    filling.commit(1)
    filling.database.set_trace_callback(None)
    assert statements.index("PRAGMA synchronous = 2") < statements.index("BEGIN IMMEDIATE")
    assert filling.database.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_could_not_be_listed_comes_later(filling):
    """Where the file cannot be written meanwhile, the receipts get onto the lists with a later commit."""
    filling.commit(AHEAD)
    put = filling.store.prepare_ahead()
    filling.database.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(filling.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    put()
    other.execute("ROLLBACK")
    other.close()
    assert _rows(filling) == (1, 1)
    filling.store.tidy()
    assert _rows(filling) == (1 + AHEAD, 1 + AHEAD)
    assert filling.findings() == []


def test_a_file_that_fails_meanwhile_is_for_the_next_commit_to_tell(filling):
    """Nothing is raised in the writer's thread, which would end it, while nobody is there to hear it."""
    filling.commit(AHEAD)
    filling.database.close()
    filling.store.prepare_ahead()()
    with pytest.raises(sw.LedgerError, match="cannot record"):
        filling.commit(1)
