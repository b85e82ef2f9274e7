"""The ledger's file: made, migrated, refused, damaged, full, shared; each ends in a clear error or in full recovery."""

import os
import resource
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

import stepwarden as sw
from stepwarden.ledger import Reading, ReceiptFilter, _schema, recover
from stepwarden.ledger._record import decode
from stepwarden.ledger._stored import find_strays, verify_ledger
from stepwarden.ledger._verify import verify
from tests.effort import EFFORT
from tests.ledger.conftest import kinds_in, records_in


def work(ledger, steps=3, **options):
    """Run some steps with a call each; return the run."""
    with sw.Run(ledger=ledger, **options) as run:
        for number in range(steps):
            with sw.step(f"s{number}"), sw.reserve(input_tokens=5, cost_usd="0.1", model="m") as hold:
                hold.settle(input_tokens=5, cost_usd="0.05")
    return run


def findings_in(path):
    """Return what is wrong with the chains of a file."""
    with Reading(path) as reading:
        return [
            finding
            for run in reading.runs(limit=1_000)
            for finding in verify(
                run.id, lambda run=run: ((one.data, one.head) for one in reading.records(run.id)), reading.end(run.id)
            ).findings
        ]


def found_in(path):
    """Return what `stepwarden verify` finds in a file."""
    with Reading(path) as reading:
        return [*find_strays(reading), *(one for verdict in verify_ledger(reading) for one in verdict.findings)]


def shown_by(path):
    """Return what all commands that look at a file can show of it."""
    with Reading(path) as reading:
        runs = reading.runs()
        records = [list(reading.records(run.id)) for run in runs]
        return runs, records, reading.receipts(limit=500), [reading.stats(by) for by in ("persona", "step", "model")]


def test_directories_that_are_missing_are_made(tmp_path):
    """A ledger makes its file, and the directories above it, and leaves nothing else behind when closed."""
    path = tmp_path / "a" / "b" / "ledger.db"
    with sw.SQLiteLedger(path) as ledger:
        work(ledger)
    assert [one.name for one in path.parent.iterdir()] == ["ledger.db"]


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("process", 1)])
def test_durability_is_what_sqlite_is_told(path, durability, synchronous):
    """`full` flushes each commit and `process` does not, over a write-ahead log in both."""
    with sw.SQLiteLedger(path, durability=durability) as ledger:
        database = ledger._engine.writer._store._database
        assert database.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"durability": "none"},
        {"durability": None},
        {"durability": ["full"]},
        {"path": ""},
        {"path": "a\0b"},
        {"path": 5},
        {"path": b"x"},
        {"path": ":memory:"},
        {"path": "postgresql://127.0.0.1/ledger"},
    ],
)
def test_a_bad_argument_is_named(path, wrong):
    """A path or durability that cannot be right is a DefinitionError that names it, and no file is made."""
    with pytest.raises(sw.DefinitionError, match=next(iter(wrong))):
        sw.SQLiteLedger(**{"path": path, **wrong})
    assert not path.exists()


def test_an_old_file_is_migrated(path, monkeypatch):
    """A file of an older version is brought to this one when it is opened, once, and what was in it stays."""
    every = _schema.MIGRATIONS
    monkeypatch.setattr(_schema, "MIGRATIONS", every[:1])
    database = sqlite3.connect(path, isolation_level=None)
    _schema.prepare(database, str(path))
    database.execute(
        "INSERT INTO runs(id, name, process, started_at, ended_at, status, count, head) "
        "VALUES ('old', 'run', 'p', 1, 2, 'completed', 0, x'')"
    )
    database.close()
    monkeypatch.setattr(_schema, "MIGRATIONS", every)
    with pytest.raises(sw.LedgerError, match="older stepwarden"):
        Reading(path)
    with sw.SQLiteLedger(path) as ledger:
        work(ledger)
    with Reading(path) as reading:
        assert [run.name for run in reading.runs()] == ["run", "run"]
        assert reading.run("old").id == "old"
        assert len(reading.receipts()) == 3


def told_of(path):
    """Return what a file shows, without where in it that lies."""
    runs, records, rows, stats = shown_by(path)
    return runs, records, sorted((one.receipt.run_id, one.seq, one.receipt, one.pressure) for one in rows), stats


