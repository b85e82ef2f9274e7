"""`max_seconds`: a timeout where there is a loop to keep it, a check at every reserve, record and tool elsewhere."""

import asyncio
import contextvars
import time

import pytest

import stepwarden as sw
from stepwarden.testing._clock import FakeClock

FOREVER = 60
"""Seconds that nothing sleeps unless the limit under test is not kept."""
SOON = sw.Budget(max_seconds=0.02)


@pytest.fixture
def clock():
    """Give the test a clock that moves only when it says so."""
    fake = FakeClock()
    sw.configure(clock=fake)
    yield fake
    sw.configure(clock=time)


@sw.tool(side_effect="none")
def touch() -> str:
    """Do nothing."""
    return "touched"


async def forever() -> None:
    """Sleep for longer than any limit here."""
    await asyncio.sleep(FOREVER)


def deadline_of(caught, name) -> sw.BudgetExceededError:
    """Return the error, which must be that of a deadline of the scope of that name."""
    error = caught.value
    assert (error.limit, error.phase, error.reason) == ("max_seconds", "deadline", "deadline")
    assert error.scope_name == name
    assert error.consumed >= error.limit_value
    assert type(error.consumed) is type(error.limit_value) is float
    return error


async def in_step() -> None:
    """Sleep in a coroutine step."""
    await sw.step(name="it", budget=SOON)(forever)()


async def in_persona() -> None:
    """Sleep in a coroutine persona."""
    await sw.persona(name="it", budget=SOON)(forever)()


async def in_step_block() -> None:
    """Sleep in an async step block."""
    async with sw.step("it", budget=SOON):
        await forever()


async def in_persona_block() -> None:
    """Sleep in an async persona block."""
    async with sw.persona("it", budget=SOON):
        await forever()


async def in_run() -> None:
    """Sleep in an async run."""
    async with sw.Run(name="it", budget=SOON):
        await forever()


async def in_generator() -> None:
    """Sleep in the body of an async generator step."""

    @sw.step(name="it", budget=SOON)
    async def items():
        yield 1
        await forever()

    async for _ in items():
        pass


@pytest.mark.parametrize("where", [in_step, in_persona, in_step_block, in_persona_block, in_run, in_generator])
def test_a_coroutine_is_ended_at_its_limit(where):
    """Where a loop runs, `max_seconds` ends the scope while it sleeps, as its own budget error in phase `deadline`."""
    with sw.Run() as run:
        with pytest.raises(sw.BudgetExceededError) as caught:
            asyncio.run(where())
        deadline_of(caught, "it")
    for receipt in run.receipts:
        assert (receipt.status, receipt.error.type) == ("failed", "BudgetExceededError")
        assert receipt.duration < FOREVER


@pytest.mark.parametrize(("boundary", "status"), [("continue", "skipped"), ("escalate", "escalated")])
def test_boundaries_act_on_a_deadline(boundary, status):
    """A deadline is the scope's own exhaustion: `continue` returns the fallback, `escalate` escalates it."""
    step = sw.step(name="it", budget=SOON, error_boundary=boundary, fallback="late")(forever)
    with sw.Run() as run:
        if boundary == "continue":
            assert asyncio.run(step()) == "late"
        else:
            with pytest.raises(sw.EscalationError) as caught:
                asyncio.run(step())
            assert caught.value.error.phase == "deadline"
    assert run.receipts[0].status == status


def test_a_limit_of_an_eternity_is_one():
    """Any finite number of seconds is a limit, also one whose nanoseconds are more than a float can say."""
    eternity = sw.Budget(max_seconds=1.7e308)

    @sw.step(budget=eternity)
    async def patient():
        (await sw.reserve()).release()
        sw.current_step().extend(sw.Budget(max_seconds=1.75e308))
        await asyncio.sleep(0)
        return sw.current_step().remaining.max_seconds

    async def main():
        with sw.Run(budget=sw.Budget(max_calls=1)):
            held = contextvars.copy_context().run(sw.reserve().acquire)
            waiting = asyncio.create_task(patient())
            await asyncio.sleep(0)
            held.release()
            return await waiting

    assert asyncio.run(main()) == 1.75e308


def test_a_users_cancellation_stays_one():
    """Who cancels a task that has a deadline gets a CancelledError, and the receipt says cancelled."""

    async def main() -> None:
        task = asyncio.create_task(sw.step(name="it", budget=sw.Budget(max_seconds=FOREVER))(forever)())
        await asyncio.sleep(0)
        task.cancel("mine")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    with sw.Run() as run:
        asyncio.run(main())
    assert (run.receipts[0].status, run.receipts[0].error) == ("cancelled", None)


def test_a_users_timeout_around_a_step_is_not_ours():
    """An `asyncio.timeout` around a step with more time is a TimeoutError outside and a cancelled step inside."""

    async def main() -> None:
        async with asyncio.timeout(0.01):
            await sw.step(name="it", budget=sw.Budget(max_seconds=FOREVER))(forever)()

    with sw.Run() as run:
        with pytest.raises(TimeoutError) as caught:
            asyncio.run(main())
        assert not isinstance(caught.value, sw.StepwardenError)
    assert run.receipts[0].status == "cancelled"


@pytest.mark.parametrize(
    ("outer", "inner", "reported"),
    [(0.02, FOREVER, "outer"), (FOREVER, 0.02, "inner"), (0.02, 0.02, "outer"), (0, 0, "outer")],
)
def test_of_nested_deadlines_the_outermost_is_reported(outer, inner, reported):
    """Of nested deadlines that have passed the outermost is reported, and an inner `continue` does not absorb it."""

    @sw.step(name="inner", budget=sw.Budget(max_seconds=inner), error_boundary="fail")
    async def body() -> None:
        await forever()

    @sw.step(name="outer", budget=sw.Budget(max_seconds=outer))
    async def around() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, 0.05)  # so that the loop finds all that has passed at once
        await body()

    with sw.Run(), pytest.raises(sw.BudgetExceededError) as caught:
        asyncio.run(around())
    deadline_of(caught, reported)


