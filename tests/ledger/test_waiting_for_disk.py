"""When somebody waits for the disk, and when nobody does: before each call, and before each end."""

import asyncio
import gc
import signal
import sqlite3
import threading

import pytest

import stepwarden as sw
from stepwarden.core import _tree
from stepwarden.ledger import _store
from tests.ledger.conftest import kinds_in, records_in


@pytest.fixture
def commits(monkeypatch):
    """Count the commits, and let a test hold them up or make them fail."""

    class Commits:
        count = 0
        gate = None
        failure = None
        is_held_up = threading.Event()

    found = Commits()
    found.is_held_up = threading.Event()
    original = _store.SQLiteStore.write

    def write(self, entries):
        found.count += bool(entries)
        if found.gate is not None and entries:
            found.is_held_up.set()
            found.gate.wait()
        if found.failure is not None:
            raise found.failure
        return original(self, entries)

    monkeypatch.setattr(_store.SQLiteStore, "write", write)
    return found


def test_a_hold_is_on_the_disk_before_the_call(path):
    """When a reservation returns, its hold is durable, with its step and its run."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger), sw.step("ask"):
        with sw.reserve(input_tokens=5, output_tokens=7, cost_usd="0.1", model="m") as hold:
            assert kinds_in(path) == ["run_started", "scope_opened", "hold"]
            record = records_in(path)[-1]
            assert (record["input_tokens"], record["output_tokens"], record["cost_usd"]) == (5, 7, "0.1")
            hold.settle(input_tokens=5, output_tokens=1, cost_usd="0.05")


def test_a_step_is_left_when_its_receipt_is_on_the_disk(path):
    """When a step, a persona or a run has been left, its records are durable."""
    with sw.SQLiteLedger(path) as ledger:
        with sw.Run(ledger=ledger):
            with sw.step("one"):
                sw.record_usage("m", input_tokens=1, cost_usd=1)
            assert kinds_in(path) == ["run_started", "scope_opened", "usage", "receipt"]
        assert kinds_in(path)[-1] == "run_ended"


def test_a_step_that_only_runs_costs_one_record(path):
    """A step without calls is one record, and a persona around steps is written down once before it ends."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger):

        @sw.persona
        def author():
            for _ in range(3):
                with sw.step("s"):
                    pass

        author()
    assert kinds_in(path) == ["run_started", "scope_opened", "receipt", "receipt", "receipt", "receipt", "run_ended"]


def test_coroutines_wait_without_blocking_their_loop(path, commits):
    """While a coroutine waits for its hold to be durable, and for its receipt, the loop runs other tasks."""
    with sw.SQLiteLedger(path) as ledger:

        @sw.step
        async def ask():
            async with sw.reserve(cost_usd="0.1") as hold:
                hold.settle(cost_usd="0.1")

        async def main():
            async with sw.Run(ledger=ledger):
                for _ in range(2):
                    commits.gate = threading.Event()
                    commits.is_held_up.clear()
                    asked = asyncio.create_task(ask())
                    await asyncio.to_thread(commits.is_held_up.wait)
                    # The commit stands still, and this task runs.
                    assert not asked.done()
                    commits.gate.set()
                    await asked

        asyncio.run(main())
    assert kinds_in(path).count("receipt") == 2


def test_a_sync_step_on_a_loops_thread_does_not_wait(path, commits):
    """A sync step that ends on a thread that runs a loop is left at once, and the exit of its run waits for it."""
    with sw.SQLiteLedger(path) as ledger:

        async def main():
            async with sw.Run(ledger=ledger):
                commits.gate = threading.Event()
                for _ in range(3):
                    with sw.step("s"):
                        pass
                commits.gate.set()

        asyncio.run(main())
    assert kinds_in(path) == ["run_started", "receipt", "receipt", "receipt", "run_ended"]