def test_records_that_lay_by_run_are_migrated(path, tmp_path, monkeypatch):
    """Records of a file in which each run's lay together stay what they are, are found, and more can follow."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger), sw.step("outer"):
        for _ in range(2):
            work(ledger)
    shown, old = told_of(path), tmp_path / "old.db"
    every = _schema.MIGRATIONS
    monkeypatch.setattr(_schema, "MIGRATIONS", every[: every.index(_schema.records_as_they_came)])
    database = sqlite3.connect(old, isolation_level=None)
    _schema.prepare(database, str(old))
    database.execute("ATTACH ? AS new", (str(path),))
    database.execute("INSERT INTO main.runs SELECT * FROM new.runs")
    database.execute("INSERT INTO main.names SELECT * FROM new.names")
    database.execute("INSERT INTO main.records SELECT key, head, data FROM new.records")
    listed = "kind, status, persona, name, model, ended_at, cost, tokens, own_cost, own_tokens, pressure, ran_out"
    database.execute(
        f"INSERT INTO main.receipts(record, {listed})"  # noqa: S608 - written just above
        f" SELECT key, {listed} FROM new.receipts JOIN new.records USING (place) ORDER BY place"
    )
    database.close()
    monkeypatch.undo()
    with sw.SQLiteLedger(old) as ledger:
        assert (told_of(old), found_in(old)) == (shown, [])
        work(ledger)
    assert (len(told_of(old)[0]), found_in(old)) == (4, [])


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    """Each migration is one transaction: where one fails, those before it stand and nothing of it does."""

    def fails(database):
        database.execute("CREATE TABLE half(x)")
        database.execute("SELECT * FROM nowhere")

    monkeypatch.setattr(_schema, "MIGRATIONS", (*_schema.MIGRATIONS, fails))
    with pytest.raises(sw.LedgerError, match="cannot be opened: no such table: nowhere"):
        sw.SQLiteLedger(path)
    monkeypatch.undo()
    with sw.SQLiteLedger(path) as ledger:
        work(ledger)
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").fetchone() == (0,)
    database.close()


def test_a_newer_file_is_refused(path):
    """A file that a newer version has migrated is refused by name of what it has, for writing and for reading."""
    sw.SQLiteLedger(path).close()
    database = sqlite3.connect(path)
    database.execute("INSERT INTO migrations VALUES ('from_the_future')")
    database.commit()
    database.close()
    for opened in (sw.SQLiteLedger, Reading, recover):
        with pytest.raises(sw.LedgerError, match=r"newer stepwarden .*from_the_future"):
            opened(path)


@pytest.mark.parametrize("kind", ["another program's", "a text", "a directory", "an image with another mark"])
def test_a_file_that_is_not_ours_is_refused_and_left_as_it_is(path, kind):
    """A file that is no ledger is a clear LedgerError, for writing and reading, and not one byte of it changes."""
    if kind == "a directory":
        path.mkdir()
    elif kind == "a text":
        path.write_text("dear diary, " * 1_000)
    else:
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE diary(day)")
        if kind != "another program's":
            database.execute("PRAGMA application_id = 5")
        database.commit()
        database.close()
    before = None if path.is_dir() else path.read_bytes()
    for opened in (sw.SQLiteLedger, Reading, recover):
        with pytest.raises(sw.LedgerError, match=r"ledger\.db"):
            opened(path)
    assert before is None or path.read_bytes() == before
    assert list(path.parent.glob("*-live-*")) == []


def test_a_file_that_another_process_is_making_is_ours(path):
    """A file that becomes a ledger while it is looked at is no other program's, wherever in between that happens."""

    class Overtaken(sqlite3.Connection):
        def execute(self, *query):
            (row,) = super().execute(*query).fetchall()
            sw.SQLiteLedger(path).close()
            return super().execute("SELECT ?", row)

    with closing(sqlite3.connect(path, factory=Overtaken)) as database:
        _schema.check_owner(database, str(path))
    with Reading(path) as reading:
        assert reading.runs() == ()


def test_reading_makes_no_file(path):
    """Reading or recovering a ledger that is not there is a LedgerError, and makes nothing."""
    for opened in (Reading, recover):
        with pytest.raises(sw.LedgerError, match="no ledger at"):
            opened(path)
    assert not path.exists()


@pytest.mark.parametrize("opens", [sw.SQLiteLedger, Reading])
def test_an_empty_file_becomes_a_ledger(path, opens):
    """A file without a byte in it is made into a ledger by whoever opens it, to read or to write."""
    path.touch()
    opens(path).close()
    with Reading(path) as reading:
        assert reading.runs() == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_file_is_refused(path):
    """A file that cannot be written is refused when it is opened."""
    sw.SQLiteLedger(path).close()
    path.chmod(0o400)
    with pytest.raises(sw.LedgerError, match=r"ledger\.db cannot be opened"):
        sw.SQLiteLedger(path)


