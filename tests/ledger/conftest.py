"""What the tests of ledgers share: a file of their own, and what is in it."""

import sqlite3

import pytest

import stepwarden as sw
from stepwarden.ledger._packed import unpack
from stepwarden.ledger._record import decode


@pytest.fixture
def path(tmp_path):
    """Give the path of a ledger's file that is not there yet."""
    return tmp_path / "ledger.db"


@pytest.fixture(autouse=True)
def _settings_as_they_were():
    yield
    sw.configure(ledger=sw.MemoryLedger())


def records_in(path, run=None):
    """Return the records in a file, of one run or of all, each decoded, in order."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT data, id FROM records JOIN runs ON number = key >> 32 ORDER BY key"
        found = [decode(unpack(data, owner)) for data, owner in database.execute(query)]
    finally:
        database.close()
    return [record for record in found if run is None or record["run"] == run]


def kinds_in(path, run=None):
    """Return the kinds of the records in a file, in order."""
    return [record["kind"] for record in records_in(path, run)]
