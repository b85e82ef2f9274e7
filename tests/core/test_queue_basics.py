"""Waiting for other calls' holds: who wakes whom, and what a caller that gives up leaves behind."""

import asyncio
import contextvars
import threading

import pytest

import stepwarden as sw

TEN = {"output_tokens": 10, "min_output_tokens": 10}


async def started(coroutine):
    """Start a task and let it run until it waits."""
    task = asyncio.create_task(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def take(**asked):
    """Take a hold and give it back; return the output that was granted."""
    async with sw.reserve(**asked) as hold:
        hold.release()
        return hold.output_tokens


def full(limit=10):
    """Open a run whose tokens are all held by a context of its own; return the run and that hold."""
    run = sw.Run(budget=sw.Budget(max_tokens=limit))
    run.__enter__()
    held = []
    holder = threading.Thread(target=sw.propagate(lambda: held.append(sw.reserve(output_tokens=limit).acquire())))
    holder.start()
    holder.join()
    return run, held[0]


WAKING = {
    "settle": lambda run, hold: hold.settle(output_tokens=0),
    "release": lambda run, hold: hold.release(),
    "extend": lambda run, hold: run.extend(sw.Budget(max_tokens=20)),
}


@pytest.mark.parametrize("waking", list(WAKING))
def test_a_waiter_is_woken_by_whatever_makes_room(waking):
    """A caller that waits is granted as soon as a settlement, a release or an extension makes room."""

    async def scenario():
        run, hold = full()
        try:
            task = await started(take(**TEN))
            WAKING[waking](run, hold)
            assert await asyncio.wait_for(task, 30) == 10
        finally:
            run.__exit__(None, None, None)

    asyncio.run(scenario())


def test_a_waiter_is_refused_as_soon_as_what_is_spent_leaves_no_room():
    """Usage recorded meanwhile that leaves no room for the least output refuses the caller that waits for it."""

    async def scenario():
        run, hold = full()
        try:
            task = await started(take(**TEN))
            sw.record_usage(output_tokens=5)
            with pytest.raises(sw.BudgetExceededError, match="5 of 10 spent, 10 held, 10 needed"):
                await asyncio.wait_for(task, 30)
            hold.release()
        finally:
            run.__exit__(None, None, None)

    asyncio.run(scenario())


def test_a_cancelled_waiter_lets_those_behind_it_pass():
    """A large request that is cancelled while it waits leaves the queue, and the small one behind it is granted."""

    async def scenario():
        run = sw.Run(budget=sw.Budget(max_tokens=20))
        with run:
            released = asyncio.Event()

            async def holder():
                async with sw.reserve(output_tokens=15) as hold:
                    await released.wait()
                    hold.release()

            holding = await started(holder())
            large = await started(take(output_tokens=20, min_output_tokens=20))
            small = await started(take(output_tokens=5))
            large.cancel()
            assert await asyncio.wait_for(small, 30) == 5
            released.set()
            await holding
            assert run.held == sw.Usage()

    asyncio.run(scenario())


def test_a_timeout_leaves_nothing_behind():
    """A caller that waited as long as it may gets a ReserveTimeoutError, which no boundary takes."""

    @sw.step(error_boundary="continue", fallback="absorbed")
    async def impatient():
        return await take(**TEN, timeout=0.01)

    async def scenario():
        run, hold = full()
        try:
            with pytest.raises(sw.ReserveTimeoutError) as caught:
                await impatient()
            assert (caught.value.scope_kind, caught.value.limit) == ("run", "max_tokens")
            assert isinstance(caught.value, TimeoutError)
            hold.release()
            assert await take(**TEN) == 10
        finally:
            run.__exit__(None, None, None)

    asyncio.run(scenario())


@pytest.mark.parametrize("asked", [{"wait": False}, {"timeout": 0}])
def test_who_will_not_wait_is_told_at_once(asked):
    """With `wait=False`, or a timeout of 0, what does not fit now is a ReserveTimeoutError at once."""
    run, hold = full()
    with pytest.raises(sw.ReserveTimeoutError):
        sw.reserve(**TEN, **asked).acquire()
    hold.release()
    run.__exit__(None, None, None)


def test_a_wait_that_max_seconds_ends_is_a_budget_error():
    """Where `max_seconds` is the least of what may be waited, its end is a BudgetExceededError with phase deadline."""
    run, hold = full()
    with sw.step("s", budget=sw.Budget(max_seconds=0.02)), pytest.raises(sw.BudgetExceededError) as caught:
        sw.reserve(**TEN).acquire()
    assert (caught.value.limit, caught.value.phase, caught.value.scope_name) == ("max_seconds", "deadline", "s")
    hold.release()
    run.__exit__(None, None, None)


def test_a_run_that_ends_refuses_who_waits_in_it():
    """A caller that still waits when its run ends gets a RunClosedError."""
    run, _ = full()
    errors = []
    waiting = threading.Event()

    def wait():
        try:
            waiting.set()
            sw.reserve(**TEN).acquire()
        except sw.RunClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=sw.propagate(wait))
    thread.start()
    waiting.wait()
    while not run.tree.waiting:
        pass
    run.__exit__(None, None, None)
    thread.join(30)
    assert len(errors) == 1


def test_a_waiter_of_a_closed_loop_takes_no_room_with_it():
    """A grant to a task whose loop was closed meanwhile goes back, and the next caller gets it."""
    run, hold = full()
    loop = asyncio.new_event_loop()

    task = loop.create_task(take(**TEN))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert run.tree.waiting
    loop._ready.clear()
    task._log_destroy_pending = False
    loop.close()
    hold.release()
    with sw.reserve(**TEN) as mine:
        assert mine.output_tokens == 10
        mine.release()
    run.__exit__(None, None, None)


def test_first_come_first_served():
    """Those who contend for one scope are served in the order in which they came."""

    async def scenario():
        run, hold = full()
        served = []

        async def caller(number):
            async with sw.reserve(**TEN) as mine:
                served.append(number)
                await asyncio.sleep(0)
                mine.release()

        try:
            tasks = [await started(caller(number)) for number in range(8)]
            hold.release()
            await asyncio.gather(*tasks)
        finally:
            run.__exit__(None, None, None)
        assert served == list(range(8))

    asyncio.run(scenario())


def test_a_run_that_ends_grants_nothing_to_who_waits_in_it():
    """When a run ends, no call that waited in it is granted, and counted, what another one's leaving would free."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
            contextvars.copy_context().run(sw.reserve(input_tokens=60).acquire)
            asked = [asyncio.create_task(sw.reserve(input_tokens=size)._acquire_in_task()) for size in [50, *[5] * 8]]
            await asyncio.sleep(0)
            assert len(run.tree.waiting) == 9
        errors = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in errors] == [sw.RunClosedError] * 9
        assert (run.held, run.total.input_tokens, run.total.calls) == (sw.Usage(), 60, 1)

    asyncio.run(main())
