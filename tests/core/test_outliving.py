"""Whoever outlives a step stays under its contract, and changes nothing of what the step has left."""

import asyncio
import contextlib
import threading
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

READ = sw.tool(name="read", side_effect="read_only")(lambda: "text")
WRITE = sw.tool(name="write", side_effect="workspace_write")(lambda: None)


class Background:
    """Call functions later, under the scope in which it was made: a background task, as a thread has it."""

    def __init__(self):
        self.call = sw.propagate(lambda function: function())

    def __call__(self, function):
        """Call a function from a thread that never opened a scope; return what it returned, raise what it raised."""
        outcome = []

        def work():
            try:
                outcome.append((self.call(function), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
        value, error = outcome[0]
        if error is not None:
            raise error
        return value


def spend():
    """Record one call."""
    sw.record_usage("late-model", input_tokens=5, output_tokens=1, cost_usd="0.5")


def hold_and_settle():
    """Take a hold and settle it."""
    with sw.reserve(input_tokens=2, output_tokens=50, cost_usd="0.2") as hold:
        hold.settle(input_tokens=2, output_tokens=1, cost_usd="0.1")


def hold_and_lose():
    """Take a hold and leave it open."""
    with sw.reserve(input_tokens=2, output_tokens=3, cost_usd="0.2"):
        pass


def nested_step():
    """Open a step and spend in it."""
    with sw.step("nested"):
        spend()


LATE = [spend, hold_and_settle, hold_and_lose, READ, WRITE, nested_step]


@pytest.mark.parametrize("how", LATE, ids=["record", "settle", "uncertain", "tool", "denied tool", "step"])
def test_late_work_changes_nothing_of_a_closed_step(how):
    """Whatever a background task does, `own`, `total` and the receipt of the step that it outlives stay the same."""
    budget = sw.Budget(max_tokens=20, max_output_tokens=4, max_usd=1, max_calls=1, max_tool_calls=1)
    with sw.Run() as run, sw.step("around"):
        with sw.step("closed", side_effect_level="read_only", budget=budget) as closed:
            sw.record_usage("own-model", input_tokens=10, cost_usd="0.4")
            late = Background()
        before = (closed.own, closed.total, closed.receipt)
        for _ in range(2):
            with contextlib.suppress(sw.StepwardenError):
                late(how)
        assert (closed.own, closed.total) == before[:2]
        assert closed.receipt == before[2]
        assert next(receipt for receipt in run.receipts if receipt.name == "closed") == before[2]


@given(st.lists(st.sampled_from(LATE), max_size=6))
def test_late_usage_is_counted_once(acts):
    """What comes late is in the run's total exactly once, and all own numbers together are that total."""
    with sw.Run() as run:
        with sw.step("around") as around:
            with sw.persona("inner"), sw.step("closed", side_effect_level="read_only"):
                spend()
                late = Background()
            for act in acts:
                with contextlib.suppress(sw.ToolDeniedError):
                    late(act)
            assert run.held == sw.Usage()
        owns = [receipt.own for receipt in run.receipts] + [run.own]
        expected = Decimal("0.5") * (1 + acts.count(spend) + acts.count(nested_step))
        expected += Decimal("0.1") * acts.count(hold_and_settle)
        assert sum(usage.cost_usd for usage in owns) == run.total.cost_usd == around.total.cost_usd == expected
        assert sum(usage.tool_calls for usage in owns) == run.total.tool_calls == acts.count(READ)
        assert run.uncertain.cost_usd == Decimal("0.2") * acts.count(hold_and_lose)


def test_late_usage_goes_to_the_nearest_open_scope_marked_late():
    """Late numbers are the own of the nearest scope that is still open, and its receipt says how much is late."""
    with sw.Run() as run:
        with sw.persona("open"), sw.step("closed"), sw.step("closed too"):
            pass
        with sw.persona("open") as persona:
            with sw.step("outer"), sw.step("inner"):
                late = Background()
            sw.record_usage(input_tokens=100)
            late(spend)
            late(READ)
            assert (persona.own.input_tokens, persona.own.tool_calls) == (105, 1)
        late(spend)
        assert (run.own.input_tokens, run.total.input_tokens) == (5, 110)
    receipt = run.receipts[-1]
    assert (receipt.late.input_tokens, receipt.late.cost_usd, receipt.late.tool_calls) == (5, Decimal("0.5"), 1)
    assert (receipt.own.input_tokens, receipt.total.input_tokens) == (105, 105)


def test_late_work_stays_under_the_closed_limits():
    """A late counter is checked against the closed step's limits: they go on where the step has stopped."""
    with sw.Run() as run:
        with sw.step("closed", budget=sw.Budget(max_tokens=10, max_tool_calls=1)) as closed:
            sw.record_usage(input_tokens=4)
            late = Background()
        late(spend)
        with pytest.raises(sw.BudgetExceededError) as caught:
            late(lambda: sw.record_usage(input_tokens=1))
        assert (caught.value.scope_id, caught.value.consumed, caught.value.phase) == (closed.id, 11, "record")
        with pytest.raises(sw.BudgetExceededError):
            late(lambda: sw.reserve(input_tokens=1).acquire())
        late(READ)
        with pytest.raises(sw.BudgetExceededError):
            late(READ)
        assert (run.total.input_tokens, run.total.output_tokens, run.total.tool_calls) == (10, 1, 1)


def test_late_holds_stay_under_the_closed_limits():
    """A late hold has only the room that the closed step has left, and is held on every scope around it."""
    with sw.Run() as run, sw.step("around") as around:
        with sw.step("closed", budget=sw.Budget(max_output_tokens=10)):
            late = Background()
        hold = late(lambda: sw.reserve(output_tokens=50).acquire())
        assert hold.output_tokens == around.held.output_tokens == run.held.output_tokens == 10
        with pytest.raises(sw.ReserveTimeoutError):
            late(lambda: sw.reserve(output_tokens=1, wait=False).acquire())
        hold.settle(input_tokens=0, output_tokens=10)
        assert (around.own.output_tokens, run.held.output_tokens) == (10, 0)
    assert run.receipts[-1].late.output_tokens == 10


def test_late_work_stays_under_the_closed_policy():
    """Tools of a background task meet the policy of the step that it outlives."""
    with sw.Run():
        with sw.persona("p", model="m"), sw.step("closed", side_effect_level="read_only"):
            late = Background()
        assert late(READ) == "text"
        with pytest.raises(sw.ToolDeniedError):
            late(WRITE)
        assert late(sw.current_policy) == sw.Policy(side_effect_level="read_only")


@pytest.mark.parametrize("opens", [sw.step, sw.persona, None], ids=["step", "persona", "run"])
def test_what_late_work_opens_stays_under_the_closed_contract(opens):
    """A step, persona or run that a background task opens is under the limits and policy of the step it outlives."""

    def work():
        with sw.Run() if opens is None else opens("new"):
            with pytest.raises(sw.ToolDeniedError):
                WRITE()
            sw.record_usage(input_tokens=11)

    with sw.Run() as run, sw.step("around") as around:
        with sw.step("closed", side_effect_level="read_only", budget=sw.Budget(max_tokens=10)) as closed:
            late = Background()
        with pytest.raises(sw.BudgetExceededError) as caught:
            late(work)
        assert caught.value.scope_id == closed.id
        assert run.total.input_tokens == around.total.input_tokens == 11


def test_a_task_that_outlives_its_step():
    """An asyncio task left running has its step as leaf, late, while its maker's scope moves on."""

    async def scenario():
        go = asyncio.Event()

        async def background():
            await go.wait()
            sw.record_usage(input_tokens=5)
            assert sw.current_step().name == "closed"
            async with sw.step("later") as later:
                sw.record_usage(input_tokens=1)
            return later

        @sw.step(name="closed", budget=sw.Budget(max_tokens=6))
        async def spawn():
            return asyncio.create_task(background()), sw.current_step()

        async with sw.Run() as run, sw.step("around") as around:
            task, closed = await spawn()
            assert sw.current_step() is around
            go.set()
            later = await task
            assert later.parent is closed
            assert (around.own.input_tokens, around.total.input_tokens, run.total.input_tokens) == (5, 6, 6)
            assert closed.receipt.total.input_tokens == 0
        assert run.receipts[-1].late.input_tokens == 5

    asyncio.run(scenario())


def test_a_thread_with_the_number_of_a_dead_one_is_another_thread():
    """A step closed by a thread that has died is outlived by a new thread, even where that has the same number."""
    made = {}

    def first():
        with run.attach(), sw.step("closed", tools=[]):
            made["late"] = sw.propagate(sw.current_policy)
        made["number"] = threading.get_ident()

    def second():
        made["policy"], made["again"] = made["late"](), threading.get_ident()

    with sw.Run() as run:
        for _ in range(20):
            for work in (first, second):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join(60)
            assert made["policy"] == sw.Policy(tools=[])
            if made["number"] == made["again"]:
                return
    pytest.skip("no thread got the number of a dead one")


def test_after_its_run_has_closed_usage_is_late_and_new_work_is_refused():
    """After the run has closed, a record is added to it, and a reserve, tool or step is a `RunClosedError`."""
    with sw.Run(budget=sw.Budget(max_tokens=10)) as run, sw.step("closed"):
        late = Background()
    late(spend)
    assert (run.own.input_tokens, run.total.input_tokens, run.total.calls) == (5, 5, 1)
    assert run.receipts[0].own.calls == 0
    with pytest.raises(sw.BudgetExceededError):
        late(spend)
    assert run.total.input_tokens == 10
    for refused in (lambda: sw.reserve(input_tokens=1).acquire(), READ, nested_step):
        with pytest.raises(sw.RunClosedError):
            late(refused)
    assert (run.total.input_tokens, run.held, len(run.receipts)) == (10, sw.Usage(), 1)


def test_after_a_child_run_has_closed_its_late_usage_reaches_the_run_around():
    """Work that outlives a child run is late in the nearest open scope around that run, and refused new calls."""
    with sw.Run() as outer, sw.step("around") as around:
        with sw.Run() as inner, sw.step("closed"):
            late = Background()
        late(spend)
        assert (around.own.input_tokens, outer.total.input_tokens, inner.total.input_tokens) == (5, 5, 5)
        with pytest.raises(sw.RunClosedError):
            late(lambda: sw.reserve(input_tokens=1).acquire())
    assert outer.receipts[-1].late.input_tokens == 5


def test_a_run_opened_after_its_run_has_closed_is_still_inside_the_open_one():
    """A run that late work opens is a child of the open run around the closed one, and charged to it."""

    def work():
        with sw.Run() as again:
            spend()
        return again

    with sw.Run() as outer:
        with sw.Run():
            late = Background()
        again = late(work)
        assert again.total.input_tokens == 5
        assert outer.total.input_tokens == 5


def test_a_hold_settled_after_its_scope_is_late():
    """A hold that outlives its scope is the nearest open scope's, and its settling is late there."""
    with sw.Run() as run, sw.step("around") as around:
        with sw.step("closed") as closed:
            hold = sw.reserve(input_tokens=5, cost_usd=1).acquire()
        before = closed.receipt
        assert before.open_holds == 1
        assert (around.held.input_tokens, run.held.cost_usd) == (5, 1)
        hold.settle(output_tokens=0, input_tokens=4, cost_usd="0.5")
        assert closed.receipt == before
        assert (around.own.input_tokens, around.held, run.held) == (4, sw.Usage(), sw.Usage())
        with pytest.raises(sw.HoldClosedError):
            hold.settle(output_tokens=0, input_tokens=4)
    assert run.receipts[-1].late.input_tokens == 4


def test_a_hold_that_outlives_its_run_is_uncertain_until_it_is_settled():
    """A run turns the holds open at its end into uncertain ones, and a later settle replaces that."""
    with sw.Run() as run, sw.step("closed"):
        hold = sw.reserve(input_tokens=5, output_tokens=7, cost_usd=1).acquire()
    assert run.held == sw.Usage()
    assert (run.total.input_tokens, run.uncertain.output_tokens, run.uncertain.cost_usd) == (5, 7, 1)
    hold.settle(input_tokens=4, output_tokens=6, cost_usd="0.5")
    assert run.uncertain == sw.Usage()
    assert (run.total.input_tokens, run.total.output_tokens, run.total.cost_usd) == (4, 6, Decimal("0.5"))
    assert run.total.calls == 1
    assert run.receipts[0].own.calls == 0
