"""Boundaries: what a step does when its own budget is exhausted, in every shape that a step has."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

HUNDRED = sw.Budget(max_tokens=100)
BOUNDARIES = ["fail", "continue", "escalate"]


def exhaust():
    """Spend 130 tokens."""
    sw.record_usage(input_tokens=60, output_tokens=70)


def run_in(shape, block, body):
    """Run *body* in a step of this shape, as decorator or block; return what the step returns."""
    if shape == "function":
        return block(lambda: body())()
    if shape == "block":
        with block:
            return body()
        return None

    def items():
        yield 1
        return body()

    def drive():
        return (yield from block(items)())

    if shape == "generator":
        running = drive()
        assert next(running) == 1
        with pytest.raises(StopIteration) as stop:
            next(running)
        return stop.value.value

    async def plan():
        await asyncio.sleep(0)
        return body()

    async def items_async():
        yield 1
        body()

    async def drive_async():
        if shape == "coroutine":
            return await block(plan)()
        if shape == "async block":
            async with block:
                return await plan()
            return None
        assert [item async for item in block(items_async)()] == [1]
        return None

    return asyncio.run(drive_async())


SHAPES = ["function", "coroutine", "generator", "async generator", "block", "async block"]
RETURNING = ["function", "coroutine", "generator"]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def raiser(error):
    """Return a body that raises *error*."""

    def body():
        raise error

    return body


def left_by(run, name="plan"):
    """Return the one receipt of this name."""
    (receipt,) = [one for one in run.receipts if one.name == name]
    return receipt


@every_shape
def test_fail_lets_the_very_error_go_on(shape):
    """With `fail`, the budget error itself leaves the step, and the receipt is failed and says why."""
    seen = []

    def body():
        try:
            exhaust()
        except sw.BudgetExceededError as error:
            seen.append(error)
            raise

    with sw.Run() as run, pytest.raises(sw.BudgetExceededError) as caught:
        run_in(shape, sw.step("plan", budget=HUNDRED), body)
    assert caught.value is seen[0]
    receipt = left_by(run)
    assert receipt.status is sw.Status.FAILED
    assert receipt.error == ("BudgetExceededError", "step `plan` exceeded max_tokens budget (130 > 100)")
    assert run.total.total_tokens == 130


@every_shape
def test_continue_absorbs_its_own_exhaustion(shape):
    """With `continue`, it gives the very fallback back, its receipt is skipped, and what was spent stays counted."""
    fallback = ["later"]
    with sw.Run() as run:
        step = sw.step("plan", budget=HUNDRED, error_boundary="continue", fallback=fallback)
        assert run_in(shape, step, exhaust) is (fallback if shape in RETURNING else None)
        assert sw.current_step() is None
    receipt = left_by(run)
    assert receipt.status is sw.Status.SKIPPED
    assert receipt.error == ("BudgetExceededError", "step `plan` exceeded max_tokens budget (130 > 100)")
    assert receipt.completed_step()["error"] == receipt.error.message
    assert receipt.own.total_tokens == run.total.total_tokens == 130


@every_shape
def test_escalate_raises_an_escalation_from_the_original(shape):
    """With `escalate`, an EscalationError with the step's identity leaves it, caused by the budget error."""
    with sw.Run() as run, pytest.raises(sw.EscalationError) as caught:
        run_in(shape, sw.step("plan", budget=HUNDRED, error_boundary=sw.ErrorBoundary.ESCALATE), exhaust)
    error = caught.value
    assert isinstance(error, RuntimeError)
    assert isinstance(error.error, sw.BudgetExceededError)
    assert error.__cause__ is error.error
    assert error.step == "plan"
    assert error.function == error.error.function == left_by(run).function
    receipt = left_by(run)
    assert receipt.status is sw.Status.ESCALATED
    assert receipt.error is not None
    assert "exceeded max_tokens budget (130 > 100)" in receipt.error.message


