"""What a dead process leaves is put together from its records: who spent what, what was open, what was in flight."""

import os
import subprocess
import sys
import textwrap
from decimal import Decimal

import pytest

import stepwarden as sw
from stepwarden.ledger import Reading, ReceiptFilter, recover
from stepwarden.ledger._lock import LiveLock, claim, names
from stepwarden.ledger._verify import verify
from tests.ledger.conftest import kinds_in

START = """
import os, sys
import stepwarden as sw
ledger = sw.SQLiteLedger(sys.argv[1])
PRICES = {"m": {"input": 1, "output": 2}}

def call(**options):
    return sw.reserve(**{"input_tokens": 100, "output_tokens": 50, "model": "m", **options}).acquire()

def die():
    # What nobody waits for is written a moment later; a call waits for all that came before it.
    os._exit(1)
"""


def die_in(path, body):
    """Run a body in another process, which dies in it."""
    script = START + textwrap.dedent(body)
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == 1


def receipts_of(path, run):
    """Return the receipts of a run, in the order in which they were written."""
    with Reading(path) as reading:
        assert (
            verify(run, lambda: ((one.data, one.head) for one in reading.records(run)), reading.end(run)).findings == ()
        )
        return [row.receipt for row in reversed(reading.receipts(ReceiptFilter(run=run), limit=100))]


def test_a_call_in_flight_is_owed(path):
    """A call in flight is charged its input at its price, and the rest of what it held is uncertain, on its step, its persona and its run."""
    die_in(
        path,
        """
        run = sw.Run(ledger=ledger, prices=PRICES, name="doomed", budget=sw.Budget(max_usd=1)).__enter__()
        @sw.persona(name="author", budget=sw.Budget(max_tokens=1_000))
        def author():
            with sw.step("plan"):
                call().settle(input_tokens=100, output_tokens=10)
            with sw.step("write", budget=sw.Budget(max_calls=5), model="m"):
                call()
                die()
        author()
        """,
    )
    (found,) = recover(path)
    assert (found.name, found.in_flight, found.abandoned) == ("doomed", 1, 2)
    assert found.total == sw.Usage(
        input_tokens=200, output_tokens=10, cost_usd=Decimal("0.00022"), calls=2, estimated_calls=1
    )
    assert found.uncertain == sw.Usage(output_tokens=50, cost_usd=Decimal("0.0001"))
    plan, write, author = receipts_of(path, found.id)
    assert (plan.name, plan.status, plan.uncertain) == ("plan", "completed", sw.Usage())
    assert (write.name, write.status, write.open_holds, write.uncertain) == ("write", "abandoned", 1, found.uncertain)
    assert write.own == sw.Usage(input_tokens=100, cost_usd=Decimal("0.0001"), calls=1, estimated_calls=1)
    assert write.calls == (sw.CallRecord("m", 100, 0, Decimal("0.0001"), "uncertain", False),)
    assert (author.own, author.total, author.uncertain) == (sw.Usage(), found.total, found.uncertain)
    assert (author.budget, write.budget) == (sw.Budget(max_tokens=1_000), sw.Budget(max_calls=5))
    assert (write.persona, write.parent_id, author.parent_id) == ("author", author.step_id, found.id)
    assert write.duration >= 0
    assert write.warnings == author.warnings == ("its process ended while it was open",)
    assert kinds_in(path)[-4:] == ["settlement", "receipt", "receipt", "run_ended"]


def test_everything_that_was_written_counts(path):
    """Usage after the fact, tools, clamped and released and left calls, and what passed a limit, are all on the receipt of the abandoned step."""
    die_in(
        path,
        """
        run = sw.Run(ledger=ledger, prices=PRICES).__enter__()
        with sw.step("busy", budget=sw.Budget(max_output_tokens=60, max_tool_calls=5)):
            sw.tool(name="look", side_effect="read_only")(lambda: None)()
            sw.record_usage("other", input_tokens=3, output_tokens=2, cost_usd="0.5", cache_read_tokens=2)
            call().release()
            left = call(output_tokens=10)
            left.__class__.leave(left)
            clamped = call(output_tokens=5_000)
            try:
                clamped.settle(input_tokens=130, output_tokens=90)
            except sw.BudgetExceededError:
                pass
            try:
                sw.tool(name="write", side_effect="read_only")(lambda: 1 / 0)()
            except ZeroDivisionError:
                pass
            ledger._engine.writer.wait()
            die()
        """,
    )
    (found,) = recover(path)
    (busy,) = receipts_of(path, found.id)
    assert (found.in_flight, found.abandoned) == (0, 1)
    assert busy.tools == (
        sw.ToolRecord("look", "completed", None),
        sw.ToolRecord("write", "failed", "ZeroDivisionError"),
    )
    assert busy.own.tool_calls == 2
    assert sorted(call.outcome for call in busy.calls) == ["recorded", "settled", "uncertain"]
    assert (busy.own.cache_read_tokens, busy.own.calls, busy.own.estimated_calls) == (2, 3, 1)
    assert (busy.clamped_calls, busy.own.output_tokens, busy.overshoot.output_tokens) == (1, 92, 32)
    assert busy.uncertain.output_tokens == 10
    assert busy.warnings[1:] == ("input estimate too low for 1 call: 30 tokens more",)
    assert busy.model in {"m", "other"}
    assert busy.total == busy.own


