"""Receipts: exactly one for every activation, in completion order, telling how it really ended."""

import asyncio
import contextlib
import dataclasses
import threading
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

FIELDS = (
    "kind run_id step_id parent_id persona name function stage status error model own total budget overshoot uncertain"
    " open_holds clamped_calls started_at duration calls tools late warnings"
).split()
NINE_KEYS = ["name", "function", "model", "input_tokens", "output_tokens", "cost_usd", "llm_calls", "status", "error"]


def as_function(body, **options):
    """Run *body* in a step that is a function."""
    sw.step(name="s", **options)(lambda: body())()


def as_coroutine(body, **options):
    """Run *body* in a step that is a coroutine."""

    async def step():
        body()

    drive(sw.step(name="s", **options)(step)())


def as_generator(body, **options):
    """Run *body* in a step that is a generator, after its first item."""

    def step():
        yield 1
        body()

    list(sw.step(name="s", **options)(step)())


def as_async_generator(body, **options):
    """Run *body* in a step that is an async generator, after its first item."""

    async def step():
        yield 1
        body()

    async def consume():
        async for _ in sw.step(name="s", **options)(step)():
            pass

    drive(consume())


def as_block(body, **options):
    """Run *body* in a block."""
    with sw.step("s", **options):
        body()


def as_async_block(body, **options):
    """Run *body* in an async block."""

    async def enter():
        async with sw.step("s", **options):
            body()

    drive(enter())


def as_persona(body, **options):
    """Run *body* in a persona."""
    sw.persona(name="s", **options)(lambda: body())()


def drive(coroutine):
    """Run a coroutine that never suspends, so that no event loop translates what leaves it."""
    with contextlib.suppress(StopIteration):
        coroutine.send(None)


