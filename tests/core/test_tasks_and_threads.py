"""Contexts never leak: tasks, threads and callbacks each see the scope that they were given, and no other."""

import asyncio
import contextvars
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw


@pytest.fixture
def unscoped_calls():
    """Let a test configure what happens outside every scope, and restore it."""
    yield lambda value: sw.configure(unscoped_calls=value)
    sw.configure(unscoped_calls="warn")


def in_bare_thread(function):
    """Call a function in a thread that inherits nothing, and return what it returned or raise what it raised."""
    result = []

    def work():
        try:
            result.append((function(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=contextvars.Context().run, args=(work,))
    thread.start()
    thread.join(60)
    value, error = result[0]
    if error is not None:
        raise error
    return value


@sw.step
async def working(number, depth, checkpoints):
    """Nest steps, suspending in between, and check the scope in force after each suspension."""
    scope = sw.current_step()
    for _ in range(checkpoints):
        await asyncio.sleep(0)
        assert sw.current_step() is scope
        sw.record_usage(input_tokens=1)
    if depth:
        await working(number, depth - 1, checkpoints)
        assert sw.current_step() is scope
    return scope


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_gathered_steps_do_not_see_each_other(shapes):
    """Steps that run at the same time in one loop each keep their own scope, and their sums are exact."""

    async def scenario():
        async with sw.Run() as run, sw.step("around") as around:
            scopes = await asyncio.gather(*(working(n, *shape) for n, shape in enumerate(shapes)))
            assert sw.current_step() is around
        for scope, (depth, checkpoints) in zip(scopes, shapes, strict=True):
            assert scope.parent is around
            assert (scope.own.calls, scope.total.calls) == (checkpoints, checkpoints * (depth + 1))
        assert run.total.calls == around.total.calls == sum(depth * more + more for depth, more in shapes)
        assert (around.own.calls, run.own.calls) == (0, 0)

    asyncio.run(scenario())


def test_a_task_group_inherits_the_scope_around_it():
    """Tasks of a group are under the scope that made them, and what they open is not in force around them."""

    async def child():
        assert sw.current_step().name == "around"
        async with sw.step("child") as scope:
            await asyncio.sleep(0)
            assert sw.current_step() is scope

    async def scenario():
        async with sw.Run() as run, sw.step("around") as around:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(child())
                await asyncio.sleep(0)
                assert sw.current_step() is around
            assert sw.current_step() is around
        return run

    assert [receipt.name for receipt in asyncio.run(scenario()).receipts] == ["child"] * 3 + ["around"]


def test_to_thread_inherits_the_scope():
    """`asyncio.to_thread` works under the caller's scope, and leaves the caller's alone."""

    @sw.step
    def blocking():
        sw.record_usage(input_tokens=1)
        return sw.current_step().parent

    async def scenario():
        async with sw.Run(), sw.step("around") as around:
            parents = await asyncio.gather(*(asyncio.to_thread(blocking) for _ in range(4)))
            assert sw.current_step() is around
            assert parents == [around] * 4
            assert around.total.input_tokens == 4

    asyncio.run(scenario())


def test_callbacks_inherit_the_scope_of_whoever_scheduled_them():
    """A `call_soon` callback runs under the scope in which it was scheduled, and opens nothing for the others."""

    async def scenario():
        seen = []
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def callback(last):
            seen.append(sw.current_step().name)
            block = sw.step("left open")
            block.__enter__()
            sw.record_usage(input_tokens=1)
            block.__exit__(None, None, None)
            if last:
                done.set()

        async with sw.Run() as run:
            async with sw.step("a") as a:
                loop.call_soon(callback, False)
                async with sw.step("b") as b:
                    loop.call_soon(callback, True)
                    await done.wait()
                    assert sw.current_step() is b
            assert seen == ["a", "b"]
            assert (a.total.calls, b.total.calls, run.total.calls) == (2, 1, 2)

    asyncio.run(scenario())


def test_propagate_carries_the_scope_into_a_thread():
    """A propagated function works under its maker's scope, several at once, and leaves the thread as it was."""
    barrier = threading.Barrier(3)
    seen = []

    @sw.propagate
    def outside():
        return sw.current_step()

    def work():
        barrier.wait(30)
        seen.append(sw.current_step())
        with sw.step("inside") as inside:
            sw.record_usage(input_tokens=1)
        return inside.parent

    with sw.Run(), sw.step("around") as around, ThreadPoolExecutor(3) as pool:
        assert [future.result(30) for future in [pool.submit(sw.propagate(work)) for _ in range(3)]] == [around] * 3
        assert seen == [around] * 3
        assert around.total.input_tokens == 3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert [future.result(30) for future in [pool.submit(sw.current_run) for _ in range(3)]] == [None] * 3
        assert outside() is None
        assert sw.current_step() is around


def test_propagate_keeps_what_it_wraps():
    """A propagated function takes the same arguments, returns and raises the same, and keeps its name."""

    def add(one, *, two):
        """Add."""
        if two is None:
            raise KeyError("two")
        return one + two

    carried = sw.propagate(add)
    assert (carried(1, two=2), carried.__name__, carried.__doc__) == (3, "add", "Add.")
    with pytest.raises(KeyError):
        carried(1, two=None)


def test_propagate_carries_the_scope_into_a_coroutine():
    """A propagated coroutine function works under its maker's scope, also in another thread's loop."""

    async def work():
        await asyncio.sleep(0)
        sw.record_usage(input_tokens=1)
        return sw.current_step()

    with sw.Run(), sw.step("around") as around:
        carried = sw.propagate(work)
        assert in_bare_thread(lambda: asyncio.run(carried())) is around
        assert around.own.input_tokens == 1


def test_a_lost_context_is_warned_of():
    """A record, hold or tool outside every scope goes through, with a warning that names `propagate`."""
    look_up = sw.tool(side_effect="read_only")(lambda: "found")

    def record():
        with pytest.warns(sw.UnscopedCallWarning, match="propagate"):
            sw.record_usage(input_tokens=1)

    def reserve():
        with pytest.warns(sw.UnscopedCallWarning, match="propagate"), sw.reserve(input_tokens=3, cost_usd=1) as hold:
            assert (hold.input_tokens, hold.cost_usd) == (3, 1)
            hold.settle(output_tokens=0, input_tokens=1)

    def call():
        with pytest.warns(sw.UnscopedCallWarning, match="propagate"):
            assert look_up() == "found"

    with sw.Run(budget=sw.Budget(max_calls=0, max_tool_calls=0)) as run:
        for lost in (record, reserve, call):
            in_bare_thread(lost)
    assert run.total == sw.Usage()


def test_without_an_open_run_nothing_is_lost():
    """Outside every scope, with no run open anywhere, a record and a hold pass without a warning."""
    sw.record_usage(input_tokens=1)
    with sw.reserve(input_tokens=1) as hold:
        hold.settle(output_tokens=0, input_tokens=1)
    with pytest.raises(sw.HoldClosedError):
        hold.settle(output_tokens=0, input_tokens=1)
    with sw.Run():
        pass
    sw.record_usage(input_tokens=1)


@pytest.mark.parametrize("what", ["record", "reserve", "tool"])
def test_unscoped_calls_can_be_refused_or_passed(unscoped_calls, what):
    """`refuse` raises before anything happens, with or without an open run, and `pass` is silent."""
    called = []
    act = {
        "record": lambda: sw.record_usage(input_tokens=1),
        "reserve": lambda: sw.reserve(input_tokens=1).acquire().release(),
        "tool": sw.tool(name="t")(lambda: called.append(1)),
    }[what]
    unscoped_calls("pass")
    with sw.Run():
        in_bare_thread(act)
    assert len(called) == (what == "tool")
    unscoped_calls("refuse")
    with pytest.raises(sw.StepwardenError, match="propagate"):
        act()
    with sw.Run() as run:
        with pytest.raises(sw.StepwardenError, match="propagate"):
            in_bare_thread(act)
        act()
        assert run.total.calls + run.total.tool_calls == (what != "reserve")
    assert len(called) == 2 * (what == "tool")


def test_a_step_outside_every_scope_is_never_refused(unscoped_calls):
    """A step or persona outside every run opens one of its own, whatever is configured for lost calls."""
    sw.configure(ledger=sw.MemoryLedger())
    unscoped_calls("refuse")

    @sw.step
    def alone():
        sw.record_usage(input_tokens=1)

    alone()
    assert [receipt.own.calls for receipt in sw.receipts()] == [1]
    sw.configure(ledger=sw.MemoryLedger())


def test_a_bad_setting_changes_nothing():
    """An unknown value for lost calls is refused, and the one in force stays."""
    with pytest.raises(sw.DefinitionError, match="unscoped_calls"):
        sw.configure(unscoped_calls="ignore")
    with sw.Run():
        in_bare_thread(lambda: pytest.warns(sw.UnscopedCallWarning, sw.record_usage))


def test_threads_charge_the_shared_scopes_exactly():
    """Eight threads that record, reserve and nest steps at once leave exact sums on every shared scope."""
    barrier = threading.Barrier(8)

    def work():
        barrier.wait(30)
        for _ in range(50):
            with sw.step("inner"):
                sw.record_usage(input_tokens=1, cost_usd="0.01")
                with sw.reserve(input_tokens=2, cost_usd="0.02") as hold:
                    hold.settle(output_tokens=0, input_tokens=1, cost_usd="0.01")

    with sw.Run() as run, sw.step("around") as around:
        threads = [threading.Thread(target=sw.propagate(work)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert around.held == sw.Usage()
    assert (around.own.calls, around.total.calls, run.total.cost_usd) == (0, 800, 8)
    assert sum(receipt.own.calls for receipt in run.receipts) == 800


def items():
    """Be a generator function."""
    yield


async def items_async():
    """Be an async generator function."""
    yield


@pytest.mark.parametrize("what", [None, "record_usage", items, items_async])
def test_propagate_refuses_what_it_cannot_carry(what):
    """What is not callable is a TypeError, and so is a generator function, whose body runs between others' code."""
    with pytest.raises(TypeError, match="propagate takes"):
        sw.propagate(what)
