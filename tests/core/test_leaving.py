"""Leaving a scope: it always closes, whoever leaves it, and only its own context gets its leaf back."""

import asyncio
import contextvars
import gc
import threading
import types

import pytest

import stepwarden as sw


@types.coroutine
def pause():
    """Suspend a coroutine that is driven by hand."""
    yield


def elsewhere(function, *args):
    """Call a function in another context: a copy of this one."""
    return contextvars.copy_context().run(function, *args)


def statuses(run):
    """Name what ended and how, in order."""
    return [(receipt.name, str(receipt.status)) for receipt in run.receipts]


def test_the_leaf_becomes_the_parent():
    """Leaving the innermost scope puts the scope around it in force again, also when an error leaves it."""
    with sw.Run() as run, sw.step("a") as a:
        with sw.step("b"):
            pass
        assert sw.current_step() is a
        with pytest.raises(KeyError), sw.step("c"):
            raise KeyError
        assert sw.current_step() is a
    assert statuses(run) == [("b", "completed"), ("c", "failed"), ("a", "completed")]


def test_scopes_left_open_inside_are_abandoned():
    """Leaving a scope with open ones inside closes those as abandoned, innermost first, and then raises."""
    with sw.Run() as run, sw.step("around") as around:
        outer = sw.step("outer")
        outer.__enter__()
        persona = sw.persona("persona").__enter__()
        inner = sw.step("inner").__enter__()
        with pytest.raises(sw.ScopeOrderError, match=r"outer.*inner") as caught:
            outer.__exit__(None, None, None)
        assert caught.value.__cause__ is None
        assert sw.current_step() is around
        assert (persona.status, inner.status) == ("abandoned", "abandoned")
    assert statuses(run)[:2] == [("inner", "abandoned"), ("persona", "abandoned")]
    assert [name for name, _ in statuses(run)] == ["inner", "persona", "outer", "around"]
    assert inner.error is None


def test_the_order_error_is_raised_from_the_one_in_flight():
    """Where an exception leaves a scope with open ones inside, `ScopeOrderError` has it as its cause."""
    flying = KeyError("x")
    with sw.Run() as run, pytest.raises(sw.ScopeOrderError) as caught, sw.step("outer"):
        sw.step("inner").__enter__()
        raise flying
    assert caught.value.__cause__ is flying
    assert statuses(run) == [("inner", "abandoned"), ("outer", "failed")]
    assert run.receipts[1].error.type == "KeyError"


def test_a_step_that_raises_the_order_error_is_not_completed():
    """A step whose caller gets a `ScopeOrderError` from it has failed: any exception that leaves the step is that."""

    @sw.step
    def careless():
        sw.step("inner").__enter__()

    with sw.Run() as run, pytest.raises(sw.ScopeOrderError):
        careless()
    assert statuses(run) == [("inner", "abandoned"), ("careless", "failed")]


@pytest.mark.parametrize("boundary", ["fail", "continue", "escalate"])
def test_no_boundary_hides_an_order_error(boundary):
    """Where a step is exhausted with a scope inside it still open, `ScopeOrderError` is raised, with the cause."""
    with (
        sw.Run() as run,
        pytest.raises(sw.ScopeOrderError) as caught,
        sw.step("outer", budget=sw.Budget(max_calls=0), error_boundary=boundary),
    ):
        sw.step("inner").__enter__()
        sw.record_usage()
    assert isinstance(caught.value.__cause__, sw.BudgetExceededError)
    assert statuses(run) == [("inner", "abandoned"), ("outer", "failed")]
    assert run.receipts[1].error.type == "BudgetExceededError"


def test_a_run_left_with_open_scopes_abandons_them():
    """A run closes what is still open under it as abandoned, in every context, and says so only in its own."""
    with pytest.raises(sw.ScopeOrderError), sw.Run() as run:
        sw.step("here").__enter__()
        away = elsewhere(sw.step("there").__enter__)
    assert sorted(statuses(run)) == [("here", "abandoned"), ("there", "abandoned")]
    assert away.status == "abandoned"
    assert sw.current_step() is None
    with sw.Run() as run:
        elsewhere(sw.step("there").__enter__)
    assert statuses(run) == [("there", "abandoned")]


def test_abandoned_scopes_hand_over_their_holds():
    """An abandoned scope's open hold goes to the scope around it, is shown on the receipt, and can be settled."""
    with sw.Run() as run:
        with pytest.raises(sw.ScopeOrderError), sw.step("outer"):
            sw.step("inner").__enter__()
            hold = sw.reserve(input_tokens=5).acquire()
        assert run.held.input_tokens == 5
        assert [receipt.open_holds for receipt in run.receipts] == [1, 1]
        hold.settle(output_tokens=0, input_tokens=4)
        assert (run.held.input_tokens, run.total.input_tokens) == (0, 4)