def as_nobody(check):
    """Call *check* where nothing of root's can be written: in a child without its rights."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgid(65_534)
                os.setuid(65_534)
            check()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_ledger_in_a_folder_that_cannot_be_written_is_read(path):
    """An archived ledger is read and verified without a file beside it, and refused to whoever wants to write."""
    with sw.SQLiteLedger(path) as ledger:
        work(ledger)
    shown = shown_by(path)
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()  # a reader leaves them
    folders = [path.parent, *(folder for folder in path.parents if folder.name.startswith("pytest-"))]
    modes = [folder.stat().st_mode for folder in folders]
    for folder in folders[1:]:
        folder.chmod(0o755)
    path.chmod(0o444)
    path.parent.chmod(0o555)

    def check():
        assert shown_by(path) == shown
        assert found_in(path) == []
        with pytest.raises(sw.LedgerError, match=r"ledger\.db cannot be opened"):
            sw.SQLiteLedger(path)

    try:
        as_nobody(check)
    finally:
        for folder, mode in zip(folders, modes, strict=True):
            folder.chmod(mode)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_connection_that_cannot_write_is_refused(path, monkeypatch):
    """Where SQLite says that a file is read-only, the ledger says so, and takes no run."""
    sw.SQLiteLedger(path).close()
    original = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: original(f"file:{path}?mode=ro", uri=True, **options)
    )
    ledger = None
    with pytest.raises(sw.LedgerError, match="readonly"):
        ledger = sw.SQLiteLedger(path)
        work(ledger)
    if ledger is not None:
        with pytest.raises(sw.LedgerError, match="readonly"):
            ledger.close()


def test_a_full_disk_stops_calls_and_loses_nothing(path):
    """On a full disk no call is made and nothing is acknowledged; when there is room again, all of it is written."""
    with sw.SQLiteLedger(path) as ledger:
        database = ledger._engine.writer._store._database
        with sw.Run(ledger=ledger) as run:
            pages = database.execute("PRAGMA page_count").fetchone()[0]
            database.execute(f"PRAGMA max_page_count = {pages + 2}")
            made = failed = 0
            while failed < 3:
                try:
                    with sw.step(f"step {'x' * 500}"), sw.reserve(input_tokens=1, cost_usd="0.1") as hold:
                        hold.settle(input_tokens=1, cost_usd="0.1")
                        made += 1
                except sw.LedgerError as error:
                    assert "disk is full" in str(error)
                    failed += 1
            database.execute("PRAGMA max_page_count = 1000000")
        assert run.total.calls == made
        with ledger.read() as reading:
            assert reading.run(run.id).total.calls == made
            assert len(reading.receipts(ReceiptFilter(run=run.id), limit=1_000)) == len(run.receipts)
    assert findings_in(path) == []


def test_a_limit_on_the_size_of_files(tmp_path):
    """In a process whose files may not grow any more, a call that cannot be recorded is not made."""
    script = """
import resource, signal, sys
import stepwarden as sw
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with sw.SQLiteLedger(sys.argv[1]) as ledger:
    run = sw.Run(ledger=ledger)
    run.__enter__()
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    made = 0
    while True:
        try:
            with sw.step("s"), sw.reserve(cost_usd="0.1") as hold:
                hold.settle(cost_usd="0.1")
                made += 1
        except sw.LedgerError:
            break
    print(made, run.total.calls)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    run.__exit__(None, None, None)