def test_a_hold_settled_after_it_was_uncertain_counts_once(path):
    """A hold that was left and then settled counts as what it was settled to, and nothing of it is uncertain."""
    die_in(
        path,
        """
        run = sw.Run(ledger=ledger, prices=PRICES).__enter__()
        with sw.step("s"):
            with sw.reserve(input_tokens=100, output_tokens=50, model="m") as hold:
                pass
            hold.settle(input_tokens=90, output_tokens=5)
            ledger._engine.writer.wait()
            die()
        """,
    )
    (found,) = recover(path)
    assert (found.total.input_tokens, found.total.output_tokens, found.total.calls) == (90, 5, 1)
    assert found.uncertain == sw.Usage()


def test_runs_inside_runs_are_counted_outward(path):
    """What a run inside another had spent, ended or not, is in the total of the scope around it, and each run ends once."""
    die_in(
        path,
        """
        outer = sw.Run(ledger=ledger, prices=PRICES, name="outer").__enter__()
        with sw.step("around"):
            with sw.Run(name="ended") as ended:
                call().settle(input_tokens=100, output_tokens=10)
            inner = sw.Run(name="inner").__enter__()
            with sw.step("inside"):
                call()
                die()
        """,
    )
    outer, inner = recover(path)
    assert (outer.name, inner.name) == ("outer", "inner")
    assert (inner.total.calls, outer.total.calls, outer.total.input_tokens) == (1, 2, 200)
    assert outer.uncertain == inner.uncertain == sw.Usage(output_tokens=50, cost_usd=Decimal("0.0001"))
    (around,) = receipts_of(path, outer.id)
    assert (around.own, around.total.calls, around.uncertain) == (sw.Usage(), 2, outer.uncertain)
    with Reading(path) as reading:
        assert [(row.name, str(row.status)) for row in reading.runs()] == [
            ("inner", "abandoned"), ("ended", "completed"), ("outer", "abandoned"),
        ]  # fmt: skip
    assert recover(path) == ()


def test_opening_recovers_and_says_so(path):
    """The next opening accounts for a dead process's runs, and tells which; one after that finds nothing."""
    die_in(path, 'run = sw.Run(ledger=ledger, name="doomed").__enter__(); call(cost_usd=1); die()')
    with sw.SQLiteLedger(path) as ledger:
        assert [run.name for run in ledger.recovered] == ["doomed"]
    with sw.SQLiteLedger(path) as ledger:
        assert ledger.recovered == ()
    assert names(path) == []


def test_what_was_not_put_on_the_lists_yet_is_put_there(path):
    """Receipts that a dead process had written and not yet listed are listed when it is recovered."""
    die_in(
        path,
        """
        run = sw.Run(ledger=ledger).__enter__()
        for number in range(5):
            with sw.step(f"s{number}"):
                pass
        die()
        """,
    )
    (found,) = recover(path)
    assert [one.name for one in receipts_of(path, found.id)] == [f"s{number}" for number in range(5)]
    assert all(one.status == "completed" for one in receipts_of(path, found.id))


def test_a_lock_tells_who_lives(path):
    """A lock is alive while it is held, in this process too; released it is gone, and one of a dead process is taken away."""
    lock = LiveLock(path)
    with claim(path, lock.name) as is_dead:
        assert not is_dead
    assert names(path) == [lock.name]
    child = os.fork()
    if child == 0:
        LiveLock(path)
        os._exit(0)
    os.waitpid(child, 0)
    (other,) = set(names(path)) - {lock.name}
    with claim(path, other) as is_dead:
        assert is_dead
    assert names(path) == [lock.name]
    lock.release()
    assert names(path) == []
    with claim(path, lock.name) as is_dead:
        assert is_dead


def test_a_lock_that_was_swept_is_taken_anew(path, monkeypatch):
    """A lock file that somebody took away between its making and its locking is not trusted: another one is made."""
    original = os.fstat
    swept = []

    def fstat(file):
        if not swept:
            (taken,) = path.parent.glob("*-live-*")
            taken.unlink()
            swept.append(taken)
        return original(file)

    monkeypatch.setattr(os, "fstat", fstat)
    lock = LiveLock(path)
    monkeypatch.undo()
    assert [one.name for one in path.parent.glob("*-live-*")] == [f"ledger.db-live-{lock.name}"]
    assert swept[0].name != f"ledger.db-live-{lock.name}"
    lock.release()


def test_a_lock_that_cannot_be_made_is_told(tmp_path):
    """Where no lock can be made beside the file, a LedgerError says so."""
    with pytest.raises(sw.LedgerError, match="no lock beside it"):
        LiveLock(tmp_path / "nowhere" / "ledger.db")