STEPS = [as_function, as_coroutine, as_generator, as_async_generator, as_block, as_async_block]
SHAPES = [*STEPS, as_persona]


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("no message")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad"), "failed"),
        (SystemExit(3), "failed"),
        (BaseException("base"), "failed"),
        (KeyboardInterrupt("stop"), "cancelled"),
        (asyncio.CancelledError("off"), "cancelled"),
        (ExceptionGroup("many", [ValueError("one"), KeyError("two")]), "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_leaves_a_step_comes_out_as_it_is(shape, error, status):
    """Any exception leaves a step as the same object, and the receipt tells of it: failed, or cancelled."""

    def body():
        raise error

    with sw.Run() as run:
        with pytest.raises(type(error)) as caught:
            shape(body)
        assert sw.current_step() is None
    assert caught.value is error
    assert error.__cause__ is None
    (receipt,) = run.receipts
    assert receipt.status == status
    if status == "failed":
        assert receipt.error == (type(error).__name__, str(error))
    else:
        assert receipt.error is None
        assert receipt.completed_step()["error"] is None


@pytest.mark.parametrize("shape", [as_function, as_block, as_persona])
def test_a_stop_iteration_comes_out_as_it_is(shape):
    """`StopIteration` raised by a function or block leaves the step as the same object, never as RuntimeError."""
    stop = StopIteration(7)

    def body():
        raise stop

    with sw.Run() as run, run.attach(), pytest.raises(StopIteration) as caught:
        shape(body)
    assert caught.value is stop
    assert [receipt.status for receipt in run.receipts] == [sw.Status.FAILED]


@pytest.mark.parametrize("shape", STEPS)
def test_a_step_that_returns_is_completed(shape):
    """A normal end is `completed`, without an error; so is one that handled its own exhaustion."""

    def body():
        with contextlib.suppress(sw.BudgetExceededError):
            sw.record_usage(input_tokens=2)

    with sw.Run() as run:
        shape(body, budget=sw.Budget(max_tokens=1), error_boundary="continue")
    assert [(receipt.status, receipt.error) for receipt in run.receipts] == [(sw.Status.COMPLETED, None)]
    assert run.receipts[0].overshoot.total_tokens == 1


@pytest.mark.parametrize("shape", STEPS)
@pytest.mark.parametrize(
    ("boundary", "status", "leaves"),
    [
        ("fail", "failed", sw.BudgetExceededError),
        ("continue", "skipped", None),
        ("escalate", "escalated", sw.EscalationError),
    ],
)
def test_exhaustion_ends_as_the_boundary_says(shape, boundary, status, leaves):
    """A step's own exhaustion is failed, skipped or escalated, with the budget error on the receipt each time."""
    with sw.Run() as run:
        expected = pytest.raises(leaves) if leaves else contextlib.nullcontext()
        with expected:
            shape(lambda: sw.record_usage(input_tokens=2), budget=sw.Budget(max_tokens=1), error_boundary=boundary)
    (receipt,) = run.receipts
    message = "step `s` exceeded max_tokens budget (2 > 1)"
    assert (receipt.status, receipt.error) == (status, ("BudgetExceededError", message))
    assert receipt.completed_step()["error"] == message


@pytest.mark.parametrize("shape", STEPS)
def test_a_refused_step_is_denied_and_spends_nothing(shape):
    """A step that a hook denies leaves one receipt, `denied`, and its body does not run."""
    ran = []
    hooks = sw.Hooks()
    hooks.on("PreStep")(lambda event: sw.Deny("not today"))
    with sw.Run(hooks=hooks) as run, pytest.raises(sw.HookDeniedError):
        shape(lambda: ran.append(1))
    assert ran == []
    (receipt,) = run.receipts
    assert (receipt.status, receipt.error.type) == ("denied", "HookDeniedError")
    assert "not today" in receipt.error.message
    assert receipt.total.calls == 0


def test_an_error_without_a_printable_message_still_leaves_a_receipt():
    """A step that fails with an error whose `__str__` raises is closed as failed, and the error goes on."""
    with sw.Run() as run, pytest.raises(UnprintableError), sw.step("s"):
        raise UnprintableError
    assert [(receipt.status, receipt.error.type) for receipt in run.receipts] == [("failed", "UnprintableError")]


def test_the_log_is_in_completion_order():
    """Inner activations stand before the outer ones around them."""
    with sw.Run() as run, sw.persona("p"):
        with sw.step("a"), sw.step("b"):
            pass
        with sw.step("c"):
            assert [receipt.name for receipt in run.receipts] == ["b", "a"]
    assert [receipt.name for receipt in run.receipts] == ["b", "a", "c", "p"]


@given(st.lists(st.sampled_from(["open", "close", "drain"]), max_size=40), st.integers(0, 5))
def test_every_receipt_is_kept_drained_or_dropped_once(actions, most):
    """The newest *max_receipts* are kept; what is drained and what is dropped add up with them to all that ended."""
    kept, dropped, drained = [], 0, 0
    number = 0
    with sw.Run(max_receipts=most) as run, contextlib.ExitStack() as stack:
        opened = []
        for action in actions:
            if action == "open":
                number += 1
                opened.append((sw.step(f"s{number}"), number))
                opened[-1][0].__enter__()
            elif action == "close" and opened:
                block, which = opened.pop()
                block.__exit__(None, None, None)
                kept.append(f"s{which}")
                dropped += max(0, len(kept) - most)
                kept = kept[max(0, len(kept) - most) :]
            elif action == "drain":
                assert [receipt.name for receipt in run.drain()] == kept
                drained += len(kept)
                kept = []
            assert [receipt.name for receipt in run.receipts] == kept
            assert run.receipts_dropped == dropped
        for block, _ in opened:
            stack.push(block)


@pytest.mark.parametrize("most", [-1, 1.5, True, "10", None])
def test_a_bad_max_receipts_is_refused(most):
    """Only an int of at least 0 can say how many receipts a run keeps."""
    with pytest.raises(sw.DefinitionError, match="max_receipts"):
        sw.Run(max_receipts=most)


def test_a_receipt_has_every_field():
    """A receipt carries exactly the fields of the design, with what was declared, spent and called."""
    look_up = sw.tool(side_effect="read_only")(lambda: None)
    write = sw.tool(name="write", side_effect="workspace_write")(lambda: None)
    before = datetime.now(UTC)
    with (
        sw.Run() as run,
        sw.persona("captain", tools=["<lambda>", "write"], stages=[sw.Stage("plan", side_effect_level="read_only")]),
        sw.step("plan", model="openai:small", budget=sw.Budget(max_usd="0.5")) as scope,
    ):
        assert scope.receipt is None
        sw.record_usage("big", input_tokens=3, output_tokens=4, cost_usd="0.25")
        sw.record_usage(input_tokens=1, cost_usd="0.1", cache_read_tokens=1)
        look_up()
        with pytest.raises(sw.ToolDeniedError):
            write()
    plan, captain = run.receipts
    assert [field.name for field in dataclasses.fields(plan)] == FIELDS
    assert (plan.kind, captain.kind) == ("step", "persona")
    assert (plan.run_id, plan.step_id, plan.parent_id) == (run.id, scope.id, captain.step_id)
    assert (captain.run_id, captain.parent_id) == (run.id, run.id)
    assert (plan.persona, plan.name, plan.function, plan.stage) == ("captain", "plan", "plan", "plan")
    assert captain.stage is None
    assert (plan.model, captain.model) == ("big", None)
    assert plan.own == plan.total == captain.total
    assert (plan.own.input_tokens, plan.own.output_tokens, plan.own.cost_usd, plan.own.calls) == (
        4,
        4,
        Decimal("0.35"),
        2,
    )
    assert (plan.own.cache_read_tokens, plan.own.tool_calls, captain.own.calls) == (1, 1, 0)
    assert plan.budget == sw.Budget(max_usd="0.5")
    assert (plan.open_holds, plan.clamped_calls, plan.warnings) == (0, 0, ())
    assert (plan.overshoot, plan.uncertain, plan.late) == (sw.Usage(),) * 3
    assert before <= plan.started_at <= datetime.now(UTC)
    assert plan.started_at.utcoffset().total_seconds() == 0
    assert isinstance(plan.duration, float)
    assert 0 <= plan.duration <= captain.duration
    assert (len(plan.calls), len(plan.tools)) == (2, 2)
    assert plan == scope.receipt
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.name = "other"


def test_completed_step_has_the_nine_keys_from_the_own_numbers():
    """`completed_step()` gives exactly the reference's nine keys, JSON-ready, and leaves out what was spent inside."""

    @sw.step(name="outer", model="declared")
    def work():
        sw.record_usage(input_tokens=1, output_tokens=2, cost_usd="0.5")
        with sw.step("inner"):
            sw.record_usage("used", input_tokens=100)

    with sw.Run() as run:
        work()
    inner, outer = (receipt.completed_step() for receipt in run.receipts)
    assert list(outer) == NINE_KEYS
    assert list(outer.values()) == ["outer", "work", "declared", 1, 2, 0.5, 1, "completed", None]
    assert list(inner.values()) == ["inner", "inner", "used", 100, 0, 0.0, 1, "completed", None]
    assert [type(value) for value in outer.values()] == [str, str, str, int, int, float, int, str, type(None)]
    with sw.Run() as run, sw.step("plain"):
        pass
    assert run.receipts[0].completed_step()["model"] is None


def test_a_stage_that_met_no_step_is_a_warning():
    """A persona's receipt warns of every stage that matched no step by its end, and of no other."""
    with sw.Run() as run, sw.persona("p", stages=[sw.Stage("met"), sw.Stage("missed")]):
        with sw.step("met"):
            pass
    (warning,) = run.receipts[-1].warnings
    assert "missed" in warning


def test_parallel_threads_leave_one_receipt_each():
    """Steps that end at the same time in several threads leave exactly one receipt each."""
    barrier = threading.Barrier(8)

    @sw.step
    def one(number):
        sw.record_usage(input_tokens=1)

    def many():
        barrier.wait(30)
        for number in range(100):
            one(number)

    with sw.Run() as run:
        threads = [threading.Thread(target=sw.propagate(many)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len({receipt.step_id for receipt in run.receipts}) == len(run.receipts) == 800
    assert run.total.input_tokens == 800


def test_a_receipt_has_the_newest_thousand_calls_of_each_kind():
    """Of many calls of models and of tools, a receipt names the newest 1,000, in their order, and counts all."""

    @sw.tool(side_effect="none")
    def look(number):
        if number % 2:
            raise ValueError

    with sw.Run() as run, sw.step("busy"):
        for number in range(2_500):
            sw.record_usage(input_tokens=number)
            with contextlib.suppress(ValueError):
                look(number)
    receipt = run.receipts[0]
    assert [call.input_tokens for call in receipt.calls] == list(range(1_500, 2_500))
    assert [tool.outcome for tool in receipt.tools] == ["completed", "failed"] * 500
    assert (receipt.own.calls, receipt.own.tool_calls) == (2_500, 2_500)


def test_receipts_that_nobody_reads_do_not_pile_up():
    """A run forgets what is beyond its newest receipts while it goes on, and not only when they are read."""
    with sw.Run(max_receipts=1) as run:
        for _ in range(2_000):
            with sw.step("s"):
                pass
        assert len(run.memory._finished) < 1_000
        assert (len(run.receipts), run.receipts_dropped) == (1, 1_999)


def test_a_receipt_says_by_how_much_input_estimates_were_too_low():
    """Calls with more input than was held are counted, with the tokens of all of them and of the worst; others are not."""
    with sw.Run() as run, sw.step("outer") as outer:
        for settled in ([10], [12, 4], [12, 10, 40]):
            with sw.step("inner"):
                for tokens in settled:
                    with sw.reserve(input_tokens=10, output_tokens=1) as hold:
                        hold.settle(input_tokens=tokens, output_tokens=1)
        with sw.reserve(input_tokens=10, output_tokens=1) as left:
            pass
        left.settle(input_tokens=15, output_tokens=1)
        sw.record_usage(input_tokens=99)
    assert [receipt.warnings for receipt in run.receipts] == [
        (),
        ("input estimate too low for 1 call: 2 tokens more",),
        ("input estimate too low for 2 calls: 32 tokens more in all, at most 30 in one",),
        ("input estimate too low for 1 call: 5 tokens more",),
    ]
    assert outer.receipt.own.input_tokens == 114


def test_a_receipt_keeps_the_newest_settled_calls():
    """Of more settled calls than it has room for, a receipt keeps the newest, and the sums have all."""
    with sw.Run() as run, sw.step("s") as step:
        for number in range(2_001):
            sw.reserve(input_tokens=number).acquire().settle(input_tokens=number, output_tokens=0)
    assert [call.input_tokens for call in step.receipt.calls] == list(range(1_001, 2_001))
    assert run.total.calls == 2_001
