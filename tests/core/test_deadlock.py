"""No deadlock: whoever has a hold open never waits for another, and nobody waits for what he does not share."""

import asyncio
import contextvars
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepwarden as sw

NOTHING = sw.Usage()
SAFETY = 30
"""Seconds after which a test gives up; nothing waits that long unless something is wrong."""


def elsewhere(reservation):
    """Take a hold in a context of its own, so that neither this context nor those copied from it hold anything."""
    return contextvars.copy_context().run(reservation.acquire)


def in_loop(test):
    """Run a coroutine function as a test."""

    @functools.wraps(test)
    def run(*args, **kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), SAFETY))

    return run


def refused_at_once(**ask) -> sw.BudgetExceededError:
    """Reserve where that must be refused for holding, and return the refusal."""
    with pytest.raises(sw.BudgetExceededError) as caught:
        sw.reserve(**ask).acquire()
    assert (caught.value.reason, caught.value.phase) == ("would_deadlock", "reserve")
    return caught.value


async def refused_in_task(**ask) -> sw.BudgetExceededError:
    """Reserve as a coroutine where that must be refused for holding, and return the refusal."""
    with pytest.raises(sw.BudgetExceededError) as caught:
        await sw.reserve(**ask)
    assert (caught.value.reason, caught.value.phase) == ("would_deadlock", "reserve")
    return caught.value


@pytest.mark.parametrize(
    ("limit", "first", "second"),
    [
        ({"max_tokens": 10}, {"input_tokens": 6}, {"input_tokens": 5}),
        ({"max_input_tokens": 10}, {"input_tokens": 6}, {"input_tokens": 5}),
        ({"max_output_tokens": 10}, {"output_tokens": 6}, {"output_tokens": 9, "min_output_tokens": 5}),
        ({"max_usd": 1}, {"cost_usd": "0.6"}, {"cost_usd": "0.5"}),
        ({"max_calls": 1}, {}, {}),
    ],
)
def test_a_holder_that_would_wait_is_refused(limit, first, second):
    """A context with an open hold is refused at once where it would have to wait, whatever the limit."""
    with sw.step("s", budget=sw.Budget(**limit)) as step, sw.reserve(**first) as hold:
        error = refused_at_once(**second)
        assert (error.limit, error.scope_id) == (next(iter(limit)), step.id)
        assert error.held > 0
        assert error.consumed + error.requested <= error.limit_value
        held = step.held
        assert asyncio.run(refused_in_task(**second)).limit == error.limit
        assert step.held == held
        hold.release()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 120), st.integers(0, 120))
def test_a_holder_takes_what_is_free_now(held, spent, asked, least):
    """A context with an open hold gets the output that is free now, down to its minimum, without waiting."""
    with sw.Run(budget=sw.Budget(max_tokens=150)) as run:
        sw.record_usage(input_tokens=spent)
        hold = sw.reserve(input_tokens=held).acquire()
        free, ever = 150 - held - spent, 150 - spent
        ask = sw.reserve(output_tokens=asked, min_output_tokens=least)
        if min(least, asked) <= free:
            second = ask.acquire()
            assert second.output_tokens == min(asked, free)
            second.release()
        else:
            with pytest.raises(sw.BudgetExceededError) as caught:
                ask.acquire()
            assert caught.value.reason == ("would_deadlock" if min(least, asked) <= ever else "no_room")
        hold.release()
        assert run.held == NOTHING