@pytest.mark.parametrize("kind", ["step", "persona", "run"])
@pytest.mark.parametrize("what", ["reserve", "record", "tool", "check"])
def test_sync_scopes_are_checked(kind, what, clock):
    """In a sync scope every reserve, record, tool and check after the limit is refused, and none at or before it."""

    def do() -> None:
        if what == "reserve":
            sw.reserve(input_tokens=1).acquire().release()
        elif what == "record":
            sw.record_usage(input_tokens=1)
        elif what == "tool":
            touch()
        else:
            scope.check()

    budget = sw.Budget(max_seconds=2.5)
    with sw.Run(name="it", budget=budget) if kind == "run" else getattr(sw, kind)("it", budget=budget) as scope:
        do()
        clock.advance(2.5)
        do()
        assert (scope.elapsed, scope.remaining.max_seconds) == (2.5, 0)
        clock.advance(0.5)
        before = scope.total
        with pytest.raises(sw.BudgetExceededError) as caught:
            do()
        error = caught.value
        assert (error.limit, error.scope_kind, error.scope_name) == ("max_seconds", kind, "it")
        assert (error.limit_value, error.consumed, error.reason) == (2.5, 3.0, "deadline")
        assert scope.total.tool_calls == before.tool_calls
        assert scope.total.calls == before.calls + (what == "record")
        assert (scope.remaining.max_seconds, scope.held) == (0, sw.Usage())


def test_the_outermost_passed_deadline_is_reported(clock):
    """Of several scopes whose time is up the outermost is reported, at every reserve, record and tool."""
    with sw.Run(name="outer", budget=sw.Budget(max_seconds=3)), sw.step("inner", budget=sw.Budget(max_seconds=1)):
        for seconds, name in ((2, "inner"), (2, "outer")):
            clock.advance(seconds)
            for do in (sw.record_usage, touch, lambda: sw.reserve().acquire()):
                with pytest.raises(sw.BudgetExceededError, match=f"`{name}` .*max_seconds"):
                    do()


def test_seconds_come_last_within_a_scope(clock):
    """Within one scope a passed limit of tokens is reported before that of seconds."""
    with sw.step("s", budget=sw.Budget(max_tokens=1, max_tool_calls=0, max_seconds=1)):
        clock.advance(2)
        with pytest.raises(sw.BudgetExceededError, match="max_tool_calls"):
            touch()
        with pytest.raises(sw.BudgetExceededError, match="max_tokens"):
            sw.record_usage(input_tokens=2)


def test_time_does_not_end_a_sync_step_by_itself(clock):
    """A sync step that neither reserves, records nor calls a tool after its time is up completes."""
    with sw.Run() as run, sw.step("s", budget=sw.Budget(max_seconds=1)):
        clock.advance(5)
    assert (run.receipts[0].status, run.receipts[0].duration) == ("completed", 5.0)


def test_waiting_counts_as_time():
    """The time that a call waits for holds is part of `max_seconds`, and a hold that the deadline cuts is uncertain."""

    @sw.step(name="it", budget=sw.Budget(max_seconds=0.05, max_tokens=10))
    async def body() -> None:
        async with sw.reserve(input_tokens=4, output_tokens=6):
            await forever()

    with sw.Run() as run, pytest.raises(sw.BudgetExceededError) as caught:
        asyncio.run(body())
    deadline_of(caught, "it")
    (receipt,) = run.receipts
    assert (receipt.own.input_tokens, receipt.uncertain.output_tokens) == (4, 6)


def test_a_task_that_waits_is_ended_by_its_callers_deadline():
    """A call that waits in a child task ends by the deadline of the scope around, and leaves nothing behind."""

    async def waits() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(taken(sw.reserve(input_tokens=10)))

    async def main(run) -> None:
        hold = contextvars.copy_context().run(sw.reserve(input_tokens=10).acquire)
        with pytest.raises((sw.BudgetExceededError, BaseExceptionGroup)) as caught:
            await sw.step(name="it", budget=SOON)(waits)()
        error = caught.value
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        assert (error.scope_name, error.phase) == ("it", "deadline")
        hold.release()
        assert run.held == sw.Usage()

    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        asyncio.run(main(run))


async def taken(reservation):
    """Take a hold as a coroutine."""
    return await reservation


def test_an_extension_that_reaches_the_loop_too_late_changes_nothing():
    """More seconds for a step that ends before its loop hears of them are on its receipt, and no timeout starts again."""
    errors = []

    async def main() -> sw.Run:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        with sw.Run() as run:
            async with sw.step("s", budget=sw.Budget(max_seconds=FOREVER)) as step:
                step.extend(sw.Budget(max_seconds=2 * FOREVER))
            await asyncio.sleep(0)
        return run

    (receipt,) = asyncio.run(main()).receipts
    assert (receipt.budget.max_seconds, str(receipt.status), errors) == (2 * FOREVER, "completed", [])


def test_a_step_whose_loop_is_closed_can_be_extended():
    """A step that its loop left open has more seconds when it is told so, though no timeout is left to be moved."""
    loop = asyncio.new_event_loop()
    with sw.Run():
        step = loop.run_until_complete(sw.step("s", budget=sw.Budget(max_seconds=FOREVER)).__aenter__())
        loop.close()
        step.extend(sw.Budget(max_seconds=2 * FOREVER))
        assert step.budget.max_seconds == 2 * FOREVER
