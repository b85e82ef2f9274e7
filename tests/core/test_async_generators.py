"""Async generator steps: open only while their body runs, in whatever task or loop they are advanced."""

import asyncio
import contextlib
import contextvars
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw


@sw.step
async def counting(name, most=1_000):
    """Yield numbers with usage, inside a block of its own, suspending too, and take what is sent and thrown."""
    async with sw.step(f"{name}-inside") as inside:
        total = 0
        for _ in range(most):
            await asyncio.sleep(0)
            sw.record_usage(input_tokens=1)
            assert sw.current_step() is inside
            try:
                total += (yield total) or 1
            except LookupError:
                total -= 1
            assert sw.current_step() is inside


def statuses(run):
    """Name what ended and how, in order."""
    return [(receipt.name, str(receipt.status)) for receipt in run.receipts]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["next", "send", "throw", "fail", "close", "drop", "enter", "leave", "task"]),
        st.integers(0, 2),
    ),
    max_size=30,
)


async def act(action, generator):
    """Do one thing to an async generator, as its consumer; tell whether that starts it."""
    if action == "next":
        await anext(generator)
    elif action == "task":
        await asyncio.create_task(anext(generator))
    elif action == "send":
        await generator.asend(5)
    elif action == "throw":
        await generator.athrow(LookupError())
    elif action == "fail":
        await generator.athrow(KeyError())
    elif action == "close":
        await generator.aclose()


@given(ACTIONS)
def test_generators_advanced_in_any_order_never_show_their_scope(actions):
    """Whatever is done to several async generator steps, in any order and task, the consumer's scope is in force."""

    async def scenario():
        started, touched = set(), set()
        blocks = []
        with sw.Run() as run:
            made = [counting(str(number), 4) for number in range(3)]
            for action, number in actions:
                if action == "enter":
                    block = sw.step("consumer")
                    blocks.append((block, await block.__aenter__()))
                elif action == "leave" and blocks:
                    await blocks.pop()[0].__aexit__(None, None, None)
                elif action == "drop":
                    made[number] = None
                elif made[number] is not None and action != "leave":
                    if number not in touched and action in {"next", "task"}:
                        started.add(number)
                    if not (number not in touched and action == "send"):
                        touched.add(number)
                    with contextlib.suppress(StopAsyncIteration, LookupError, TypeError):
                        await act(action, made[number])
                assert sw.current_step() is (blocks[-1][1] if blocks else None)
            while blocks:
                await blocks.pop()[0].__aexit__(None, None, None)
            made.clear()
            gc.collect()
            await asyncio.get_running_loop().shutdown_asyncgens()
            for _ in range(20):  # those that were dropped are closed by tasks of the loop
                await asyncio.sleep(0)
            assert sw.current_run() is run
            assert run.open_scopes == ()
            names = [receipt.name for receipt in run.receipts if receipt.name != "consumer"]
            assert sorted(names) == sorted(["counting"] * len(started) + [f"{number}-inside" for number in started])

    asyncio.run(scenario())


def test_two_tasks_consume_one_generator_each_in_turn():
    """Async generator steps advanced alternately by two tasks each charge their own scope; each task keeps its own."""

    async def consume(name, run):
        async with sw.step(name) as scope:
            async for _ in counting(name, 5):
                assert sw.current_step() is scope
                sw.record_usage(input_tokens=100)
                await asyncio.sleep(0)
                assert sw.current_step() is scope

    async def scenario():
        async with sw.Run() as run:
            await asyncio.gather(consume("a", run), consume("b", run))
        return run

    run = asyncio.run(scenario())
    totals = {receipt.name: (receipt.own.input_tokens, receipt.total.input_tokens) for receipt in run.receipts}
    assert totals == {"a-inside": (5, 5), "b-inside": (5, 5), "counting": (0, 5), "a": (500, 505), "b": (500, 505)}