def test_a_sync_run_on_a_loops_thread_waits_at_its_exit(path):
    """A `with Run()` in a coroutine has everything on the disk when it has been left."""
    with sw.SQLiteLedger(path) as ledger:

        async def main():
            with sw.Run(ledger=ledger), sw.step("s"):
                pass
            assert kinds_in(path) == ["run_started", "receipt", "run_ended"]

        asyncio.run(main())


def test_those_who_wait_share_a_commit(path, commits):
    """Tasks that wait at the same time are served by far fewer commits than there are records."""
    with sw.SQLiteLedger(path) as ledger:

        @sw.step
        async def ask():
            async with sw.reserve(cost_usd="0.1") as hold:
                hold.settle(cost_usd="0.1")

        async def main():
            async with sw.Run(ledger=ledger):
                await asyncio.gather(*(ask() for _ in range(50)))

        asyncio.run(main())
    assert len(records_in(path)) == 2 + 50 * 4
    assert commits.count <= 10


@pytest.mark.parametrize("is_async", [False, True])
def test_no_call_is_made_that_cannot_be_recorded(path, commits, is_async):
    """Where the hold cannot be made durable, it is given back, nothing is spent, and a LedgerError says why."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger, budget=sw.Budget(max_calls=1)) as run:
        reservation = sw.reserve(input_tokens=5, cost_usd="0.1")

        async def acquire():
            return await reservation

        commits.failure = sqlite3.OperationalError("database or disk is full")
        for _ in range(2):
            with pytest.raises(sw.LedgerError, match=r"ledger\.db cannot record: database or disk is full"):
                asyncio.run(acquire()) if is_async else reservation.acquire()
            assert run.held == run.total == sw.Usage()
        commits.failure = None
        # What could not be written is written now, in its order.
        reservation.acquire().settle(input_tokens=5, cost_usd="0.1")
    outcomes = [one.get("outcome") for one in records_in(path)]
    assert outcomes == [None, None, "released", None, "released", None, "settled", None]


def test_a_step_whose_receipt_cannot_be_kept_raises_from_its_error(path, commits):
    """A step that cannot be recorded raises a LedgerError, from the step's own error where there is one."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger) as run:

        @sw.step
        def fail():
            raise OSError("mine")

        @sw.step
        def succeed():
            return 1

        commits.failure = sqlite3.OperationalError("disk I/O error")
        with pytest.raises(sw.LedgerError) as caught:
            fail()
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(sw.LedgerError):
            succeed()
        commits.failure = None
    assert [str(one.status) for one in run.receipts] == ["failed", "completed"]
    assert kinds_in(path) == ["run_started", "receipt", "receipt", "run_ended"]


def test_closing_says_what_could_not_be_kept(path, commits):
    """Closing a ledger that cannot write is a LedgerError, and it is closed after it."""
    ledger = sw.SQLiteLedger(path)
    run = sw.Run(ledger=ledger)
    run.__enter__()
    commits.failure = sqlite3.OperationalError("disk I/O error")
    with pytest.raises(sw.LedgerError, match="disk I/O error"):
        ledger.close()
    assert ledger.is_closed
    with pytest.raises(sw.LedgerError, match="closed"):
        run.__exit__(None, None, None)
    with sw.SQLiteLedger(path) as again:
        assert again.recovered == ()  # not even its start could be written


def test_a_ledger_closed_under_a_run_is_heard_of(path):
    """Once its ledger is closed a run can make no call, and its steps and its end say so, though they end."""
    ledger = sw.SQLiteLedger(path)
    run = sw.Run(ledger=ledger)
    run.__enter__()
    step = sw.step("s")
    step.__enter__()
    record_late = sw.propagate(sw.record_usage)
    ledger.close()
    with pytest.raises(sw.LedgerError, match="closed"):
        sw.reserve(cost_usd=1).acquire()
    with pytest.raises(sw.LedgerError, match="closed"):
        step.__exit__(None, None, None)
    with pytest.raises(sw.LedgerError, match="closed"):
        run.__exit__(None, None, None)
    assert run.status is sw.Status.COMPLETED
    with pytest.raises(sw.LedgerError, match="late"):
        record_late("m", input_tokens=1)
    assert run.total.input_tokens == 1


