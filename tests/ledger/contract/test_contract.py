"""What every ledger keeps to: the same receipts, in the same order, wherever they are kept."""

import asyncio
import copy
import threading
from decimal import Decimal

import pytest

import stepwarden as sw


def call(tokens=5, cost="0.001"):
    """Reserve, make and settle a call."""
    with sw.reserve(input_tokens=10, output_tokens=20, cost_usd="0.01", model="m") as hold:
        hold.settle(input_tokens=10, output_tokens=tokens, cost_usd=cost)


@sw.step
def plan():
    call()


@sw.step(name="write", error_boundary="continue", budget=sw.Budget(max_calls=1))
def write_twice():
    call()
    call()


@sw.persona(name="author", budget=sw.Budget(max_usd=1))
async def author():
    plan()
    write_twice()
    await asyncio.to_thread(plan)


def test_what_a_ledger_gives_back_is_what_the_run_had(ledger):
    """The receipts that a ledger gives back equal those of the run, with every number, in completion order."""
    with sw.Run(ledger=ledger) as run:
        asyncio.run(author())
        with sw.step("look"):
            sw.tool(name="read", side_effect="read_only")(lambda: None)()
            sw.record_usage("other", input_tokens=3, cost_usd="0.5", cache_read_tokens=2)
    assert ledger.latest(10) == run.receipts
    assert [one.name for one in run.receipts] == ["plan", "write", "plan", "author", "look"]
    assert [str(one.status) for one in run.receipts] == ["completed", "skipped", "completed", "completed", "completed"]


def test_the_newest_come_last_and_no_more_than_asked(ledger):
    """`latest` gives at most as many as are asked for, the newest, in the order in which they were left."""
    with sw.Run(ledger=ledger):
        for number in range(5):
            with sw.step(f"s{number}"):
                pass
    assert [one.name for one in ledger.latest(2)] == ["s3", "s4"]
    assert ledger.latest(0) == ()


