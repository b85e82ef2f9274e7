"""Cancellation at any suspension: nothing stays held, no scope stays open, every activation leaves one receipt."""

import asyncio
import contextlib
from decimal import Decimal

import pytest

import stepwarden as sw

SETTLED = {"completed", "cancelled"}


class CancelledAt:
    """Await a coroutine, and cancel the task at the suspensions whose numbers are given."""

    def __init__(self, coroutine, numbers):
        self.coroutine = coroutine
        self.numbers = set(numbers)
        self.suspensions = 0

    def __await__(self):
        inside = self.coroutine.__await__()
        value = error = None
        while True:
            try:
                item = inside.send(value) if error is None else inside.throw(error)
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            if self.suspensions in self.numbers:
                asyncio.current_task().cancel()
            value = error = None
            try:
                value = yield item
            except BaseException as thrown:
                error = thrown


class Tree:
    """Be a step tree that suspends in every construct, and note each activation that its bodies see."""

    def __init__(self):
        self.ids = []
        self.captain = sw.persona(name="captain", budget=sw.Budget(max_tokens=1_000))(self._captain)
        self.planning = sw.step(name="plan", budget=sw.Budget(max_seconds=60))(self._planning)
        self.stream = sw.step(name="stream")(self._stream)
        self.branch = sw.step(name="branch")(self._branch)
        self.look_up = sw.tool(name="look_up", side_effect="none")(self._look_up)

    def met(self, scope=None):
        self.ids.append((scope or sw.current_step()).id)

    async def _captain(self):
        self.met(sw.current_persona())
        await asyncio.sleep(0)
        await self.planning()
        async for _ in self.stream():
            sw.record_usage(input_tokens=1, cost_usd="0.01")
            await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.branch())
            group.create_task(self.branch())
            await asyncio.sleep(0)
        await asyncio.gather(self.branch(), self.branch())

    async def _planning(self):
        self.met()
        try:
            async with sw.step("block") as block:
                self.met(block)
                async with sw.reserve(input_tokens=5, output_tokens=5, cost_usd="0.1") as hold:
                    await asyncio.sleep(0)
                    hold.settle(input_tokens=4, output_tokens=3, cost_usd="0.05")
                    await asyncio.sleep(0)
                await self.look_up()
                with sw.step("sync block") as inner:
                    self.met(inner)
                    await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            sw.record_usage(input_tokens=1, cost_usd="0.01")

    async def _stream(self):
        self.met()
        with sw.reserve(input_tokens=3, cost_usd="0.01") as hold:
            for _ in range(2):
                await asyncio.sleep(0)
                yield
            hold.settle(output_tokens=0, input_tokens=2, cost_usd="0.01")

    async def _branch(self):
        self.met()
        # Everything but one branch's worth is taken: the branches wait for one another.
        async with sw.reserve(input_tokens=600, cost_usd="0.6") as hold:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            hold.settle(output_tokens=0, input_tokens=10, cost_usd="0.01")

    async def _look_up(self):
        await asyncio.sleep(0)


async def cancelled_tree(numbers):
    """Run the tree in a task, cancelling it at those suspensions; check what must hold; return how many there were."""
    tree = Tree()
    async with sw.Run(budget=sw.Budget(max_usd=1)) as run, sw.step("around") as around:
        driven = CancelledAt(tree.captain(), numbers)
        cancelled = False

        async def drive():
            try:
                await driven
            finally:
                assert sw.current_step() is around
                assert sw.current_persona() is None

        try:
            await asyncio.create_task(drive())
        except asyncio.CancelledError:
            cancelled = True
        for _ in range(5):  # children that a gather has left behind
            await asyncio.sleep(0)
        assert sw.current_step() is around
        assert run.held == around.held == sw.Usage()
        assert run.open_scopes == (around,)
        assert sorted(receipt.step_id for receipt in run.receipts) == sorted(tree.ids)
        assert {str(receipt.status) for receipt in run.receipts} <= SETTLED
        assert cancelled or all(receipt.status == "completed" for receipt in run.receipts)
        own = [receipt.own for receipt in run.receipts] + [around.own, run.own]
        assert sum(usage.input_tokens for usage in own) == run.total.input_tokens
        assert sum(usage.cost_usd for usage in own) == run.total.cost_usd
        left = 1 - run.total.cost_usd - run.uncertain.cost_usd
        assert run.remaining.max_usd == left
        # Nobody is left in the queue, and what nobody set aside can be had at once.
        sw.reserve(cost_usd=left, wait=False).acquire().release()
    return driven.suspensions


def test_the_tree_ends_without_cancellation():
    """The tree that is cancelled below runs to its end when nobody cancels it."""
    assert asyncio.run(cancelled_tree([])) > 10