def test_an_unrelated_leaf_is_left_alone():
    """A scope left in another context closes there and changes nothing but its own context's view."""
    with sw.Run() as run:
        block = sw.step("a")
        a = elsewhere(block.__enter__)
        with sw.step("b") as b:
            block.__exit__(None, None, None)
            assert a.status == "completed"
            assert sw.current_step() is b
    assert statuses(run) == [("a", "completed"), ("b", "completed")]


@pytest.mark.parametrize("kind", [sw.step, sw.persona])
def test_leaving_a_block_that_was_not_entered_is_an_order_error(kind):
    """A block that has no scope open, or two of them elsewhere, cannot tell which one is left, and says so."""
    block = kind("b")
    with pytest.raises(sw.ScopeOrderError):
        block.__exit__(None, None, None)
    with sw.Run() as run:
        first, second = elsewhere(block.__enter__), elsewhere(block.__enter__)
        with pytest.raises(sw.ScopeOrderError):
            block.__exit__(None, None, None)
        assert (first.status, second.status) == (None, None)
        elsewhere(first.extend, sw.Budget())
    assert statuses(run) == [("b", "abandoned")] * 2


def test_leaving_a_block_twice_is_an_order_error():
    """A block that was left, or abandoned, has no scope to leave; nothing is written twice."""
    with sw.Run() as run:
        block, inner = sw.step("b"), sw.step("i")
        with block:
            pass
        with pytest.raises(sw.ScopeOrderError):
            block.__exit__(None, None, None)
        block.__enter__()
        inner.__enter__()
        with pytest.raises(sw.ScopeOrderError):
            block.__exit__(None, None, None)
        with pytest.raises(sw.ScopeOrderError):
            inner.__exit__(None, None, None)
    assert statuses(run) == [("b", "completed"), ("i", "abandoned"), ("b", "failed")]


def test_a_block_left_where_it_was_not_entered_still_raises_from_the_exception_in_flight():
    """The order error of a block that was not entered does not lose the exception that was leaving it."""
    flying = KeyError("x")
    with pytest.raises(sw.ScopeOrderError) as caught:
        try:
            raise flying
        except KeyError as error:
            sw.step("b").__exit__(type(error), error, error.__traceback__)
    assert flying in (caught.value.__cause__, caught.value.__context__)