def test_one_generator_advanced_by_several_tasks():
    """An async generator step whose items are taken by different tasks stays one activation, in none of them."""

    async def scenario():
        async with sw.Run() as run, sw.step("maker") as maker:
            generator = counting("g", 3)

            async def take(number):
                async with sw.step(f"t{number}") as scope:
                    item = await anext(generator, "end")
                    assert sw.current_step() is scope
                    return item

            items = [await asyncio.create_task(take(number)) for number in range(4)]
            assert sw.current_step() is maker
        return run, items

    run, items = asyncio.run(scenario())
    assert items == [0, 1, 2, "end"]
    by_name = {receipt.name: receipt for receipt in run.receipts}
    assert by_name["counting"].parent_id == by_name["maker"].step_id
    assert (by_name["maker"].total.input_tokens, by_name["t0"].total.input_tokens) == (3, 0)


def test_never_iterated_is_never_activated():
    """An async generator step that is not iterated opens nothing, runs no hook and leaves no receipt."""
    hooks = sw.Hooks()
    events = []
    hooks.on("PreStep")(lambda event: events.append(event.step))

    async def scenario():
        async with sw.Run(hooks=hooks) as run:
            await counting("a").aclose()
            counting("b")
            gc.collect()
            assert (events, run.open_scopes) == ([], ())
            await anext(counting("c", 1))
            assert events == ["counting", "c-inside"]
            gc.collect()
            await asyncio.sleep(0.01)
        return run

    assert statuses(asyncio.run(scenario())) == [("c-inside", "cancelled"), ("counting", "cancelled")]


def test_closed_early_is_cancelled():
    """An async generator step that is closed before its end leaves one receipt, `cancelled`, with no error."""

    async def scenario():
        async with sw.Run() as run, sw.step("around") as around:
            generator = counting("g")
            await anext(generator)
            assert run.receipts == ()
            await generator.aclose()
            await generator.aclose()
            assert sw.current_step() is around
        return run

    run = asyncio.run(scenario())
    assert statuses(run) == [("g-inside", "cancelled"), ("counting", "cancelled"), ("around", "completed")]
    assert run.receipts[1].error is None


def test_abandoned_generators_are_closed_by_the_loop():
    """An async generator step that its consumer drops is closed by the loop, and the consumer's scope stays."""

    async def scenario():
        async with sw.Run() as run, sw.step("consumer") as consumer:
            async for _ in counting("g"):
                break
            assert sw.current_step() is consumer
            gc.collect()
            await asyncio.sleep(0.01)
            assert sw.current_step() is consumer
            assert run.open_scopes == (consumer,)
        return run

    run = asyncio.run(scenario())
    assert statuses(run) == [("g-inside", "cancelled"), ("counting", "cancelled"), ("consumer", "completed")]


def test_a_plain_generator_abandoned_with_a_block_open_is_skipped_once_finalised():
    """A block inside a plain async generator that the loop finalises is closed, and skipped in its consumer's task."""

    async def plain():
        async with sw.step("block", tools=[], model="m"):
            yield

    async def scenario():
        async with sw.Run() as run, sw.step("consumer") as consumer:
            async for _ in plain():
                break
            gc.collect()
            await asyncio.sleep(0.01)
            assert sw.current_step() is consumer
            assert (sw.current_policy(), sw.default_model()) == (sw.Policy(), None)
            sw.record_usage(input_tokens=1)
            async with sw.reserve(input_tokens=1) as hold:
                hold.settle(output_tokens=0, input_tokens=1)
            async with sw.step("next") as following:
                assert following.parent is consumer
            assert (consumer.own.input_tokens, run.own.input_tokens) == (2, 0)
        return run

    run = asyncio.run(scenario())
    assert statuses(run) == [("block", "cancelled"), ("next", "completed"), ("consumer", "completed")]
    assert run.receipts[0].total.calls == 0


def test_a_generator_that_outlives_its_loop_is_collected_without_a_trace():
    """An async generator step left suspended when its loop is gone is closed once, in nobody's scope."""

    async def scenario():
        generator = counting("g")
        await anext(generator)
        return generator

    with sw.Run() as run:
        loop = asyncio.new_event_loop()
        generator = loop.run_until_complete(scenario())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        with sw.step("other") as other:
            del generator
            gc.collect()
            assert sw.current_step() is other
    assert statuses(run) == [("g-inside", "cancelled"), ("counting", "cancelled"), ("other", "completed")]