OTHERS = [ValueError("not about money"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()]


@every_shape
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_other_exceptions_pass_every_boundary(shape, boundary, error):
    """What is no budget error passes as it is: a cancellation leaves cancelled and no error, all else failed."""
    with sw.Run() as run, pytest.raises(type(error)):
        run_in(shape, sw.step("plan", budget=HUNDRED, error_boundary=boundary), raiser(error))
    receipt = left_by(run)
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        assert (receipt.status, receipt.error) == (sw.Status.CANCELLED, None)
    else:
        assert (receipt.status, receipt.error) == (sw.Status.FAILED, (type(error).__name__, str(error)))


@every_shape
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_step_that_catches_the_error_itself_goes_on(shape, boundary):
    """A budget error caught inside the step never meets the boundary, and every later call trips again."""

    def body():
        for _ in range(3):
            with pytest.raises(sw.BudgetExceededError):
                exhaust()
        return "done"

    with sw.Run() as run:
        result = run_in(shape, sw.step("plan", budget=HUNDRED, error_boundary=boundary, fallback="unused"), body)
    assert result == (None if shape == "async generator" else "done")
    assert left_by(run).status is sw.Status.COMPLETED
    assert left_by(run).error is None
    assert left_by(run).own.calls == 3


@every_shape
@pytest.mark.parametrize("boundary", ["continue", "escalate"])
def test_the_callers_limit_is_not_the_steps(shape, boundary):
    """A boundary lets the budget error of the scope around it pass as it is."""
    outer = sw.step("outer", budget=HUNDRED, error_boundary="continue")
    reached = []
    with sw.Run() as run, outer:
        run_in(shape, sw.step("plan", budget=HUNDRED, error_boundary=boundary), exhaust)
        reached.append("after")
    assert reached == []
    assert left_by(run).status is sw.Status.FAILED
    assert left_by(run, "outer").status is sw.Status.SKIPPED


@every_shape
def test_no_step_absorbs_the_runs_limit(shape):
    """The limit of the run passes every `continue` on its way out."""
    outer = sw.step("outer", error_boundary="continue")
    with pytest.raises(sw.BudgetExceededError) as caught, sw.Run(budget=HUNDRED) as run, outer:
        run_in(shape, sw.step("plan", error_boundary="continue", budget=HUNDRED), exhaust)
    assert (caught.value.scope_kind, caught.value.scope_name) == ("run", run.name)
    assert [one.status for one in run.receipts] == [sw.Status.FAILED, sw.Status.FAILED]


@every_shape
def test_an_outer_continue_never_absorbs_an_inner_error(shape):
    """A step's `continue` leaves alone the budget error that a step inside it let go."""
    outer = sw.step("outer", budget=sw.Budget(max_tokens=10_000), error_boundary="continue")
    with sw.Run() as run, pytest.raises(sw.BudgetExceededError), outer:
        run_in(shape, sw.step("plan", budget=HUNDRED), exhaust)
    assert [one.status for one in run.receipts] == [sw.Status.FAILED, sw.Status.FAILED]


@every_shape
def test_an_outer_continue_never_absorbs_an_escalation(shape):
    """An EscalationError passes every `continue` and every persona, which are failed."""

    @sw.step(budget=HUNDRED, error_boundary="continue", fallback="no")
    def outer():
        run_in(shape, sw.step("plan", budget=sw.Budget(max_tokens=50), error_boundary="escalate"), small)

    @sw.persona
    def captain():
        outer()

    def small():
        sw.record_usage(input_tokens=60)

    with sw.Run() as run, pytest.raises(sw.EscalationError) as caught:
        captain()
    assert caught.value.step == "plan"
    assert [(one.name, str(one.status)) for one in run.receipts] == [
        ("plan", "escalated"), ("outer", "failed"), ("captain", "failed"),
    ]  # fmt: skip


@pytest.mark.parametrize("boundary", ["continue", "escalate"])
def test_an_error_of_an_earlier_activation_is_foreign(boundary):
    """A boundary acts on its own activation's error only, not on one that the same step raised before."""
    kept = []

    @sw.step(budget=HUNDRED, error_boundary=boundary)
    def plan():
        if kept:
            raise kept[0]
        try:
            exhaust()
        except sw.BudgetExceededError as error:
            kept.append(error)

    with sw.Run() as run:
        plan()
        with pytest.raises(sw.BudgetExceededError) as caught:
            plan()
    assert caught.value is kept[0]
    assert [one.status for one in run.receipts] == [sw.Status.COMPLETED, sw.Status.FAILED]


def test_each_activation_of_a_recursive_step_absorbs_only_its_own():
    """In a recursion, the error belongs to the outermost activation whose limit is passed, and is absorbed there."""

    @sw.step(budget=HUNDRED, error_boundary="continue", fallback="absorbed")
    def plan(depth):
        sw.record_usage(input_tokens=40)
        return [plan(depth - 1)] if depth else "bottom"

    with sw.Run() as run:
        assert plan(1) == ["bottom"]
        assert plan(2) == "absorbed"
    assert [str(one.status) for one in run.receipts] == [
        "completed", "completed", "failed", "failed", "skipped",
    ]  # fmt: skip


def test_an_error_raised_in_a_helper_thread_is_absorbed_where_it_leaves_the_step():
    """The step's own error, raised under its scope in another thread, is absorbed when it leaves the step."""

    @sw.step(budget=HUNDRED, error_boundary="continue", fallback="fallback")
    def plan(pool):
        return pool.submit(sw.propagate(exhaust)).result()

    with sw.Run() as run, ThreadPoolExecutor(1) as pool:
        assert plan(pool) == "fallback"
    assert left_by(run).status is sw.Status.SKIPPED


@sw.tool
def look():
    """Be a tool."""


TRIPS = {
    "max_tokens": (sw.Budget(max_tokens=9), lambda: sw.record_usage(output_tokens=10)),
    "max_input_tokens": (sw.Budget(max_input_tokens=9), lambda: sw.record_usage(input_tokens=10)),
    "max_output_tokens": (sw.Budget(max_output_tokens=9), lambda: sw.record_usage(output_tokens=10)),
    "max_usd": (sw.Budget(max_usd="0.05"), lambda: sw.record_usage(cost_usd=Decimal("0.06"))),
    "max_calls": (sw.Budget(max_calls=0), sw.record_usage),
    "max_tool_calls": (sw.Budget(max_tool_calls=0), look),
    "max_seconds": (sw.Budget(max_seconds=0), sw.record_usage),
    "a refusal": (sw.Budget(max_tokens=9), lambda: sw.reserve(input_tokens=10, output_tokens=1).acquire()),
    "a check": (sw.Budget(max_seconds=0), lambda: sw.current_step().check()),
}


@pytest.mark.parametrize("shape", ["function", "generator", "block"])
@pytest.mark.parametrize("trip", TRIPS)
def test_every_limit_is_an_exhaustion(shape, trip):
    """Whatever limit of its own is passed or leaves no room, and however it is met, `continue` absorbs it."""
    budget, body = TRIPS[trip]
    with sw.Run() as run:
        run_in(shape, sw.step("plan", budget=budget, error_boundary="continue"), body)
    assert left_by(run).status is sw.Status.SKIPPED


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("is_block", [False, True])
def test_a_deadline_is_the_steps_own_exhaustion(boundary, is_block):
    """`max_seconds` that ends a coroutine step or an `async with` is handled by its boundary, phase deadline."""
    step = sw.step("plan", budget=sw.Budget(max_seconds=0.01), error_boundary=boundary, fallback="late")

    @step
    async def plan():
        await asyncio.sleep(60)

    async def in_block():
        async with step:
            await asyncio.sleep(60)
        return "late"

    with sw.Run() as run:
        try:
            result = asyncio.run(in_block() if is_block else plan())
        except sw.EscalationError as error:
            result, phase = "escalate", error.error.phase
        except sw.BudgetExceededError as error:
            result, phase = "fail", error.phase
        else:
            phase = "deadline"
    assert (result, phase) == ("late" if boundary == "continue" else boundary, "deadline")
    assert str(left_by(run).status) == {"fail": "failed", "continue": "skipped", "escalate": "escalated"}[boundary]


@every_shape
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_no_boundary_absorbs_a_reserve_timeout(shape, boundary):
    """A reservation that only waited in vain passes every boundary, and the step is failed."""

    def body():
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(sw.propagate(sw.reserve(input_tokens=60).acquire)).result()
        try:
            sw.reserve(input_tokens=60, wait=False).acquire()
        finally:
            held.release()

    with sw.Run() as run, pytest.raises(sw.ReserveTimeoutError):
        run_in(shape, sw.step("plan", budget=HUNDRED, error_boundary=boundary), body)
    assert left_by(run).status is sw.Status.FAILED


@given(
    layers=st.lists(st.tuples(st.sampled_from(BOUNDARIES), st.none() | st.integers(0, 100)), min_size=1, max_size=5),
    tokens=st.integers(1, 120),
)
def test_exactly_the_outermost_exhausted_step_handles_it(layers, tokens):
    """In any nesting, the outermost step whose limit is passed handles it: all inside failed, all outside as told."""

    def descend(depth):
        if depth == len(layers):
            sw.record_usage(input_tokens=tokens)
            return "bottom"
        boundary, limit = layers[depth]
        step = sw.step(f"s{depth}", budget=sw.Budget(max_tokens=limit), error_boundary=boundary, fallback="fallback")
        return step(lambda: descend(depth + 1))()

    over = [depth for depth, (_, limit) in enumerate(layers) if limit is not None and tokens > limit]
    with sw.Run() as run:
        try:
            result = descend(0)
        except sw.EscalationError as error:
            result = f"escalated by {error.step}"
        except sw.BudgetExceededError as error:
            result = f"failed in {error.scope_name}"
    statuses = {one.name: str(one.status) for one in run.receipts}
    if not over:
        assert result == "bottom"
        assert set(statuses.values()) == {"completed"}
        return
    handler = over[0]
    boundary = layers[handler][0]
    outcome = {"fail": "failed", "continue": "skipped", "escalate": "escalated"}[boundary]
    outside = "completed" if boundary == "continue" else "failed"
    assert statuses == {
        f"s{depth}": outside if depth < handler else outcome if depth == handler else "failed"
        for depth in range(len(layers))
    }
    assert result == {
        "fail": f"failed in s{handler}", "continue": "fallback", "escalate": f"escalated by s{handler}",
    }[boundary]  # fmt: skip
    assert run.total.total_tokens == tokens