def test_a_holder_does_not_queue_behind_those_who_wait():
    """A context with an open hold takes what is free although others wait for more: they may wait for its own hold."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
            context = contextvars.copy_context()
            hold = context.run(sw.reserve(input_tokens=60).acquire)
            waiting = asyncio.create_task(taken(sw.reserve(input_tokens=50)))
            for _ in range(10):
                await asyncio.sleep(0)
            second = context.run(sw.reserve(input_tokens=30).acquire)
            assert not waiting.done()
            second.release()
            hold.release()
            (await waiting).release()
            assert run.held == NOTHING

    asyncio.run(asyncio.wait_for(main(), SAFETY))


async def taken(reservation):
    """Take a hold as a coroutine."""
    return await reservation


def test_once_its_holds_are_gone_a_context_waits_again():
    """A context may wait again as soon as its last hold is settled, released or left."""

    def outcome() -> str:
        try:
            sw.reserve(input_tokens=60, wait=False).acquire()
        except sw.ReserveTimeoutError:
            return "waits"
        except sw.BudgetExceededError as error:
            return error.reason
        return "granted"

    with sw.Run(budget=sw.Budget(max_tokens=100)):
        other = elsewhere(sw.reserve(input_tokens=60))
        assert outcome() == "waits"
        with sw.reserve(input_tokens=1) as settled:
            assert outcome() == "would_deadlock"
            settled.settle(input_tokens=1, output_tokens=0)
            assert outcome() == "waits"
        first = sw.reserve(input_tokens=1).acquire()
        second = sw.reserve(input_tokens=1).acquire()
        first.release()
        assert outcome() == "would_deadlock"
        second.release()
        assert outcome() == "waits"
        with sw.reserve(input_tokens=1):
            assert outcome() == "would_deadlock"
        assert outcome() == "waits"
        other.release()


def test_inside_a_nested_use_of_one_reservation_the_outer_hold_still_counts():
    """A context that has left the inner of two uses of one reservation still holds the outer, and does not wait."""
    with sw.Run(budget=sw.Budget(max_tokens=10)):
        reservation = sw.reserve(input_tokens=1, output_tokens=1)
        with reservation as outer:
            with reservation as inner:
                inner.settle(input_tokens=1, output_tokens=1)
            assert refused_at_once(input_tokens=8).held == 2
            outer.release()


@in_loop
async def test_child_tasks_inherit_the_hold():
    """A task that was started by a holder never waits either, while the holder waits for the task."""
    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        async with sw.reserve(input_tokens=6) as hold:
            errors = await asyncio.gather(*(refused_in_task(input_tokens=5) for _ in range(3)))
            assert [error.held for error in errors] == [6, 6, 6]
            await asyncio.to_thread(refused_at_once, input_tokens=5)
            hold.release()
        assert run.held == NOTHING


@in_loop
async def test_a_child_task_waits_once_its_parent_has_settled():
    """What a child task inherits ends with the parent's hold: after that the child waits like anybody."""
    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        started, settled = asyncio.Event(), asyncio.Event()

        async def child():
            started.set()
            await settled.wait()
            return await sw.reserve(input_tokens=10)

        hold = await sw.reserve(input_tokens=6)
        task = asyncio.create_task(child())
        await started.wait()
        other = elsewhere(sw.reserve(input_tokens=4))
        hold.release()
        settled.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        other.release()
        (await task).release()
        assert run.held == NOTHING


def test_a_propagated_function_carries_the_hold():
    """`propagate` carries the caller's hold into another thread, so that nothing waits there for who waits for it."""
    with sw.Run(budget=sw.Budget(max_tokens=10)), ThreadPoolExecutor(1) as pool:
        with sw.reserve(input_tokens=6) as hold:
            pool.submit(sw.propagate(refused_at_once), input_tokens=5).result(SAFETY)
            hold.release()
        pool.submit(sw.propagate(sw.reserve(input_tokens=5).acquire)).result(SAFETY).release()


def test_across_a_suspended_generator_the_hold_counts():
    """A consumer between two items of a generator that holds never waits for it, step or not."""

    def holds():
        with sw.reserve(input_tokens=6) as hold:
            yield "item"
            hold.release()

    for generator in (holds, sw.step(holds)):
        with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
            for _ in generator():
                refused_at_once(input_tokens=5)
            assert run.held == NOTHING
            sw.reserve(input_tokens=10, wait=False).acquire().release()