def test_a_block_is_reusable_and_re_entrant():
    """One block object serves again and again, inside itself, in threads and in tasks, a new scope each time."""
    block = sw.step("b")
    with sw.Run() as run:
        with block as one, block as two:
            assert (two.parent, one.parent) == (one, run)
        with block as three:
            assert sw.current_step() is three
        barrier = threading.Barrier(3)

        def use():
            with block as scope:
                barrier.wait(30)
                assert sw.current_step() is scope
                sw.record_usage(input_tokens=1)
                barrier.wait(30)

        threads = [threading.Thread(target=sw.propagate(use)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        async def use_async():
            async with block as scope:
                await asyncio.sleep(0)
                assert sw.current_step() is scope
                sw.record_usage(input_tokens=1)

        async def gather():
            await asyncio.gather(*(use_async() for _ in range(3)))

        asyncio.run(gather())
    assert statuses(run) == [("b", "completed")] * 9
    assert [receipt.own.calls for receipt in run.receipts] == [0] * 3 + [1] * 6


def test_a_closed_leaf_is_skipped_where_it_was_opened():
    """A block closed from another context leaves its own thread in the scope around, as if it had closed it."""
    with sw.Run() as run, sw.step("around") as around:
        block = sw.step("b", model="m", tools=[])
        block.__enter__()
        elsewhere(block.__exit__, None, None, None)
        assert sw.current_step() is around
        assert (sw.default_model(), sw.current_policy()) == (None, sw.Policy())
        sw.record_usage(input_tokens=3)
        with sw.step("next") as following:
            assert following.parent is around
        assert (around.own.input_tokens, run.own.input_tokens) == (3, 0)


@pytest.mark.parametrize("carried", ["before", "after"])
def test_a_propagated_function_does_not_bring_a_closed_leaf_back(carried):
    """A closed leaf that is skipped stays skipped when a function carried from there, before or after, is called."""

    def scenario():
        with sw.Run(), sw.step("around") as around:
            block = sw.step("b", tools=[])
            closed = block.__enter__()
            late = sw.propagate(sw.current_step)
            elsewhere(block.__exit__, None, None, None)
            if carried == "after":
                late = sw.propagate(sw.current_step)
            assert sw.current_step() is around
            assert late() is (closed if carried == "before" else around)
            assert sw.current_step() is around
            sw.record_usage(input_tokens=1)
            assert around.own.input_tokens == 1
            assert sw.current_policy() == sw.Policy()

    elsewhere(scenario)


def test_a_coroutine_closed_from_another_context_leaves_no_scope_behind():
    """A coroutine step driven by hand and closed in another context is cancelled, and its driver is back outside."""

    @sw.step
    async def work():
        await pause()

    async def body():
        async with sw.step("block"):
            await work()

    with sw.Run() as run, sw.step("around") as around:
        coroutine = body()
        coroutine.send(None)
        assert sw.current_step().name == "work"
        elsewhere(coroutine.close)
        assert sw.current_step() is around
        sw.record_usage(input_tokens=1)
        assert around.own.input_tokens == 1
    assert statuses(run) == [("work", "cancelled"), ("block", "cancelled"), ("around", "completed")]


def test_a_coroutine_collected_in_another_context_leaves_no_scope_behind():
    """A suspended coroutine step that is collected is cancelled, and the collecting context keeps its own leaf."""

    @sw.step
    async def work():
        await pause()

    with sw.Run() as run, sw.step("around") as around:
        coroutine = work()
        elsewhere(coroutine.send, None)
        del coroutine
        gc.collect()
        assert sw.current_step() is around
    assert statuses(run) == [("work", "cancelled"), ("around", "completed")]


def test_a_run_is_entered_once():
    """Entering a run that is open, or that has ended, is an error that leaves everything as it was."""
    with sw.Run() as run, sw.step("a") as a:
        with pytest.raises(sw.RunClosedError), run:
            pass
        assert sw.current_step() is a
        assert a.status is None
    with pytest.raises(sw.RunClosedError), run:
        pass
    with pytest.raises(sw.RunClosedError):
        asyncio.run(run.__aenter__())
    assert sw.current_run() is None
    assert statuses(run) == [("a", "completed")]


def test_a_run_left_from_another_context_ends_everywhere():
    """A run that another context leaves is over in the one that entered it too."""
    run = sw.Run()
    run.__enter__()
    elsewhere(run.__exit__, None, None, None)
    assert sw.current_run() is None
    with pytest.raises(sw.RunClosedError), run.attach():
        pass


def test_attach_enters_a_live_run():
    """`attach` puts a live run in force in another thread, or deeper down, and what was in force comes back after."""
    seen = []

    def worker():
        with run.attach() as attached, sw.step("threaded") as scope:
            seen.append((attached, scope.parent, sw.current_run()))
            sw.record_usage(input_tokens=1)
        seen.append(sw.current_run())

    with sw.Run() as run, sw.step("a") as a:
        thread = threading.Thread(target=contextvars.Context().run, args=(worker,))
        thread.start()
        thread.join(30)
        with run.attach():
            assert (sw.current_step(), sw.current_run()) == (None, run)
            sw.record_usage(input_tokens=2)
        assert sw.current_step() is a
    assert seen == [(run, run, run), None]
    assert (a.total.input_tokens, run.own.input_tokens, run.total.input_tokens) == (0, 2, 3)


def test_attach_refuses_a_run_that_is_not_open():
    """A run that was not entered yet, or has ended, cannot be attached to."""
    run = sw.Run()
    with pytest.raises(sw.RunClosedError), run.attach():
        pass
    with run:
        pass
    with pytest.raises(sw.RunClosedError), run.attach():
        pass
    assert sw.current_run() is None


def test_attach_left_in_another_context_leaves_that_one_alone():
    """A generator that attached to a run and is closed in another context does not change that context's scope."""

    def attached():
        with run.attach():
            yield

    with sw.Run() as run:
        generator = attached()
        elsewhere(next, generator)
        with sw.step("here") as here:
            generator.close()
            assert sw.current_step() is here
            sw.record_usage(input_tokens=1)
    assert here.own.input_tokens == 1


def test_propagate_left_in_another_context_leaves_that_one_alone():
    """A propagated coroutine that is closed in another context does not change that context's scope."""
    with sw.Run():
        coroutine = sw.propagate(pausing)()
        elsewhere(coroutine.send, None)
        with sw.step("here") as here:
            coroutine.close()
            assert sw.current_step() is here


async def pausing():
    """Suspend once."""
    await pause()


def test_a_function_step_returns_to_the_leaf_that_it_found():
    """After a step that nobody disturbed, the caller's leaf is the one before, in a context of its own too."""

    @sw.step
    def work():
        return sw.current_step()

    with sw.Run() as run:
        assert elsewhere(work).parent is run
        assert (sw.current_step(), sw.current_run()) == (None, run)