"""
    path = tmp_path / "ledger.db"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, counted = map(int, done.stdout.split())
    assert made == counted > 0
    with Reading(path) as reading:
        assert reading.runs()[0].total.calls == made
    assert findings_in(path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_truncated_file(path):
    """A file that was cut off anywhere is a LedgerError when it is opened or read, or what is left verifies or is named as wrong."""
    with sw.SQLiteLedger(path) as ledger:
        work(ledger, steps=50)
    whole = path.read_bytes()
    for size in (len(whole) - 4_096, len(whole) // 2, 8_192, 4_096, 1_000, 100, 50, 1):
        path.write_bytes(whole[:size])
        with pytest.raises(sw.LedgerError, match=r"ledger\.db"):
            assert findings_in(path) == []
            with sw.SQLiteLedger(path) as again:
                work(again)


def test_flipped_bits_are_never_silent(path):
    """Whatever bit flips in a file, it is found, or it is an error, or it changes nothing that is shown."""
    with sw.SQLiteLedger(path) as ledger:
        work(ledger, steps=20)
    whole = path.read_bytes()
    shown = shown_by(path)
    found = 0
    for at in range(0, len(whole), max(1, 251 // EFFORT)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            assert found_in(path) or shown_by(path) == shown, at
        except sw.LedgerError:
            found += 1
    assert found


@pytest.mark.parametrize("change", [
    "accounts SET declared = '{'",
    "accounts SET fixed = '[]'",
    "account_windows SET spent = '1 2 3'",
    "account_windows SET held = '0 0 0 0x'",
    "account_windows SET uncertain = ''",
])  # fmt: skip
def test_damaged_accounts_are_a_ledger_error(path, change):
    """Where an account's row is nothing that was ever written, no call is made on it, and the error names the file."""
    accounts = [sw.Account("team", total=sw.Budget(max_usd=5))]
    with sw.SQLiteLedger(path) as ledger:
        work(ledger, accounts=accounts)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {change}")

    for look in (lambda ledger: work(ledger, accounts=accounts), lambda ledger: ledger.book.states(0)):
        with (
            pytest.raises(sw.LedgerError, match=r"ledger\.db .* the file is damaged: "),
            sw.SQLiteLedger(path) as ledger,
        ):
            look(ledger)


@pytest.mark.parametrize(
    "change", ["account_holds SET accounts = '5'", "account_holds SET at = ''", "account_holds SET input_cost = 'x'"]
)
def test_a_damaged_hold_of_an_account_stops_recovery(path, change):
    """What a dead process held and cannot be read is a LedgerError that says so, and nothing is charged."""
    script = "import os, sys, stepwarden as sw; l = sw.SQLiteLedger(sys.argv[1]); sw.Run(ledger=l, tenant='t').__enter__(); sw.reserve(cost_usd=1).acquire(); os._exit(0)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {change}")

    with pytest.raises(sw.LedgerError, match=r"ledger\.db .* the file is damaged: "):
        recover(path)


def test_a_receipt_whose_run_is_gone_is_a_ledger_error(path):
    """A list that has to show a receipt of a run that is missing says that the file is damaged."""
    with sw.SQLiteLedger(path) as ledger:
        work(ledger)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM runs")

    with Reading(path) as reading:
        for look in (reading.receipts, lambda: reading.latest(5)):
            with pytest.raises(sw.LedgerError, match=r"ledger\.db is damaged: the run of a receipt is missing"):
                look()


def test_a_record_that_cannot_be_read_stops_recovery(path):
    """Where a dead run's records are damaged, opening says which record it is, and changes nothing."""
    script = "import os, sys, stepwarden as sw; l = sw.SQLiteLedger(sys.argv[1]); r = sw.Run(ledger=l); r.__enter__(); sw.reserve(cost_usd=1).acquire(); os._exit(0)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    database = sqlite3.connect(path)
    database.execute("UPDATE records SET data = x'7b7d' WHERE key & 1 = 1")
    database.commit()
    before = database.execute("SELECT * FROM records").fetchall()
    for opened in (sw.SQLiteLedger, recover):
        with pytest.raises(sw.LedgerError, match="is damaged: record 1 of run"):
            opened(path)
    assert database.execute("SELECT * FROM records").fetchall() == before
    database.close()


