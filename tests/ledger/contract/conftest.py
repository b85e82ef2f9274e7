"""Every ledger that the contract holds for; a new one is one more entry."""

from functools import partial

import pytest

import stepwarden as sw

LEDGERS = {
    "memory": lambda folder: sw.MemoryLedger(),
    "sqlite, full": lambda folder: sw.SQLiteLedger(folder / "ledger.db"),
    "sqlite, process": lambda folder: sw.SQLiteLedger(folder / "ledger.db", durability="process"),
}


@pytest.fixture(params=LEDGERS)
def make_ledger(request, tmp_path):
    """Give a function that opens the ledger; each time the same one, where it is kept on a disk."""
    return partial(LEDGERS[request.param], tmp_path)


@pytest.fixture
def ledger(make_ledger):
    """Give an open ledger, which is closed at the end."""
    with make_ledger() as ledger:
        yield ledger
