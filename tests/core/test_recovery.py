"""What a handler that raises left half done: made up for at once, told step by step where test_interrupts visits all."""

import asyncio
import contextvars
import threading

import pytest

import stepwarden as sw
from stepwarden.core import _activation, _block, _charge, _meter, _queue, _run, _scope, _shells
from stepwarden.core._hold import Hold
from stepwarden.core._leaf import get_leaf
from stepwarden.core._scope import Scope


class Interrupted(BaseException):
    """Be what a signal handler raises."""


@pytest.fixture
def raise_in(monkeypatch):
    """Let one function raise at its n-th call from now on, before or after it does its work; again it works."""

    def arm(owner, name, *, number=1, after=False):
        original, left = getattr(owner, name), [number]

        def wrapper(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Interrupted
            result = original(*args, **kwargs)
            if left[0] == 0:
                raise Interrupted
            return result

        monkeypatch.setattr(owner, name, wrapper)
        return lambda: left[0] <= 0

    return arm


def assert_sums(run, receipts):
    """Check that every total is own and the totals inside, and that nothing is held."""
    assert run.held == sw.Usage()
    inside = [receipt for receipt in receipts if receipt.parent_id == run.id]
    for field in ("input_tokens", "cost_usd", "calls", "cache_read_tokens", "estimated_calls"):
        assert getattr(run.total, field) == getattr(run.own, field) + sum(getattr(one.total, field) for one in inside)


def record():
    """Record a call with what most calls do not have."""
    sw.record_usage(input_tokens=2, cost_usd=1, cache_read_tokens=1)


def leave():
    """Leave a hold open."""
    with sw.reserve(input_tokens=2, output_tokens=1, cost_usd=1):
        pass


def replace():
    """Settle a hold that was left open."""
    with sw.reserve(input_tokens=2, output_tokens=1, cost_usd=1) as hold:
        pass
    hold.settle(input_tokens=1, output_tokens=1, cost_usd=2)


def take_back():
    """Release a hold that was left open."""
    with sw.reserve(input_tokens=2, output_tokens=1, cost_usd=1) as hold:
        pass
    hold.release()


@pytest.mark.parametrize("operation", [record, leave, replace, take_back])
@pytest.mark.parametrize("number", range(1, 9))
def test_an_interrupted_charge_is_whole_or_none(operation, number, raise_in):
    """A charge that is interrupted between two scopes reaches them all; before the first, it never was."""
    with sw.Run() as run, sw.step("s") as step:
        raise_in(Scope, "make_detail", number=number)
        try:
            operation()
        except Interrupted:
            assert step.own.input_tokens == step.total.input_tokens == run.total.input_tokens
            assert step.own.cache_read_tokens == step.total.cache_read_tokens == run.total.cache_read_tokens
            assert step.uncertain == run.uncertain
            assert step.held == run.held
    assert_sums(run, run.receipts)


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupted_reservation_holds_nothing(number, raise_in):
    """A reservation that is interrupted on its way up sets nothing aside anywhere."""
    with sw.Run(budget=sw.Budget(max_input_tokens=5)) as run, sw.step("s", budget=sw.Budget(max_input_tokens=9)):
        was_raised = raise_in(_charge, "_lacks_room", number=number)
        with pytest.raises(Interrupted):
            sw.reserve(input_tokens=1).acquire()
            run.check()
        assert was_raised()
        assert run.held == sw.Usage()


@pytest.mark.parametrize("operation", [leave, take_back, lambda: sw.reserve(input_tokens=1).acquire().release()])
def test_whoever_waits_is_woken_by_what_was_interrupted(operation, raise_in):
    """A hold that is over is over, and those who wait are looked at, where a handler raised after the change."""
    with sw.Run() as run, sw.step("s"):
        raise_in(Hold, "let_go")
        with pytest.raises(Interrupted):
            operation()
        assert run.held == sw.Usage()
    assert_sums(run, run.receipts)


@pytest.mark.parametrize("name", ["_unpark", "park", "set_aside", "admit"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_queue_that_was_interrupted_moves_on(name, number, after, raise_in):
    """Callers that wait behind one another are all served, whatever raises while somebody gives room back."""
    served = []

    def wait(tokens):
        with run.attach(), sw.reserve(input_tokens=tokens, timeout=20) as hold:
            hold.settle(input_tokens=0, output_tokens=0)
            served.append(tokens)

    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        with sw.step("s", budget=sw.Budget(max_tokens=10)):
            hold = contextvars.copy_context().run(sw.reserve(input_tokens=10).acquire)
            threads = []
            for tokens in (4, 5, 6):
                threads.append(threading.Thread(target=contextvars.copy_context().run, args=(wait, tokens)))
                threads[-1].start()
                while len(run.tree.waiting) < len(threads):
                    threads[-1].join(0.001)
            with run.tree.lock:  # so that only this thread is interrupted
                raise_in(_queue, name, number=number, after=after)
                try:
                    hold.settle(input_tokens=1, output_tokens=0)
                except Interrupted:
                    assert not hold.is_open
                raise_in(_queue, name, number=0)
            for thread in threads:
                thread.join(20)
        assert sorted(served) == [4, 5, 6]
        assert run.held == sw.Usage()


@sw.step
def plain():
    """Be a step."""


@sw.step
async def coroutine():
    """Be a coroutine step."""


@sw.step
def generator():
    """Be a generator step."""
    yield


@sw.step
async def async_generator():
    """Be an async generator step."""
    yield


def drive(awaitable):
    """Run a coroutine that never suspends."""
    with pytest.raises(StopIteration):
        next(awaitable.__await__())


def through_sync(block):
    """Go through a block."""
    with block:
        pass


async def through(block):
    """Go through an async block."""
    async with block:
        pass


async def all_of(items):
    """Go through an async generator."""
    return [item async for item in items]


WAYS = {
    "function": plain,
    "coroutine": lambda: drive(coroutine()),
    "generator": lambda: list(generator()),
    "async generator": lambda: drive(all_of(async_generator())),
    "block": lambda: through_sync(sw.step("block")),
    "async block": lambda: drive(through(sw.step("block"))),
    "run": lambda: through_sync(sw.Run()),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_is_interrupted_while_it_opens_is_left(way, raise_in):
    """A scope whose opening is interrupted once it is the leaf is left at once, as cancelled or failed."""
    with sw.Run() as run, sw.step("around") as around:
        for module in (_activation, _run, _shells):
            raise_in(module, "set_leaf", number=1, after=True)
        with pytest.raises(Interrupted):
            way()
        assert get_leaf() is around
        assert run.open_scopes == (around,)
    assert around.status == "completed"


@pytest.mark.parametrize("way", [way for way in WAYS if way != "run"])
def test_what_is_interrupted_while_it_is_left_is_left(way, raise_in):
    """A scope whose end is interrupted before it began has ended all the same, as cancelled or failed."""
    with sw.Run() as run, sw.step("around") as around:
        for name in ("finish", "conclude"):
            if "block" not in way:
                raise_in(_shells, name)
        if "block" in way:
            raise_in(_block, "conclude")
        with pytest.raises(Interrupted):
            WAYS[way]()
        assert get_leaf() is around
        assert run.open_scopes == (around,)
    assert [receipt.status for receipt in run.receipts] == ["failed", "completed"]


def test_a_block_that_is_interrupted_while_its_scope_is_looked_for_is_left(raise_in):
    """A block whose `__exit__` is interrupted before it knows its scope looks for it once more."""
    with sw.Run() as run, sw.step("around") as around:
        raise_in(_block.Block, "_innermost")
        with pytest.raises(Interrupted):
            through_sync(sw.step("block"))
        assert get_leaf() is around
    assert [receipt.name for receipt in run.receipts] == ["block", "around"]


def test_a_run_that_is_interrupted_while_it_is_left_has_ended(raise_in):
    """A run whose end is interrupted ends nevertheless, with what was open in it."""
    raise_in(_run, "leave")
    with pytest.raises(Interrupted), sw.Run() as run:
        sw.step("open").__enter__()
    assert (run.status, get_leaf()) == ("failed", None)
    assert [receipt.status for receipt in run.receipts] == ["abandoned"]


@pytest.mark.parametrize("after", [False, True])
def test_a_close_that_is_interrupted_is_made_up_for(after, raise_in):
    """A step whose close is interrupted while its receipt is kept has one receipt, and hands its holds over."""
    with sw.Run() as run:
        left = [True]
        keep = run.keep

        def interrupted(scope):
            if after:
                keep(scope)
            if left.pop():
                raise Interrupted

        with pytest.raises(Interrupted), sw.step("s"):
            contextvars.copy_context().run(sw.reserve(input_tokens=1).acquire)
            run.keep = interrupted
        run.keep = keep
        assert run.open_scopes == ()
        (receipt,) = run.receipts
        assert (receipt.name, receipt.status) == ("s", "completed")
        assert run.held.input_tokens == 1
    assert run.held == sw.Usage()


def test_a_late_tool_call_that_is_interrupted_is_counted_everywhere(raise_in):
    """A tool call that outlives its step, interrupted before it is counted, is its payer's own and in every total."""
    with sw.Run() as run:
        with sw.step("closed") as closed:
            late = sw.propagate(
                sw.tool(name="read", side_effect="read_only")(lambda: pytest.fail("it was interrupted"))
            )
        raise_in(Scope, "freeze")
        with pytest.raises(Interrupted):
            late()
        assert (run.own.tool_calls, run.total.tool_calls) == (1, 1)
        assert closed.receipt.total.tool_calls == 0


@pytest.mark.parametrize("number", range(1, 5))
def test_a_hold_whose_leaving_was_interrupted_is_settled_all_the_same(number, raise_in):
    """Wherever the leaving of a hold is interrupted, settling it later replaces all of it, and leaves one call."""
    with sw.Run() as run, sw.step("s") as step:
        was_raised = raise_in(Scope, "make_detail", number=number)
        with pytest.raises(Interrupted), sw.reserve(input_tokens=2, output_tokens=1, cost_usd=1) as hold:
            pass
        assert was_raised()
        hold.settle(input_tokens=1, output_tokens=1, cost_usd=2)
        for scope in (step, run):
            assert (scope.total.total_tokens, scope.total.cost_usd, scope.total.calls) == (2, 2, 1)
            assert scope.held == scope.uncertain == sw.Usage()
    (receipt,) = run.receipts
    assert [call.outcome for call in receipt.calls] == ["settled"]


@pytest.mark.parametrize(("name", "after"), [("_unpark", False), ("_unpark", True), ("park", False), ("park", True)])
def test_a_waiter_that_is_interrupted_between_two_queues_is_in_one(name, after, raise_in):
    """A call that changes from its run's queue to its step's stays in one, and is served, where a handler raises."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
            around_run = contextvars.copy_context().run(sw.reserve(input_tokens=4).acquire)
            with sw.step("s", budget=sw.Budget(max_tokens=6)) as step:
                in_step = contextvars.copy_context().run(sw.reserve(input_tokens=4).acquire)
                task = asyncio.create_task(sw.reserve(input_tokens=4)._acquire_in_task())
                await asyncio.sleep(0)
                assert len(run.queue) == 1
                was_raised = raise_in(_queue, name, after=after)
                with pytest.raises(Interrupted):
                    around_run.release()
                assert was_raised()
                assert (len(run.queue), len(step.queue)) == (0, 1)
                in_step.release()
                (await task).release()
            assert run.held == sw.Usage()

    asyncio.run(main())


# What a finaliser does, which the collector may run between any two lines.


@pytest.fixture
def come_between(monkeypatch):
    """Let something happen once, just before a function or class does its work for the first time from now on."""

    def arm(owner, name, happens):
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            monkeypatch.setattr(owner, name, original)
            happens()
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    return arm


@pytest.mark.parametrize(("module", "name"), [(_meter, "Meter"), (_scope, "Detail")])
def test_what_is_counted_while_the_counter_is_made_counts(module, name, come_between):
    """Usage that is recorded while another record makes the first counter of its scope is in the sums as well."""
    with sw.Run() as run, sw.step("s"):
        come_between(module, name, lambda: sw.record_usage(input_tokens=4, cost_usd=2, cache_read_tokens=2))
        record()
        assert (run.total.input_tokens, run.total.cache_read_tokens, run.total.calls) == (6, 3, 2)
    assert_sums(run, run.receipts)


def test_room_that_is_taken_while_a_call_is_admitted_is_not_granted_twice(come_between):
    """A call gets what is left when its room is taken after it was looked at and before it is set aside."""
    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        come_between(_queue, "set_aside", lambda: sw.record_usage(input_tokens=4))
        with sw.reserve(output_tokens=20) as hold:
            assert hold.output_tokens == 6
            hold.settle(output_tokens=6)
        assert (run.total.total_tokens, run.held) == (10, sw.Usage())


@pytest.mark.parametrize(("ends", "spent"), [(lambda hold: hold.settle(input_tokens=2), 2), (sw.Hold.release, 0)])
def test_a_hold_that_ends_while_it_is_handed_over_is_over(ends, spent):
    """A hold that ends just when its closing scope hands it to the one around is counted once and kept by none."""

    class Between(set):
        """Have a hold settled between the two scopes."""

        def __iter__(self):
            if step.holds is None and hold.is_open:
                ends(hold)
            return super().__iter__()

    with sw.Run() as run:
        with sw.step("s") as step:
            hold = contextvars.copy_context().run(sw.reserve(input_tokens=3).acquire)
            step.holds = Between(step.holds)
        assert (hold.is_open, run.held, run.total.input_tokens) == (False, sw.Usage(), spent)
    assert (run.total.input_tokens, run.uncertain) == (spent, sw.Usage())


def test_what_opens_while_its_run_ends_ends_with_it(come_between):
    """A step that another context opens in a run while that abandons what is open in it is abandoned as well."""
    with sw.Run() as run:
        context = contextvars.copy_context()
        context.run(sw.step("first").__enter__)
        come_between(_run, "close_scope", lambda: context.run(sw.step("second").__enter__))
    assert (run.status, run.open_scopes) == ("completed", ())
    assert sorted((one.name, str(one.status)) for one in run.receipts) == [
        ("first", "abandoned"),
        ("second", "abandoned"),
    ]


@pytest.mark.parametrize(("name", "taken"), [("park", 4), ("admit", 4), ("admit", 1), ("set_aside", 1)])
def test_a_caller_that_is_collected_while_it_is_looked_at_gets_no_room_and_no_place(name, taken, come_between):
    """A waiting coroutine that a finaliser closes while its place in the queues changes is in none of them afterwards."""

    async def wait_and_end():
        with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
            first = contextvars.copy_context().run(sw.reserve(input_tokens=5).acquire)
            with sw.step("s", budget=sw.Budget(max_tokens=6)) as step:
                # With 4 taken, the step has no room either, and the caller is moved there.
                second = contextvars.copy_context().run(sw.reserve(input_tokens=taken).acquire)
                waiting = contextvars.copy_context().run(sw.reserve(input_tokens=5).__await__)
                waiting.send(None)
                come_between(_queue, name, waiting.close)
                first.release()
                assert (run.tree.waiting, run.queue, step.queue or []) == (set(), [], [])
                assert run.held.total_tokens == taken
                second.release()
        assert run.held == sw.Usage()

    asyncio.run(wait_and_end())