def test_cancelled_at_any_suspension_nothing_is_left():
    """Cancelled at the k-th suspension, for every k, the tree holds nothing and has one receipt an activation."""

    async def scenario():
        last = await cancelled_tree([])
        for number in range(1, last + 1):
            await cancelled_tree([number])

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [1, 2, 3])
def test_cancelled_again_while_it_cleans_up_nothing_is_left(after):
    """A second cancellation, while the first is being handled, leaves as little behind as one does."""

    async def scenario():
        last = await cancelled_tree([])
        for number in range(1, last + 1):
            await cancelled_tree([number, number + after])

    asyncio.run(scenario())


@sw.step
def nested(depth, ids):
    """Yield from generator steps and blocks, with a hold open over each item."""
    ids.append(sw.current_step().id)
    with sw.step("block") as block:
        ids.append(block.id)
        with sw.reserve(input_tokens=2, cost_usd="0.2") as hold:
            yield
            hold.settle(output_tokens=0, input_tokens=1, cost_usd="0.1")
        if depth:
            yield from nested(depth - 1, ids)
    yield


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, ValueError, None])
def test_thrown_at_any_item_of_a_generator_tree_nothing_is_left(error):
    """Closed, or hit by an exception, at the k-th item, for every k, a tree of generator steps leaves nothing."""
    for number in range(1, 8):
        ids = []
        with sw.Run() as run, sw.step("around") as around:
            generator = nested(2, ids)
            for _ in range(number):
                next(generator, None)
            with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, ValueError):
                if error is None:
                    generator.close()
                else:
                    generator.throw(error())
            assert sw.current_step() is around
            assert run.open_scopes == (around,)
            assert run.held == sw.Usage()
            assert sorted(receipt.step_id for receipt in run.receipts) == sorted(ids)
            ended = {str(receipt.status) for receipt in run.receipts}
            assert ended <= {"completed", "failed" if error is ValueError else "cancelled"}
            assert run.total.calls == sum(receipt.own.calls for receipt in run.receipts)


def test_a_users_own_cancellation_stays_one():
    """A step with `max_seconds` that is cancelled from outside is cancelled, not out of time."""

    async def scenario():
        started = asyncio.Event()

        @sw.step(budget=sw.Budget(max_seconds=60), error_boundary="continue")
        async def slow():
            started.set()
            await asyncio.Event().wait()

        async with sw.Run() as run:
            task = asyncio.create_task(slow())
            await started.wait()
            task.cancel("mine")
            with pytest.raises(asyncio.CancelledError, match="mine"):
                await task
        return run

    assert [str(receipt.status) for receipt in asyncio.run(scenario()).receipts] == ["cancelled"]


def test_a_timeout_of_the_users_goes_through_a_step():
    """`asyncio.timeout` around a step raises its own TimeoutError, and the step is cancelled."""

    async def scenario():
        @sw.step(budget=sw.Budget(max_seconds=60))
        async def slow():
            await asyncio.Event().wait()

        async with sw.Run() as run:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await slow()
            assert asyncio.current_task().cancelling() == 0
        return run

    assert [str(receipt.status) for receipt in asyncio.run(scenario()).receipts] == ["cancelled"]


def test_a_cancellation_that_the_body_swallows_completes_the_step():
    """A step that catches its cancellation and returns is completed, and its caller goes on."""

    async def scenario():
        @sw.step
        async def stubborn():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return "kept"

        async with sw.Run() as run:
            task = asyncio.create_task(stubborn())
            await asyncio.sleep(0)
            task.cancel()
            assert await task == "kept"
        return run

    assert [str(receipt.status) for receipt in asyncio.run(scenario()).receipts] == ["completed"]


@pytest.mark.parametrize("release_first", [True, False])
def test_a_grant_that_meets_a_cancellation_goes_back(release_first):
    """A waiter cancelled in the same turn of the loop as it is granted keeps nothing, and the next one gets it."""

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_usd=1)) as run:
            taken = await contextless(sw.reserve(cost_usd=1))
            first = asyncio.create_task(contextless(sw.reserve(cost_usd=1)))
            second = asyncio.create_task(contextless(sw.reserve(cost_usd=1)))
            for _ in range(3):
                await asyncio.sleep(0)
            if release_first:
                taken.release()
                first.cancel()
            else:
                first.cancel()
                taken.release()
            with pytest.raises(asyncio.CancelledError):
                await first
            hold = await asyncio.wait_for(second, 30)
            assert run.held.cost_usd == 1
            hold.settle(input_tokens=0, output_tokens=0, cost_usd=1)
            assert (run.held.cost_usd, run.total.cost_usd) == (Decimal(0), Decimal(1))

    asyncio.run(scenario())


async def contextless(reservation):
    """Take a hold in a task of its own, so that the caller does not hold it."""
    return await asyncio.create_task(taking(reservation))


async def taking(reservation):
    """Take a hold."""
    return await reservation