def test_late_usage_follows_under_a_new_head(path):
    """Usage that comes after the run's end is a late record, and the run's totals and head follow it."""
    with sw.SQLiteLedger(path) as ledger:
        with sw.Run(ledger=ledger) as run:
            sw.record_usage("m", input_tokens=1, cost_usd=1)
            record_late = sw.propagate(sw.record_usage)
        with ledger.read() as reading:
            before = reading.end(run.id)
        record_late("m", input_tokens=2, cost_usd=3)
        with ledger.read() as reading:
            after, row = reading.end(run.id), reading.run(run.id)
    late = records_in(path)[-1]
    assert (late["kind"], late["of"], late["input_tokens"]) == ("late", "usage", 2)
    assert (after.count, after.head != before.head) == (before.count + 1, True)
    assert (row.total.input_tokens, row.total.cost_usd) == (3, 4)


def test_a_signal_handler_in_a_commit_loses_nothing(path, monkeypatch):
    """A handler that raises right after a commit, or before it, neither loses a record nor writes one twice."""
    original = _store.SQLiteStore.write
    raised = []

    class InterruptionError(Exception):
        pass

    def handler(number, frame):
        raised.append(1)
        raise InterruptionError

    class Connection:
        """Be the connection, and raise the signal after a statement."""

        def __init__(self, real):
            self.real = real
            self.after = None

        def execute(self, text, *values):
            result = self.real.execute(text, *values)
            if self.after is not None and text.startswith(self.after):
                self.after = None
                signal.raise_signal(signal.SIGUSR1)
            return result

        def __getattr__(self, name):
            return getattr(self.real, name)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger) as run:
            store = ledger._engine.writer._store
            connection = store._database = Connection(store._database)
            for after in ("BEGIN", "COMMIT"):
                with sw.step(f"quiet before {after}"):
                    pass
                connection.after = after
                with pytest.raises(InterruptionError), sw.step(f"interrupted after {after}"):
                    pass
            with sw.step("at last"):
                pass
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(raised) == 2
    assert original is _store.SQLiteStore.write
    with sw.ledger.Reading(path) as reading:
        kept = reading.receipts(sw.ledger.ReceiptFilter(run=run.id))
    assert [row.receipt.name for row in reversed(kept)] == [one.name for one in run.receipts]
    assert [record["seq"] for record in records_in(path)] == list(range(len(records_in(path))))


def test_a_finaliser_inside_a_commit_does_not_wait_for_itself(path, monkeypatch):
    """A generator step that the garbage collector closes in the middle of a commit neither deadlocks nor is lost."""

    @sw.step
    def generate():
        yield 1
        yield 2

    original = _store.SQLiteStore.write

    def write(self, entries):
        dropped.clear()
        gc.collect()
        return original(self, entries)

    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger) as run:
        left = generate()
        next(left)
        dropped = [left]
        del left
        monkeypatch.setattr(_store.SQLiteStore, "write", write)
        with sw.step("s"):
            pass
    assert sorted(one.name for one in run.receipts) == ["generate", "s"]
    assert kinds_in(path).count("receipt") == 2


def test_a_call_whose_run_ends_meanwhile_is_not_released(path, commits):
    """Where a run ends while one of its calls waits to be durable and cannot be, the call stays uncertain: nobody releases it."""
    with sw.SQLiteLedger(path) as ledger:
        run = sw.Run(ledger=ledger)
        run.__enter__()
        ledger._engine.writer.wait()
        commits.gate = threading.Event()
        commits.failure = sqlite3.OperationalError("disk I/O error")
        caught = []

        def acquire():
            with pytest.raises(sw.LedgerError) as error:
                sw.reserve(input_tokens=1, output_tokens=5, cost_usd=1).acquire()
            caught.append(error)

        waiting = threading.Thread(target=sw.propagate(acquire))
        waiting.start()
        commits.is_held_up.wait()
        run.close(sw.Status.COMPLETED)
        commits.gate.set()
        waiting.join()
        commits.failure = None
        run.__exit__(None, None, None)
        assert len(caught) == 1
        assert run.uncertain.output_tokens == 5
    assert [one.get("outcome") for one in records_in(path)][-2:] == ["uncertain", None]