def test_several_runs_share_a_ledger(ledger):
    """Runs one after the other and at the same time keep their receipts in one ledger, each with its own run's id."""
    both_in = threading.Barrier(2)

    def work():
        with sw.Run(ledger=ledger) as run, sw.step("s"):
            both_in.wait()
        return run.id

    ids = []
    threads = [threading.Thread(target=lambda: ids.append(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sw.Run(ledger=ledger) as last, sw.step("t"):
        pass
    assert {one.run_id for one in ledger.latest(9)} == {*ids, last.id}


def test_a_run_inside_a_run_keeps_to_its_ledger(ledger):
    """A run inside another one that brings no ledger of its own leaves its receipts in the outer one's, too."""
    with sw.Run(ledger=ledger) as outer, sw.step("around"), sw.Run() as inner, sw.step("inside"):
        call()
    assert [one.name for one in ledger.latest(9)] == ["inside", "around"]
    assert [one.name for one in inner.receipts] == ["inside"]
    assert [one.name for one in outer.receipts] == ["around"]
    assert outer.receipts[0].total.calls == 1


def test_a_run_inside_may_bring_another_ledger(ledger):
    """What happens in a run with a ledger of its own goes there, and not to that of the run around it."""
    other = sw.MemoryLedger()
    with sw.Run(ledger=ledger), sw.Run(ledger=other), sw.step("inside"):
        call()
    assert [one.name for one in other.receipts] == ["inside"]
    assert ledger.latest(9) == ()


def test_the_configured_ledger_is_that_of_implicit_runs(ledger):
    """A step outside every run leaves its receipt in the configured ledger, and in `receipts` as always."""
    sw.configure(ledger=ledger)
    plan()
    assert [one.name for one in ledger.latest(9)] == ["plan"]
    assert sw.receipts()[-1:] == ledger.latest(1)


def test_run_receipts_stay_the_newest_in_memory(ledger):
    """`receipts`, `receipts_dropped` and `drain` of a run mean its newest receipts, whatever the ledger keeps."""
    with sw.Run(ledger=ledger, max_receipts=2) as run:
        for number in range(4):
            with sw.step(f"s{number}"):
                pass
        assert [one.name for one in run.receipts] == ["s2", "s3"]
        assert run.receipts_dropped == 2
        assert len(run.drain()) == 2
        assert run.receipts == ()
    assert [one.name for one in ledger.latest(9)] == ["s0", "s1", "s2", "s3"]


@pytest.mark.parametrize("end", ["fails", "is cancelled", "is abandoned", "is denied"])
def test_every_end_leaves_its_receipt(ledger, end):
    """However an activation ends, its receipt is in the ledger once, with that status."""
    hooks = sw.Hooks()
    if end == "is denied":
        hooks.on("PreStep")(lambda event: sw.Deny("no"))

    @sw.step
    def generate():
        yield 1

    @sw.step
    def fail():
        raise OSError("disk")

    def leave_open():
        with pytest.raises(sw.ScopeOrderError), sw.Run(ledger=ledger):
            sw.step("left open").__enter__()

    if end == "is abandoned":
        leave_open()
    else:
        with sw.Run(ledger=ledger, hooks=hooks):
            if end == "fails":
                with pytest.raises(OSError, match="disk"):
                    fail()
            elif end == "is cancelled":
                started = generate()
                next(started)
                started.close()
            else:
                with pytest.raises(sw.HookDeniedError):
                    fail()
    statuses = {"fails": "failed", "is cancelled": "cancelled", "is abandoned": "abandoned", "is denied": "denied"}
    assert [str(one.status) for one in ledger.latest(9)] == [statuses[end]]


def test_a_hold_that_was_left_open_is_on_the_receipt(ledger):
    """A hold that a step leaves open is counted on its receipt, and what it may cost stays uncertain on the run."""
    with sw.Run(ledger=ledger) as run:
        with sw.step("leaves"):
            sw.reserve(input_tokens=5, output_tokens=7, cost_usd=1, model="m").acquire()
        assert run.held.calls == 1
    (receipt,) = ledger.latest(9)
    assert receipt == run.receipts[0]
    assert receipt.open_holds == 1
    assert run.uncertain.output_tokens == 7


def test_many_threads_and_tasks_lose_nothing(ledger):
    """Steps that end at the same time in threads and in tasks each leave exactly one receipt."""

    async def tasks():
        async with sw.Run(ledger=ledger):

            @sw.step
            async def one():
                async with sw.reserve(cost_usd="0.1") as hold:
                    hold.settle(cost_usd="0.05")

            await asyncio.gather(*(one() for _ in range(40)))

    def steps():
        with sw.Run(ledger=ledger):
            for _ in range(20):
                plan()

    threads = [threading.Thread(target=steps) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    kept = ledger.latest(1_000)
    assert len(kept) == len({one.step_id for one in kept}) == 40 + 80
    assert sum(one.own.cost_usd for one in kept) == Decimal("0.05") * 40 + Decimal("0.001") * 80


def test_a_closed_ledger_takes_no_run(make_ledger):
    """A run that is given a closed ledger cannot be entered, says so, and can be entered by nobody else either."""
    ledger = make_ledger()
    ledger.close()
    ledger.close()
    run = sw.Run(ledger=ledger)
    with pytest.raises(sw.LedgerError, match="closed"):
        run.__enter__()
    assert sw.current_run() is None
    with pytest.raises(sw.LedgerError, match="closed"):
        ledger.latest(1)
    with pytest.raises(sw.LedgerError, match="closed"), ledger:
        pass


def test_leaving_its_block_closes_a_ledger(make_ledger):
    """A ledger is a context manager that closes it, after an error too."""
    with pytest.raises(OSError, match="stop"), make_ledger() as ledger:
        raise OSError("stop")
    assert ledger.is_closed
    with make_ledger() as again, sw.Run(ledger=again), sw.step("s"):
        pass


def test_a_ledger_is_nothing_to_be_copied_into_a_run(ledger):
    """What is no ledger is a DefinitionError that names the argument."""
    for wrong in ("ledger.db", 5, sw.MemoryLedger, copy.copy):
        with pytest.raises(sw.DefinitionError, match=r"run\.ledger"):
            sw.Run(ledger=wrong)


def test_a_key_must_be_a_path_of_one(ledger):
    """What is to sign a run is the path of a key file: anything else is named, and so is a file without a key."""
    for wrong in (5, "", b"key"):
        with pytest.raises(sw.DefinitionError, match=r"run\.sign"):
            sw.Run(ledger=ledger, sign=wrong)
    run = sw.Run(ledger=ledger, sign="/nowhere/key")
    with pytest.raises(sw.StepwardenError, match=r"sign|key"), run:
        pass
    assert ledger.latest(1) == ()