@pytest.mark.parametrize("limit", [0, 2])
def test_continue_just_ends(limit):
    """An async generator step that is exhausted under `continue` ends like one that is through."""

    @sw.step(budget=sw.Budget(max_calls=limit), error_boundary="continue", fallback="unused")
    async def spending():
        while True:
            sw.record_usage()
            yield 1

    async def scenario():
        async with sw.Run() as run:
            items = [item async for item in spending()]
            assert sw.current_step() is None
        return run, items

    run, items = asyncio.run(scenario())
    assert items == [1] * limit
    assert statuses(run) == [("spending", "skipped")]


def test_an_error_thrown_in_is_the_bodys_to_handle():
    """What is thrown into an async generator step reaches its body as it is; unhandled, it ends the step as failed."""
    error = ValueError("x")

    async def scenario():
        async with sw.Run() as run:
            generator = counting("g")
            await anext(generator)
            assert await generator.athrow(LookupError()) == -1
            with pytest.raises(ValueError, match="x") as caught:
                await generator.athrow(error)
            assert caught.value is error
            assert sw.current_step() is None
        return run

    assert statuses(asyncio.run(scenario())) == [("g-inside", "failed"), ("counting", "failed")]


def test_cancelled_inside_the_body():
    """A task cancelled while an async generator step's body awaits ends that step as cancelled, once."""

    async def scenario():
        reached = asyncio.Event()

        @sw.step
        async def waiting():
            yield 1
            reached.set()
            await asyncio.Event().wait()

        async def consume():
            async with sw.step("consumer"):
                async for _ in waiting():
                    pass

        async with sw.Run() as run:
            task = asyncio.create_task(consume())
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert run.open_scopes == ()
        return run

    assert statuses(asyncio.run(scenario())) == [("waiting", "cancelled"), ("consumer", "cancelled")]


def test_called_in_one_scope_and_consumed_in_another_context():
    """Its parent is the scope where it was called, even when an unrelated context consumes it."""

    async def scenario():
        async with sw.Run() as run:
            async with sw.step("maker", tools=["t"]) as maker:
                generator = counting("g", 2)
                loop = asyncio.get_running_loop()

                async def consume():
                    assert sw.current_run() is None
                    items = [item async for item in generator]
                    assert sw.current_run() is None
                    return items

                assert await loop.create_task(consume(), context=contextvars.Context()) == [0, 1]
                assert maker.total.input_tokens == 2
        return run

    assert [name for name, _ in statuses(asyncio.run(scenario()))] == ["g-inside", "counting", "maker"]


def test_max_seconds_runs_out_only_while_the_body_runs():
    """A consumer that is slow between items is not cancelled by the generator's `max_seconds`; the body is."""

    @sw.step(budget=sw.Budget(max_seconds=0.05))
    async def timed():
        yield 1
        await asyncio.Event().wait()

    async def scenario():
        async with sw.Run() as run:
            generator = timed()
            await anext(generator)
            await asyncio.sleep(0.1)
            with pytest.raises(sw.BudgetExceededError) as caught:
                await anext(generator)
            assert (caught.value.limit, caught.value.phase) == ("max_seconds", "deadline")
            assert asyncio.current_task().cancelling() == 0
        return run

    assert statuses(asyncio.run(scenario())) == [("timed", "failed")]


def test_closed_early_is_cancelled_also_where_the_body_then_returns():
    """An async generator whose body catches its being closed and returns was closed early all the same."""

    @sw.step
    async def items():
        try:
            yield 1
        except GeneratorExit:
            sw.record_usage(input_tokens=1)

    async def main() -> sw.Run:
        with sw.Run() as run:
            generator = items()
            await anext(generator)
            await generator.aclose()
        return run

    run = asyncio.run(main())
    assert statuses(run) == [("items", "cancelled")]
    assert run.receipts[0].own.input_tokens == 1
