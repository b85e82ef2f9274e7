"""The promises of the issue, end to end: never over, used up, nobody hangs, nobody starves."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal

import pytest

import stepwarden as sw

WORST = Decimal("0.05")
LIMIT = Decimal("1.00")


def call_in_thread(cost):
    """Make one call of a fixed cost, or say that it was refused."""
    try:
        with sw.reserve(cost_usd=cost) as hold:
            hold.settle(cost_usd=cost)
    except sw.BudgetExceededError:
        return 0
    return 1


async def call_in_task(cost):
    """Make one call of a fixed cost, or say that it was refused."""
    try:
        async with sw.reserve(cost_usd=cost) as hold:
            await asyncio.sleep(0)
            hold.settle(cost_usd=cost)
    except sw.BudgetExceededError:
        return 0
    return 1


def test_twenty_threads_make_exactly_ten_calls():
    """20 threads of three calls of $0.10 under $1.00 make 10 calls, spend $1.00 and leave nothing held."""
    with sw.Run(budget=sw.Budget(max_usd=LIMIT)) as run, ThreadPoolExecutor(20) as pool:
        work = sw.propagate(lambda _: sum(call_in_thread("0.10") for _ in range(3)))
        made = sum(pool.map(work, range(20)))
    assert (made, run.total.cost_usd, run.total.calls) == (10, LIMIT, 10)
    assert (run.held, run.uncertain) == (sw.Usage(), sw.Usage())


def test_twenty_tasks_make_exactly_ten_calls():
    """20 tasks of three calls of $0.10 under $1.00 make 10 calls, spend $1.00 and leave nothing held."""

    async def caller():
        return sum([await call_in_task("0.10") for _ in range(3)])

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_usd=LIMIT)) as run:
            made = sum(await asyncio.gather(*(caller() for _ in range(20))))
        return made, run

    made, run = asyncio.run(scenario())
    assert (made, run.total.cost_usd, run.total.calls) == (10, LIMIT, 10)
    assert (run.held, run.uncertain) == (sw.Usage(), sw.Usage())


class Watched:
    """Count what callers did under some scopes, checking after each grant that no limit is promised away."""

    def __init__(self, scopes):
        self.scopes = scopes
        self.refused_with_holds = 0

    def check(self):
        for scope in self.scopes:
            with scope.tree.lock:  # else other threads settle between one reading and the next
                promised = scope.total.cost_usd + scope.uncertain.cost_usd + scope.held.cost_usd
            assert promised <= scope.budget.max_usd

    def note_refusal(self, error):
        if error.held > 0 and error.consumed + error.requested + error.uncertain <= error.limit_value:
            self.refused_with_holds += 1


def levels(stack):
    """Open a run, a persona and a step, each with a limit of its own; the run's is the tightest."""
    run = stack.enter_context(sw.Run(budget=sw.Budget(max_usd=LIMIT)))
    captain = stack.enter_context(sw.persona("captain", budget=sw.Budget(max_usd=LIMIT * 2)))
    step = stack.enter_context(sw.step("work", budget=sw.Budget(max_usd=LIMIT * 3)))
    return run, captain, step


def one_level(stack):
    """Open a run with a limit."""
    return (stack.enter_context(sw.Run(budget=sw.Budget(max_usd=LIMIT))),)