def test_an_end_that_was_cut_short_is_made_up_for(path, monkeypatch):
    """A step whose end a signal handler cut short has its receipt in the ledger once, when its run ends."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger) as run:
        original = run.journal.closed

        def interrupted(scope):
            monkeypatch.undo()
            raise KeyboardInterrupt

        scope = sw.step("cut short").__enter__()
        monkeypatch.setattr(run, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scope.close(sw.Status.COMPLETED)
        assert run.receipts == ()
        assert original == run.journal.closed
        noted = sw.step("cut later").__enter__()
        noted.close(sw.Status.COMPLETED)
        run.tree.open[noted.serial] = noted  # as if it had been cut short after it was noted
    assert sorted(one.name for one in run.receipts) == ["cut later", "cut short"]
    assert kinds_in(path).count("receipt") == 2


def test_a_run_can_be_signed(path, tmp_path):
    """With `sign`, the run's end is signed, and what comes late is signed anew."""
    from stepwarden.ledger._sign import read_public_key, write_keys
    from stepwarden.ledger._stored import verify_run

    private, public = write_keys(tmp_path / "key")
    with sw.SQLiteLedger(path) as ledger:
        with sw.Run(ledger=ledger, sign=private) as run, sw.step("s"):
            record_late = sw.propagate(sw.record_usage)
        for _ in range(2):
            with ledger.read() as reading:
                verdict = verify_run(reading, run.id, read_public_key(public))
            assert (verdict.findings, verdict.signed) == ((), True)
            record_late("m", input_tokens=1)


def test_a_hook_that_comes_late_is_heard_in_a_recorded_run(path):
    """A run whose activations are waited for takes the short way only while no hook hears of them."""
    heard = []
    hooks = sw.Hooks()

    @sw.step
    def sync():
        pass

    @sw.step
    async def suspended():
        pass

    async def main():
        async with sw.Run(ledger=ledger, hooks=hooks) as run:
            for name in ("before", "after"):
                sync()
                await suspended()
                hooks.on("PostStep")(lambda event, name=name: heard.append((name, event.step)))
        return run

    with sw.SQLiteLedger(path) as ledger:
        run = asyncio.run(main())

    assert heard == [("before", "sync"), ("before", "suspended")]
    assert [receipt.name for receipt in run.receipts] == ["sync", "suspended"] * 2
    assert kinds_in(path).count("receipt") == 4


def test_a_step_that_ends_out_of_order_in_a_recorded_run_is_told(path):
    """A step that is left while one inside it is open raises, and the receipts of both are on the disk by then."""

    @sw.step
    async def outer():
        sw.step("inner").__enter__()

    async def main():
        async with sw.Run(ledger=ledger):
            with pytest.raises(sw.ScopeOrderError, match="was left while step `inner`"):
                await outer()
            return kinds_in(path).count("receipt")

    with sw.SQLiteLedger(path) as ledger:
        assert asyncio.run(main()) == 2


def test_a_coroutine_step_that_goes_on_in_a_forked_child_waits_for_no_disk(path, monkeypatch):
    """Where the process has forked in the middle of a recorded step, the child leaves it and waits for nobody's disk."""

    @sw.step
    async def work(tree):
        forked.setattr(tree, "lock", _tree._forked)
        return "done"

    async def main():
        with sw.Run(ledger=ledger) as run:
            result = await asyncio.wait_for(work(run.tree), 30)
            forked.undo()
            return result

    with sw.SQLiteLedger(path) as ledger, monkeypatch.context() as forked:
        assert asyncio.run(main()) == "done"
    assert kinds_in(path).count("receipt") == 1  # the parent's, which ends the run
