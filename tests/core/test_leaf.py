"""What a context is left with: no scope that is not its own, and none that has ended."""

import asyncio
import contextvars
import gc
import threading
import types

import pytest

import stepwarden as sw
from stepwarden.core._leaf import get_leaf


@types.coroutine
def pause():
    """Suspend a coroutine that is driven by hand."""
    yield


def drive(awaitable):
    """Resume an awaitable once, up to where it pauses."""
    return next(awaitable.__await__())


def in_thread(function):
    """Call a function in another thread, and wait for it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def hooks_that_pause(event):
    """Return hooks with one for an event, which suspends and is never resumed."""
    hooks = sw.Hooks()

    @hooks.on(event)
    async def paused(event):
        await pause()

    return hooks


@pytest.mark.parametrize("event", ["PreStep", "PostStep"])
def test_a_coroutine_hook_that_is_collected_elsewhere_leaves_no_leaf(event):
    """A step that is suspended in a hook and collected in another context leaves that context's leaf alone."""

    @sw.step
    async def waits():
        pass

    with sw.Run(hooks=hooks_that_pause(event)) as run:
        suspended = waits()
        contextvars.copy_context().run(drive, suspended)
    del suspended
    gc.collect()
    assert get_leaf() is None
    (receipt,) = run.receipts
    assert (receipt.status, receipt.error) == ("cancelled" if event == "PreStep" else "abandoned", None)


def test_an_async_generator_that_is_collected_elsewhere_leaves_no_leaf():
    """An async generator step that is collected while its body is suspended leaves the collector's leaf alone."""

    @sw.step
    async def items():
        await pause()
        yield 1

    with sw.Run() as run:
        inside = contextvars.copy_context()
        generator = items()
        resumed = inside.run(generator.__anext__)
        inside.run(drive, resumed)
    del generator, resumed
    gc.collect()
    assert get_leaf() is None
    assert [receipt.status for receipt in run.receipts] == ["abandoned"]


def test_a_scope_closed_from_elsewhere_is_not_seen_by_later_tasks():
    """Once whoever opened a run asks, one that was closed elsewhere is gone, also for the tasks that it starts."""

    @sw.step
    async def later():
        return sw.current_run()

    run = sw.Run()
    run.__enter__()
    in_thread(lambda: run.__exit__(None, None, None))
    assert sw.current_run() is None
    assert get_leaf() is None
    assert asyncio.run(later()) is not run


def test_a_consumer_is_given_back_its_own_leaf():
    """A generator step resumed by several contexts in turn shows none of them its scope, nor one of the others'."""

    @sw.step
    def items():
        yield 1
        yield 2

    with sw.Run():
        generator = items()
        with sw.step("first") as first:
            next(generator)
            assert sw.current_step() is first
        with sw.step("second") as second:
            next(generator)
            assert sw.current_step() is second
            assert next(generator, None) is None
            assert sw.current_step() is second


@pytest.mark.parametrize("boundary", ["fail", "continue", "escalate"])
def test_hooks_hear_of_the_order_error(boundary):
    """OnStepFailed is told of the `ScopeOrderError` that leaves an exhausted step, and OnEscalation of nothing."""
    hooks, told = sw.Hooks(), []
    hooks.on("OnStepFailed")(lambda event: told.append(event.error))
    hooks.on("OnEscalation")(lambda event: told.append(event.event))

    @sw.step(budget=sw.Budget(max_calls=0), error_boundary=boundary)
    def careless():
        sw.step("inner").__enter__()
        sw.record_usage()

    with sw.Run(hooks=hooks), pytest.raises(sw.ScopeOrderError) as caught:
        careless()
    assert told == [caught.value]


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
@pytest.mark.parametrize("around", [lambda: sw.step("around"), sw.Run], ids=["step", "run"])
def test_an_interrupt_is_not_lost_in_an_order_error(around, error):
    """An interrupt or cancellation that leaves open scopes behind goes on as itself, and those are abandoned."""
    with sw.Run(), pytest.raises(error), around():
        inner = sw.step("inner").__enter__()
        raise error
    assert inner.status == "abandoned"


def test_a_hook_whose_run_is_closed_from_elsewhere_sees_the_run_around():
    """Inside a hook, once its run was closed from another context, the run around is in force."""
    seen = []
    mine = sw.Hooks()
    outer, inner = sw.Run(), sw.Run(hooks=mine)

    @mine.on("OnStepFailed")
    def close(event):
        in_thread(lambda: inner.__exit__(None, None, None))
        seen.append(sw.current_run())

    with outer:
        inner.__enter__()
        with pytest.raises(LookupError), sw.step("s"):
            raise LookupError
        assert seen == [outer]
        assert sw.current_run() is outer
