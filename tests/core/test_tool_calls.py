"""Tools: asked about and counted before they run, however many call at once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import stepwarden as sw


@sw.tool(side_effect="read_only")
def look():
    """Do nothing."""
    return "seen"


@sw.tool(side_effect="read_only")
async def look_async():
    """Do nothing, for a while."""
    await asyncio.sleep(0)
    return "seen"


@sw.tool
def undeclared():
    """Declare no side effect."""


def outcomes(receipt):
    """Return the names and outcomes of a receipt's tool calls."""
    return [(tool.name, tool.outcome) for tool in receipt.tools]


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_a_parallel_batch_in_threads_never_lets_one_more_through(limit):
    """Of 50 threads that call a tool at once, exactly as many get through as `max_tool_calls` allows."""

    def call(_):
        try:
            return look()
        except sw.BudgetExceededError as error:
            return error.phase

    with sw.Run(budget=sw.Budget(max_tool_calls=limit)) as run, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(sw.propagate(call), range(50)))
    assert (answers.count("seen"), answers.count("tool")) == (limit, 50 - limit)
    assert run.total.tool_calls == limit


def test_a_parallel_batch_in_tasks_never_lets_one_more_through():
    """Of 50 tasks that call a tool at once, exactly as many get through as the outer limit allows."""

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_tool_calls=9)) as run, sw.step("s", budget=sw.Budget(max_tool_calls=20)):
            answers = await asyncio.gather(*(look_async() for _ in range(50)), return_exceptions=True)
        return run, answers

    run, answers = asyncio.run(scenario())
    refused = [answer for answer in answers if isinstance(answer, sw.BudgetExceededError)]
    assert (answers.count("seen"), len(refused), run.total.tool_calls) == (9, 41, 9)
    assert {error.scope_kind for error in refused} == {"run"}
    assert str(refused[0]) == "run `run` has no room in max_tool_calls (9 of 9 spent, 0 held, 1 needed)"


def test_a_denied_call_does_not_count_and_a_failed_one_does():
    """The policy is asked first: a denied call leaves its outcome and no count, a failed one leaves both."""

    @sw.tool(side_effect="none")
    def failing():
        raise LookupError

    with sw.Run(policy=sw.Policy(side_effect_level="read_only")) as run, sw.step("s"):
        with pytest.raises(sw.ToolDeniedError) as denied:
            undeclared()
        with pytest.raises(LookupError):
            failing()
        look()
    (receipt,) = run.receipts
    assert outcomes(receipt) == [("undeclared", "denied"), ("failing", "failed"), ("look", "completed")]
    assert receipt.own.tool_calls == 2
    assert (denied.value.tool, denied.value.policy.side_effect_level) == ("undeclared", sw.SideEffect.READ_ONLY)
    assert "network" in denied.value.reason
    assert not isinstance(denied.value, OSError)


def test_generators_are_tools_too():
    """A generator tool is admitted when its body begins, and its outcome is known when it ends."""

    @sw.tool(side_effect="none")
    def numbers():
        received = yield 1
        yield received

    @sw.tool(side_effect="none")
    async def numbers_async():
        received = yield 1
        yield received

    async def collect():
        stream = numbers_async()
        first = await anext(stream)
        second = await stream.asend(2)
        assert [item async for item in stream] == []
        return [first, second]

    with sw.Run() as run, sw.step("s"):
        stream = numbers()
        assert [next(stream), stream.send(2), *stream] == [1, 2]
        assert asyncio.run(collect()) == [1, 2]
    assert outcomes(run.receipts[0]) == [("numbers", "completed"), ("numbers_async", "completed")]
    assert run.total.tool_calls == 2


def test_a_sync_tool_that_returns_a_coroutine_is_refused():
    """A coroutine would run after the tool was counted as through, so it is a TypeError that says what to do."""

    async def work():
        raise AssertionError

    @sw.tool(side_effect="none")
    def careless():
        return work()

    with sw.Run() as run, sw.step("s"), pytest.raises(TypeError, match="async def"):
        careless()
    assert outcomes(run.receipts[0]) == [("careless", "failed")]


def test_a_tool_after_max_seconds_is_refused():
    """A tool that is called after a scope's time is over does not run."""
    with sw.Run(), sw.step("s", budget=sw.Budget(max_seconds=0)) as step:
        with pytest.raises(sw.BudgetExceededError) as caught:
            look()
        assert (caught.value.limit, caught.value.phase) == ("max_seconds", "tool")
        assert step.own.tool_calls == 0


def test_a_tool_outside_every_scope_goes_through():
    """With no run anywhere a tool runs, and is counted nowhere."""
    assert look() == "seen"
    assert sw.current_run() is None


def test_a_tool_is_a_tool_again_when_it_is_decorated_again():
    """Decorating a tool again replaces what it declares."""
    again = sw.tool(side_effect="network", name="renamed")(look)
    with sw.Run(policy=sw.Policy(side_effect_level="read_only")), pytest.raises(sw.ToolDeniedError, match="renamed"):
        again()


@pytest.mark.parametrize("how", ["task", "interrupt", "generator", "async generator"])
def test_a_tool_that_is_stopped_from_outside_is_cancelled(how):
    """A tool call that is cancelled, interrupted or closed early is `cancelled` on the receipt, and it counts."""

    @sw.tool(name="stopped", side_effect="none")
    async def waits():
        await asyncio.get_running_loop().create_future()

    @sw.tool(name="stopped", side_effect="none")
    def interrupted():
        raise KeyboardInterrupt

    @sw.tool(name="stopped", side_effect="none")
    def items():
        yield 1

    @sw.tool(name="stopped", side_effect="none")
    async def async_items():
        yield 1

    async def stop():
        if how == "async generator":
            generator = async_items()
            await anext(generator)
            await generator.aclose()
        else:
            task = asyncio.create_task(waits())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with sw.Run() as run, sw.step("s"):
        if how == "interrupt":
            with pytest.raises(KeyboardInterrupt):
                interrupted()
        elif how == "generator":
            generator = items()
            next(generator)
            generator.close()
        else:
            asyncio.run(stop())
    assert run.receipts[0].tools == (("stopped", "cancelled", None),)
    assert run.total.tool_calls == 1