@in_loop
async def test_across_a_suspended_async_generator_the_hold_counts():
    """A consumer between two items of an async generator that holds never waits for it, step or not."""

    async def holds():
        async with sw.reserve(input_tokens=6) as hold:
            yield "item"
            hold.release()

    for generator in (holds, sw.step(holds)):
        with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
            async for _ in generator():
                await refused_in_task(input_tokens=5)
            assert run.held == NOTHING
            sw.reserve(input_tokens=10, wait=False).acquire().release()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_generators_that_hold_are_left_in_any_order(order):
    """Holds of interleaved generators end in any order, each its own, and the context waits again after the last."""

    def holds():
        with sw.reserve(input_tokens=3) as hold:
            yield "item"
            hold.settle(input_tokens=2, output_tokens=0)

    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        generators = [holds(), holds()]
        for generator in generators:
            next(generator)
        for left, index in enumerate(order):
            refused_at_once(input_tokens=8 - 2 * left)
            assert next(generators[index], None) is None
            assert (run.held.input_tokens, run.uncertain) == (3 - 3 * left, NOTHING)
        sw.reserve(input_tokens=6, wait=False).acquire().release()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.lists(st.integers(1, 60), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_holders_that_reserve_again_two_at_a_time_never_hang(callers, sizes, in_threads, in_children):
    """Callers that each hold and reserve again, in themselves or in child tasks, all come to an end."""
    ends = []
    refusals = set()

    async def nested(depth) -> None:
        try:
            async with sw.reserve(input_tokens=sizes[depth], timeout=SAFETY) as hold:
                await asyncio.sleep(0)
                if depth + 1 < len(sizes):
                    if in_children:
                        await asyncio.gather(nested(depth + 1), nested(depth + 1))
                    else:
                        await nested(depth + 1)
                hold.settle(input_tokens=0, output_tokens=0)
        except sw.BudgetExceededError as error:
            refusals.add((error.reason, depth > 0))
        if depth == 0:
            ends.append(None)

    async def together() -> None:
        await asyncio.gather(*(nested(0) for _ in range(callers)))

    with sw.Run(budget=sw.Budget(max_tokens=60)) as run:
        if in_threads:
            with ThreadPoolExecutor(callers) as pool:
                calls = [pool.submit(sw.propagate(lambda: asyncio.run(nested(0)))) for _ in range(callers)]
                for call in calls:
                    call.result(SAFETY)
        else:
            asyncio.run(asyncio.wait_for(together(), SAFETY))
        assert run.held == run.uncertain == NOTHING
    assert len(ends) == callers
    assert refusals <= {("would_deadlock", True)}


def test_two_threads_that_hold_and_reserve_again_never_wait_for_each_other():
    """Two threads that each hold half and ask for the rest are both refused, and do not wait for each other."""
    both_hold = threading.Barrier(2)
    both_asked = threading.Barrier(2)

    def caller() -> None:
        with sw.reserve(input_tokens=5) as hold:
            both_hold.wait(SAFETY)
            refused_at_once(input_tokens=1)
            both_asked.wait(SAFETY)
            hold.release()

    with sw.Run(budget=sw.Budget(max_tokens=10)) as run, ThreadPoolExecutor(2) as pool:
        for call in [pool.submit(sw.propagate(caller)) for _ in range(2)]:
            call.result(SAFETY)
        assert run.held == NOTHING


def test_a_waiter_blocked_by_its_own_leaf_blocks_nobody_else():
    """A caller that its own step keeps waiting does not hold up callers beside it, who come later and fit."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
            with sw.step("narrow", budget=sw.Budget(max_tokens=10)):
                hold = elsewhere(sw.reserve(input_tokens=10))
                waiting = asyncio.create_task(taken(sw.reserve(input_tokens=10)))
                for _ in range(10):
                    await asyncio.sleep(0)
            for size in (1, 50, 90):
                sw.reserve(input_tokens=size, wait=False).acquire().release()
            with sw.step("beside", budget=sw.Budget(max_tokens=90)):
                (await sw.reserve(input_tokens=90, wait=False)).release()
            assert not waiting.done()
            hold.release()
            (await waiting).release()
            assert run.held == NOTHING

    asyncio.run(asyncio.wait_for(main(), SAFETY))


def test_a_waiter_blocked_by_what_they_share_is_not_overtaken():
    """A caller that waits for a scope that others share is not overtaken there, from whichever leaf they come."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_tokens=100)):
            with sw.step("one", budget=sw.Budget(max_tokens=99)):
                hold = elsewhere(sw.reserve(input_tokens=60))
                waiting = asyncio.create_task(taken(sw.reserve(input_tokens=50)))
                for _ in range(10):
                    await asyncio.sleep(0)
            with sw.step("two"), pytest.raises(sw.ReserveTimeoutError) as caught:
                await sw.reserve(input_tokens=10, wait=False)
            assert caught.value.scope_kind == "run"
            hold.release()
            (await waiting).release()

    asyncio.run(asyncio.wait_for(main(), SAFETY))


def test_a_sync_acquire_does_not_freeze_the_loop():
    """A sync acquire on a loop's thread is a WouldBlockError, and the task that has the hold can go on to settle it."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_usd=1)) as run:
            taken, go_on = asyncio.Event(), asyncio.Event()

            async def holder() -> None:
                async with sw.reserve(cost_usd=1) as hold:
                    taken.set()
                    await go_on.wait()
                    hold.settle(input_tokens=0, output_tokens=0, cost_usd="0.5")

            task = asyncio.create_task(holder())
            await taken.wait()
            with pytest.raises(sw.WouldBlockError):
                sw.reserve(cost_usd="0.5").acquire()
            go_on.set()
            await task
            sw.reserve(cost_usd="0.5").acquire().release()
            assert run.held == NOTHING

    asyncio.run(asyncio.wait_for(main(), SAFETY))
