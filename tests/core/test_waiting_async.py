"""Waiting for other calls' holds, in tasks: who is woken, by what, in which order, and what leaves nothing behind."""

import asyncio
import contextvars
import functools
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

NOTHING = sw.Usage()


def elsewhere(reservation):
    """Take a hold in a context of its own, so that neither this task nor those that it starts hold anything."""
    return contextvars.copy_context().run(reservation.acquire)


async def take(**ask):
    """Take a hold, and wait for it where it must."""
    return await sw.reserve(**ask)


async def after(event, **ask):
    """Take a hold, but not before *event*."""
    await event.wait()
    return await sw.reserve(**ask)


async def quiet() -> None:
    """Let everything run that can run."""
    for _ in range(20):
        await asyncio.sleep(0)


def in_loop(test):
    """Run a coroutine function as a test."""

    @functools.wraps(test)
    def run(*args, **kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@pytest.mark.parametrize("change", ["settle", "release", "extend", "leave"])
@in_loop
async def test_a_call_that_fits_ever_waits_until_it_fits_now(change):
    """A call that only holds keep out waits until a settle, release, extension or the loss of a hold makes room."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        context, reservation = contextvars.copy_context(), sw.reserve(input_tokens=60)
        hold = context.run(reservation.__enter__)
        task = asyncio.create_task(take(input_tokens=40, output_tokens=10))
        await quiet()
        assert not task.done()
        assert run.held.total_tokens == 60
        if change == "settle":
            hold.settle(input_tokens=50, output_tokens=0)
        elif change == "release":
            hold.release()
        elif change == "extend":
            run.extend(sw.Budget(max_tokens=110))
        else:
            run.extend(sw.Budget(max_tokens=109))
            await quiet()
            assert not task.done()
            context.run(reservation.__exit__, None, None, None)  # its input is charged, so the output is lowered
        granted = await task
        assert granted.output_tokens == (9 if change == "leave" else 10)
        granted.release()
        if change == "extend":
            hold.release()
        assert run.held == NOTHING


@in_loop
async def test_output_is_lowered_to_what_fits_when_it_is_granted():
    """What is spent while a call waits lowers its output: it gets what fits ever at the moment of the grant."""
    with sw.Run(budget=sw.Budget(max_tokens=100)):
        hold = elsewhere(sw.reserve(input_tokens=60))
        task = asyncio.create_task(take(output_tokens=50))
        await quiet()
        sw.record_usage(input_tokens=30)
        await quiet()
        assert not task.done()
        hold.settle(input_tokens=58, output_tokens=0)
        assert (await task).output_tokens == 12


@pytest.mark.parametrize("what", ["record", "settle"])
@in_loop
async def test_a_waiter_is_refused_as_soon_as_what_is_spent_leaves_no_room(what):
    """A waiter does not wait on for a hold that can no longer help: it is refused by the record that takes its room."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold, other = (elsewhere(sw.reserve(input_tokens=30)) for _ in range(2))
        task = asyncio.create_task(take(input_tokens=50))
        await quiet()
        if what == "record":
            sw.record_usage(input_tokens=51)
        else:
            other.settle(input_tokens=51, output_tokens=0)
        with pytest.raises(sw.BudgetExceededError) as caught:
            await task
        assert (caught.value.reason, caught.value.consumed, caught.value.requested) == ("no_room", 51, 50)
        hold.release()
        if what == "record":
            other.release()
        assert run.held == NOTHING


@given(st.lists(st.integers(1, 10), min_size=2, max_size=12), st.integers(1, 10))
@in_loop
async def test_first_come_first_served(sizes, held):
    """Callers that contend for one scope are granted in the order in which they came, whatever they ask for."""
    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        hold = elsewhere(sw.reserve(input_tokens=held))
        served = []

        async def caller(number, size) -> None:
            async with sw.reserve(input_tokens=size) as granted:
                served.append(number)
                await asyncio.sleep(0)
                granted.release()

        tasks = []
        blocked = False
        for number, size in enumerate(sizes):
            tasks.append(asyncio.create_task(caller(number, size)))
            blocked = blocked or size + held > 10
            await quiet()
            assert tasks[-1].done() == (not blocked)
        hold.release()
        await asyncio.gather(*tasks)
        assert served == sorted(served)
        assert run.held == NOTHING


@pytest.mark.parametrize("way", ["cancel", "timeout", "reserve timeout"])
@in_loop
async def test_a_waiter_that_leaves_lets_those_behind_it_move(way):
    """A waiter that is cancelled or times out leaves nothing behind, and whoever queued behind it is looked at."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold = elsewhere(sw.reserve(input_tokens=60))
        ask = take(input_tokens=50, timeout=0.05 if way == "reserve timeout" else None)
        big = asyncio.create_task(asyncio.wait_for(ask, 0.05 if way == "timeout" else None))
        await quiet()
        small = asyncio.create_task(take(input_tokens=40))
        await quiet()
        assert not small.done()
        if way == "cancel":
            big.cancel()
        kind = {"cancel": asyncio.CancelledError, "timeout": TimeoutError}.get(way, sw.ReserveTimeoutError)
        with pytest.raises(kind):
            await big
        (await small).release()
        assert run.held.total_tokens == 60
        hold.release()
        assert run.held == NOTHING


@in_loop
async def test_a_grant_that_meets_a_cancellation_goes_back():
    """Where a waiter is cancelled after it was granted and before it ran, the grant goes back, and to the next one."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold = elsewhere(sw.reserve(input_tokens=60))
        first = asyncio.create_task(take(input_tokens=50))
        await quiet()
        second = asyncio.create_task(take(input_tokens=60))
        await quiet()
        hold.release()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        (await second).release()
        assert run.held == run.total == NOTHING


@given(st.integers(0, 12), st.booleans())
@in_loop
async def test_cancelled_at_any_moment_a_waiter_leaves_nothing_behind(turns, settles):
    """Whenever a cancellation comes, before, during or after the grant, nothing stays held that nobody has."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold = elsewhere(sw.reserve(input_tokens=60))

        async def caller() -> None:
            async with sw.reserve(input_tokens=50) as granted:
                granted.release()

        task = asyncio.create_task(caller())
        for turn in range(12):
            if turn == 3:
                hold.settle(input_tokens=10, output_tokens=0) if settles else hold.release()
            if turn == turns:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        assert run.held == run.uncertain == NOTHING


@pytest.mark.parametrize("ask", [{"timeout": 0.02}, {}])
@in_loop
async def test_the_longest_wait_ends_in_a_reserve_timeout(ask):
    """A wait ends after the least of `timeout` and `max_wait`, with what it waited for and how long."""
    sw.configure(max_wait=30 if ask else 0.02)
    try:
        with sw.Run(budget=sw.Budget(max_usd=1), name="night") as run:
            hold = elsewhere(sw.reserve(cost_usd="0.6"))
            with pytest.raises(sw.ReserveTimeoutError) as caught:
                await take(cost_usd="0.5", **ask)
            error = caught.value
            assert (error.scope_kind, error.scope_name, error.limit) == ("run", "night", "max_usd")
            assert 0.01 < error.waited < 30
            hold.release()
            assert run.held == NOTHING
    finally:
        sw.configure(max_wait=600)


@pytest.mark.parametrize("own", [True, False])
@in_loop
async def test_a_wait_never_outlasts_max_seconds(own):
    """Where `max_seconds` of a scope around ends the wait, it is a budget error of that scope in phase `deadline`."""
    budget = sw.Budget(max_seconds=0.05, max_tokens=100)
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run, sw.step("slow", budget=budget) as slow, sw.step("inner"):
        hold = elsewhere(sw.reserve(input_tokens=60))
        with pytest.raises(sw.BudgetExceededError) as caught:
            await take(input_tokens=50, timeout=None if own else 30)
        error = caught.value
        assert (error.limit, error.phase, error.reason) == ("max_seconds", "deadline", "deadline")
        assert (error.scope_id, error.limit_value, type(error.consumed)) == (slow.id, 0.05, float)
        assert error.consumed >= error.limit_value
        hold.release()
        assert run.held == NOTHING


@in_loop
async def test_more_seconds_make_the_wait_longer():
    """A waiter whose scope is given more seconds while it waits goes on waiting."""
    with sw.Run(budget=sw.Budget(max_tokens=100)), sw.step("s", budget=sw.Budget(max_seconds=0.2)) as step:
        hold = elsewhere(sw.reserve(input_tokens=60))
        task = asyncio.create_task(take(input_tokens=50))
        await quiet()
        step.extend(sw.Budget(max_seconds=60))
        await asyncio.wait([task], timeout=0.5)
        assert not task.done()
        hold.release()
        (await task).release()


@in_loop
async def test_a_run_that_ends_ends_the_waits_in_it():
    """A call that waits for a hold outside its run is a RunClosedError when its own run ends."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as outer:
        hold = elsewhere(sw.reserve(input_tokens=60))
        with sw.Run():
            task = asyncio.create_task(take(input_tokens=50))
            await quiet()
        with pytest.raises(sw.RunClosedError):
            await task
        hold.release()
        assert outer.held == NOTHING


@in_loop
async def test_a_run_that_ends_leaves_no_call_waiting_for_its_own_holds():
    """A call that waits for a hold of its own run ends with an error when the run does; nothing stays held."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        elsewhere(sw.reserve(input_tokens=60))
        task = asyncio.create_task(take(input_tokens=50))
        await quiet()
    with pytest.raises((sw.RunClosedError, sw.BudgetExceededError)):
        await task
    assert (run.held, run.total.input_tokens) == (NOTHING, 60)


@in_loop
async def test_whoever_queues_behind_a_waiter_whose_run_ends_moves():
    """When the end of a run takes a waiter out of a queue, whoever fits behind it is granted."""
    with sw.Run(budget=sw.Budget(max_tokens=100)):
        hold = elsewhere(sw.reserve(input_tokens=60))
        behind = asyncio.Event()
        small = asyncio.create_task(after(behind, input_tokens=40))
        with sw.Run():
            big = asyncio.create_task(take(input_tokens=50))
            await quiet()
            behind.set()
            await quiet()
            assert not small.done()
        with pytest.raises(sw.RunClosedError):
            await big
        await quiet()
        was_granted = small.done()
        hold.release()
        (await small).release()
        assert was_granted


@pytest.mark.parametrize("closing", ["close", "collect"])
def test_a_waiter_whose_loop_is_closed_takes_nothing(closing):
    """A grant to a waiter whose event loop is gone goes back once: others have the room, and never more than that."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold = elsewhere(sw.reserve(input_tokens=60))
        loop = asyncio.new_event_loop()
        coroutine = take(input_tokens=50)
        task = loop.create_task(coroutine)
        loop.run_until_complete(quiet())
        loop.close()
        hold.release()
        assert run.held == NOTHING
        task._log_destroy_pending = False  # the point of the test, and no mistake to be logged
        if closing == "close":
            coroutine.close()
        del task, coroutine
        gc.collect()
        assert run.held == NOTHING
        assert run.remaining == sw.Budget(max_tokens=100)


@in_loop
async def test_a_step_may_end_while_a_call_of_it_waits():
    """A call that outlives its step stays under its limits, and is granted when they have room."""
    with sw.Run() as run:
        with sw.step("s", budget=sw.Budget(max_tokens=100)):
            hold = elsewhere(sw.reserve(input_tokens=60))
            task = asyncio.create_task(take(input_tokens=50))
            await quiet()
        await quiet()
        assert not task.done()
        hold.release()
        (await task).settle(input_tokens=50, output_tokens=0)
        assert (run.held, run.total.input_tokens) == (NOTHING, 50)