def test_two_ledgers_of_one_process_share_a_file(path):
    """Two ledgers on one file, in one process, write side by side, and closing one leaves the other's runs alone."""
    with sw.SQLiteLedger(path) as first, sw.Run(ledger=first) as kept:
        with sw.SQLiteLedger(path, durability="process") as second:
            assert second.recovered == ()
            threads = [threading.Thread(target=work, args=(one, 20)) for one in (first, second)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert recover(path) == ()
        with sw.step("still open"):
            pass
    with Reading(path) as reading:
        assert [str(run.status) for run in reading.runs()] == ["completed"] * 3
        assert reading.run(kept.id).receipts == 1
    assert findings_in(path) == []


def test_two_processes_write_one_file(path):
    """Several processes that write at the same time wait for each other, and each keeps all that is its own."""
    script = """
import sys
import stepwarden as sw
with sw.SQLiteLedger(sys.argv[1], durability="process") as ledger, sw.Run(ledger=ledger, name=sys.argv[2]):
    for _ in range(100):
        with sw.step("s"), sw.reserve(cost_usd="0.1") as hold:
            hold.settle(cost_usd="0.1")
"""
    started = [subprocess.Popen([sys.executable, "-c", script, str(path), str(number)]) for number in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    with Reading(path) as reading:
        assert sorted((run.name, run.receipts, run.total.calls) for run in reading.runs()) == [
            (str(number), 100, 100) for number in range(3)
        ]
    assert findings_in(path) == []


def test_a_clock_that_jumps_back(path):
    """A wall clock that jumps back leaves the order of the records and the chain as they are, and nothing ends before it began."""

    class Clock:
        def __init__(self):
            self.now = 1_700_000_000_000_000_000
            self.ticks = 0

        def monotonic_ns(self):
            self.ticks += 1_000
            return self.ticks

        def time_ns(self):
            return self.now

    clock = Clock()
    sw.configure(clock=clock)
    try:
        with sw.SQLiteLedger(path) as ledger:
            runs = []
            for _ in range(3):
                runs.append(work(ledger))
                clock.now -= 3_600_000_000_000
    finally:
        import time

        sw.configure(clock=time)
    with Reading(path) as reading:
        assert [row.id for row in reversed(reading.runs())] == [run.id for run in runs]
        rows = reading.runs()
        assert all(row.ended_at >= row.started_at for row in rows)
        assert rows[0].started_at < rows[-1].started_at
        for run in runs:
            names = [row.receipt.name for row in reversed(reading.receipts(ReceiptFilter(run=run.id)))]
            assert names == [one.name for one in run.receipts]
    assert findings_in(path) == []


def test_a_reader_during_heavy_writing(path):
    """Who reads while others write sees whole records in order, each page without a gap, and never waits for a writer."""
    done = threading.Event()

    def write():
        with sw.SQLiteLedger(path, durability="process") as ledger, sw.Run(ledger=ledger):
            while not done.is_set():
                with sw.step("s"):
                    sw.record_usage("m", input_tokens=1, cost_usd=1)

    sw.SQLiteLedger(path).close()
    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    try:
        with Reading(path) as reading:
            while seen < 200:
                for run in reading.runs():
                    records = [decode(one.data) for one in reading.records(run.id)]
                    assert [record["seq"] for record in records] == list(range(len(records)))
                    seen = max(seen, len(records))
                page = reading.receipts(limit=20)
                rest = reading.receipts(limit=20, after=page[-1].cursor) if page else ()
                numbers = [row.number for row in (*page, *rest)]
                assert len(set(numbers)) == len(numbers)
                reading.stats("step")
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert findings_in(path) == []


def test_a_forked_child_has_a_ledger_of_its_own(path):
    """A forked child neither uses nor closes its parent's file: its own runs go through a connection and a lock of its own, and the parent goes on."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger) as run:
        with sw.step("before"):
            pass
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with sw.Run(ledger=ledger, name="child"), sw.step("in the child"):
                    sw.reserve(cost_usd=1).acquire().settle(cost_usd=1)
                ledger.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        with sw.step("after"):
            pass
        assert recover(path) == ()
    with Reading(path) as reading:
        assert [(row.name, row.receipts) for row in reading.runs()] == [("child", 1), ("run", 2)]
        assert reading.run(run.id).status is sw.Status.COMPLETED
    assert findings_in(path) == []
    assert list(path.parent.glob("*-live-*")) == []


def test_a_child_that_dies_leaves_its_own_runs_only(path):
    """A forked child that dies is recovered, and its parent's open run is not touched, nor is the parent taken for dead."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger):
        child = os.fork()
        if child == 0:
            run = sw.Run(ledger=ledger, name="child")
            run.__enter__()
            sw.reserve(input_tokens=3, cost_usd=1).acquire()
            os._exit(0)
        os.waitpid(child, 0)
        (found,) = recover(path)
        assert (found.name, found.in_flight, found.uncertain.cost_usd) == ("child", 1, 1)
    assert kinds_in(path)[-1] == "run_ended" or records_in(path)


def test_an_interpreter_that_just_ends_has_written_everything(path):
    """A program that never closes its ledger has everything on the disk when it has ended, and leaves no lock."""
    script = """
import sys
import stepwarden as sw
sw.configure(ledger=sw.SQLiteLedger(sys.argv[1]))
async def main():
    with sw.step("not waited for"):
        sw.record_usage("m", input_tokens=1)
import asyncio
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert kinds_in(path) == ["run_started", "scope_opened", "usage", "receipt", "run_ended"]
    assert list(path.parent.glob("*-live-*")) == []