@pytest.mark.parametrize("depth", [one_level, levels], ids=["one level", "three levels"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sixty_four_tasks_use_the_budget_up_and_never_pass_it(depth, seed):
    """64 tasks with actuals of 10 to 100 % of their worst case use 95 % of the limit, and nobody is refused early."""
    chance = random.Random(seed)

    async def caller(watched):
        while True:
            try:
                async with sw.reserve(cost_usd=WORST) as hold:
                    watched.check()
                    await asyncio.sleep(0)
                    hold.settle(cost_usd=WORST * chance.randint(10, 100) / 100)
            except sw.BudgetExceededError as error:
                watched.note_refusal(error)
                return

    async def scenario():
        with ExitStack() as stack:
            scopes = depth(stack)
            watched = Watched(scopes)
            await asyncio.gather(*(caller(watched) for _ in range(64)))
            watched.check()
        return scopes[0], watched

    run, watched = asyncio.run(scenario())
    assert LIMIT * 95 / 100 <= run.total.cost_usd <= LIMIT
    assert watched.refused_with_holds == 0
    assert run.held == sw.Usage()


@pytest.mark.parametrize("depth", [one_level, levels], ids=["one level", "three levels"])
def test_sixty_four_threads_use_the_budget_up_and_never_pass_it(depth):
    """The same 64 callers in threads, where they really run at the same time."""

    def caller(watched, number):
        chance = random.Random(number)
        while True:
            try:
                with sw.reserve(cost_usd=WORST) as hold:
                    watched.check()
                    hold.settle(cost_usd=WORST * chance.randint(10, 100) / 100)
            except sw.BudgetExceededError as error:
                watched.note_refusal(error)
                return

    with ExitStack() as stack:
        scopes = depth(stack)
        watched = Watched(scopes)
        with ThreadPoolExecutor(64) as pool:
            list(pool.map(sw.propagate(lambda number: caller(watched, number)), range(64)))
    assert LIMIT * 95 / 100 <= scopes[0].total.cost_usd <= LIMIT
    assert watched.refused_with_holds == 0
    assert scopes[0].held == sw.Usage()


def test_two_event_loops_and_threads_share_one_budget():
    """Tasks of two loops in two threads, and threads beside them, wait for one another and never pass the limit."""
    refused = []

    async def caller(number):
        chance = random.Random(number)
        while True:
            try:
                async with sw.reserve(cost_usd=WORST) as hold:
                    await asyncio.sleep(0)
                    hold.settle(cost_usd=WORST * chance.randint(10, 100) / 100)
            except sw.BudgetExceededError:
                refused.append(number)
                return

    def loop(first):
        async def main():
            await asyncio.gather(*(caller(first + number) for number in range(16)))

        asyncio.run(main())

    def thread(number):
        while call_in_thread(WORST):
            pass
        refused.append(number)

    with sw.Run(budget=sw.Budget(max_usd=LIMIT)) as run:
        work = [threading.Thread(target=sw.propagate(loop), args=(first,)) for first in (0, 16)]
        work += [threading.Thread(target=sw.propagate(thread), args=(number,)) for number in range(32, 40)]
        for one in work:
            one.start()
        for one in work:
            one.join()
    assert len(refused) == 40
    assert LIMIT * 95 / 100 <= run.total.cost_usd <= LIMIT
    assert run.held == sw.Usage()


def test_a_holder_that_reserves_again_takes_what_is_free():
    """A context with an open hold gets what is free now, lowered, and never waits for its own hold."""
    with sw.Run(budget=sw.Budget(max_tokens=100)), sw.reserve(output_tokens=60) as outer:
        with sw.reserve(output_tokens=60) as inner:
            assert inner.output_tokens == 40
            inner.settle(output_tokens=40)
        outer.settle(output_tokens=60)


def test_a_holder_that_would_wait_is_refused():
    """A context with an open hold that would have to wait is refused, with the reason."""
    with sw.Run(budget=sw.Budget(max_tokens=100)), sw.reserve(output_tokens=100) as outer:
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(output_tokens=10).acquire()
        assert caught.value.reason == "would_deadlock"
        outer.release()


def test_child_tasks_of_a_holder_never_wait():
    """Tasks that a holder starts inherit its hold: two of them that reserve again do not hang."""

    async def child():
        try:
            async with sw.reserve(output_tokens=60) as hold:
                await asyncio.sleep(0)
                hold.settle(output_tokens=10)
        except sw.BudgetExceededError as error:
            return error.reason
        return "granted"

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_tokens=100)), sw.reserve(output_tokens=100) as hold:
            answers = await asyncio.gather(child(), child())
            hold.settle(output_tokens=1)
        return answers

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == ["would_deadlock"] * 2


def test_a_hold_across_a_suspended_generator_hangs_nobody():
    """The consumer of a suspended generator that holds is a holder too: it is refused, and can close it."""

    @sw.step
    def stream():
        with sw.reserve(output_tokens=100) as hold:
            yield
            hold.settle(output_tokens=1)

    with sw.Run(budget=sw.Budget(max_tokens=100)):
        generator = stream()
        next(generator)
        with pytest.raises(sw.BudgetExceededError, match="hold"):
            sw.reserve(output_tokens=10).acquire()
        assert list(generator) == []
        sw.reserve(output_tokens=10).acquire().release()


def test_a_waiter_blocked_by_its_own_leaf_blocks_nobody_else():
    """A caller that waits for room in its own step lets a later caller in another step pass."""

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_tokens=1_000)):
            with sw.step("narrow", budget=sw.Budget(max_tokens=10)):
                holder = asyncio.create_task(hold_until(released := asyncio.Event(), held := asyncio.Event()))
                await held.wait()
                waiter = asyncio.create_task(take(10))
                await asyncio.sleep(0)
                assert not waiter.done()
            with sw.step("wide"):
                assert await take(500) == 500
            released.set()
            await holder
            assert await waiter == 10

    async def hold_until(released, held):
        async with sw.reserve(output_tokens=10) as hold:
            held.set()
            await released.wait()
            hold.release()

    async def take(tokens):
        async with sw.reserve(output_tokens=tokens) as hold:
            granted = hold.output_tokens
            hold.release()
        return granted

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_large_request_among_small_ones_gets_its_turn():
    """A caller that needs the whole limit is served although small callers keep coming."""

    async def small(stop):
        while not stop.is_set():
            async with sw.reserve(output_tokens=10) as hold:
                await asyncio.sleep(0)
                hold.release()

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_tokens=100)):
            stop = asyncio.Event()
            tasks = [asyncio.create_task(small(stop)) for _ in range(20)]
            await asyncio.sleep(0)
            async with sw.reserve(output_tokens=100, min_output_tokens=100) as hold:
                assert hold.output_tokens == 100
                hold.release()
            stop.set()
            await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_sync_acquire_that_would_wait_on_a_loops_thread_is_an_error():
    """On a thread that runs an event loop, a sync `acquire` that would wait raises and leaves nothing behind."""

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
            held, release = asyncio.Event(), asyncio.Event()

            async def holder():
                async with sw.reserve(output_tokens=100) as hold:
                    held.set()
                    await release.wait()
                    hold.release()

            task = asyncio.create_task(holder())
            await held.wait()
            with pytest.raises(sw.WouldBlockError, match="await"):
                sw.reserve(output_tokens=10).acquire()
            release.set()
            await task
            assert run.held == sw.Usage()

    asyncio.run(asyncio.wait_for(scenario(), 30))
