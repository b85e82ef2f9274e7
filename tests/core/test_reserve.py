"""Reserving: every way to take a hold, how much it grants, and when it is refused."""

import asyncio
import contextlib
import contextvars
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

EACH_LIMIT = {
    "max_tokens": ({"input_tokens": 4, "output_tokens": 6, "min_output_tokens": 6}, 10, 10),
    "max_input_tokens": ({"input_tokens": 10}, 10, 10),
    "max_output_tokens": ({"output_tokens": 10, "min_output_tokens": 10}, 10, 10),
    "max_usd": ({"cost_usd": "0.10"}, Decimal("0.1"), Decimal("0.1")),
    "max_calls": ({}, 1, 1),
}


def elsewhere(reservation):
    """Take a hold in a context of its own, as another task would, so that this one holds nothing."""
    return contextvars.copy_context().run(reservation.acquire)


def by_with(reservation):
    """Take a hold by `with`."""
    with reservation as hold:
        yield hold


def by_acquire(reservation):
    """Take a hold by `acquire`."""
    yield reservation.acquire()


WAYS = [by_with, by_acquire]


@pytest.mark.parametrize("way", WAYS)
def test_every_sync_way_takes_a_hold(way):
    """`with` and `acquire` hold the worst case on every scope around until it is settled."""
    with sw.Run() as run, sw.step("outer") as outer, sw.step("inner") as inner:
        for hold in way(sw.reserve(input_tokens=3, output_tokens=4, cost_usd="0.5")):
            for scope in (run, outer, inner):
                assert (scope.held.input_tokens, scope.held.output_tokens) == (3, 4)
                assert (scope.held.cost_usd, scope.held.calls) == (Decimal("0.5"), 1)
                assert scope.total == sw.Usage()
            assert (hold.input_tokens, hold.output_tokens, hold.cost_usd) == (3, 4, Decimal("0.5"))
            hold.settle(input_tokens=1, output_tokens=2, cost_usd="0.25")
        for scope in (run, outer, inner):
            assert scope.held == scope.uncertain == sw.Usage()
            assert (scope.total.input_tokens, scope.total.output_tokens, scope.total.calls) == (1, 2, 1)
        assert (inner.own.cost_usd, outer.own.cost_usd) == (Decimal("0.25"), 0)


def test_every_async_way_takes_a_hold():
    """`async with` and `await` hold the same, and so do `with` and `acquire` on a loop's thread where there is room."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_tokens=28)) as run:
            async with sw.reserve(input_tokens=3, output_tokens=4) as one:
                two = await sw.reserve(input_tokens=3, output_tokens=4)
                with sw.reserve(input_tokens=3, output_tokens=4) as three:
                    four = sw.reserve(input_tokens=3, output_tokens=4).acquire()
                    assert run.held.total_tokens == 28
                    assert run.held.calls == 4
                    for hold in (one, two, three, four):
                        hold.settle(input_tokens=3, output_tokens=4)
            assert (run.held, run.uncertain, run.total.total_tokens) == (sw.Usage(), sw.Usage(), 28)

    asyncio.run(main())


def test_a_reservation_alone_holds_nothing():
    """A reservation only describes: nothing is held before it is taken."""
    with sw.Run(budget=sw.Budget(max_tokens=1)) as run:
        sw.reserve(input_tokens=100)
        assert run.held == sw.Usage()


@pytest.mark.parametrize("limit", EACH_LIMIT)
def test_what_fits_exactly_is_granted_and_more_is_refused(limit):
    """A worst case that fills a limit exactly is granted; once that is spent, the next is refused without waiting."""
    ask, value, needed = EACH_LIMIT[limit]
    with sw.step("s", budget=sw.Budget(**{limit: value})) as step:
        hold = sw.reserve(**ask).acquire()
        hold.settle(
            input_tokens=ask.get("input_tokens", 0),
            output_tokens=ask.get("output_tokens", 0),
            cost_usd=ask.get("cost_usd", 0),
        )
        before = step.total
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(**ask).acquire()
        error = caught.value
        assert (error.limit, error.limit_value, error.consumed, error.requested) == (limit, value, value, needed)
        assert (error.phase, error.reason, error.held, error.uncertain) == ("reserve", "no_room", 0, 0)
        assert (step.total, step.held) == (before, sw.Usage())


@pytest.mark.parametrize("limit", EACH_LIMIT)
def test_in_a_scope_whose_limit_is_passed_nothing_is_reserved(limit):
    """Once a limit is passed every later reservation is refused, even one that needs nothing of it."""
    over = {"input_tokens": 99, "output_tokens": 99, "cost_usd": 9}
    with sw.step("s", budget=sw.Budget(**{limit: EACH_LIMIT[limit][1]})):
        with contextlib.suppress(sw.BudgetExceededError):
            sw.record_usage(**over)
        with pytest.raises(sw.BudgetExceededError, match="exceeded"):
            sw.record_usage(**over)
        with pytest.raises(sw.BudgetExceededError, match=f"no room in {limit}") as caught:
            sw.reserve().acquire()
        assert caught.value.reason == "no_room"


def test_the_outermost_scope_without_room_is_named():
    """Where several scopes have no room, the refusal names the outermost."""
    tight = sw.Budget(max_tokens=1)
    with sw.Run(budget=sw.Budget(max_tokens=9)), sw.persona("p", budget=tight), sw.step("s", budget=tight):
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(input_tokens=2).acquire()
        assert (caught.value.scope_kind, caught.value.scope_name) == ("persona", "p")


def test_an_inner_refusal_holds_nothing_outside():
    """A hold is taken on every scope or on none."""
    with sw.Run() as run, sw.persona("p") as persona, sw.step("s", budget=sw.Budget(max_tokens=1)) as step:
        with pytest.raises(sw.BudgetExceededError, match="step `s`"):
            sw.reserve(input_tokens=2).acquire()
        assert run.held == persona.held == step.held == sw.Usage()


@given(
    limits=st.lists(st.none() | st.integers(0, 60), min_size=3, max_size=3),
    output_limit=st.none() | st.integers(0, 60),
    spent=st.integers(0, 20),
    uncertain=st.integers(0, 20),
    ask=st.tuples(st.integers(0, 30), st.integers(0, 60), st.integers(0, 60)),
)
def test_output_is_lowered_to_what_fits_ever(limits, output_limit, spent, uncertain, ask):
    """The output granted is the most that fits beside what is spent and uncertain; below the minimum it is refused."""
    tokens_in, tokens_out, least = ask
    with (
        sw.Run(budget=sw.Budget(max_tokens=limits[0])) as run,
        sw.step("a", budget=sw.Budget(max_tokens=limits[1])),
        sw.step("b", budget=sw.Budget(max_tokens=limits[2], max_output_tokens=output_limit)),
    ):
        with contextlib.suppress(sw.BudgetExceededError), sw.reserve(output_tokens=uncertain):
            pass
        set_aside = run.uncertain.output_tokens
        with contextlib.suppress(sw.BudgetExceededError):
            sw.record_usage(input_tokens=spent)
        rooms = [limit - spent - set_aside - tokens_in for limit in limits if limit is not None]
        if output_limit is not None:
            rooms.append(output_limit - set_aside)
        fits = min([tokens_out, *rooms])
        ask = sw.reserve(input_tokens=tokens_in, output_tokens=tokens_out, min_output_tokens=least)
        if fits < min(least, tokens_out):
            with pytest.raises(sw.BudgetExceededError) as caught:
                ask.acquire()
            assert caught.value.reason == "no_room"
        else:
            hold = ask.acquire()
            assert (hold.input_tokens, hold.output_tokens) == (tokens_in, fits)
            hold.release()


def test_the_least_that_would_have_been_accepted_is_told():
    """A refusal's `requested` is the input and the smallest output that would have done, not what was asked."""
    with sw.step("s", budget=sw.Budget(max_tokens=50)):
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(input_tokens=40, output_tokens=500, min_output_tokens=16).acquire()
        assert caught.value.requested == 56
        hold = sw.reserve(input_tokens=34, output_tokens=500, min_output_tokens=16).acquire()
        assert hold.output_tokens == 16
        hold.release()


def test_a_call_without_output_needs_none():
    """The minimum is at most what is asked: a call with no output fits where only its input does."""
    with (
        sw.step("s", budget=sw.Budget(max_tokens=10, max_output_tokens=0)),
        sw.reserve(input_tokens=10, output_tokens=0) as hold,
    ):
        assert hold.output_tokens == 0
        hold.settle(input_tokens=10, output_tokens=0)


def test_clamped_calls_are_counted_on_the_receipt():
    """The receipt tells how many calls got less output than they asked for, and marks them."""
    with sw.Run() as run, sw.step("s", budget=sw.Budget(max_tokens=100)):
        for ask in (50, 50, 60, 1):
            with sw.reserve(input_tokens=10, output_tokens=ask) as hold:
                hold.settle(input_tokens=10, output_tokens=10)
    (receipt,) = run.receipts
    assert receipt.clamped_calls == 1
    assert [call.clamped for call in receipt.calls] == [False, False, True, False]


def test_a_reservation_may_be_used_again():
    """One reservation takes as many holds as it is used for, one after the other."""
    with sw.Run(budget=sw.Budget(max_calls=3)) as run:
        reservation = sw.reserve(input_tokens=5)
        for _ in range(3):
            with reservation as hold:
                hold.settle(input_tokens=5, output_tokens=0)
        with pytest.raises(sw.BudgetExceededError, match="max_calls"), reservation:
            pass
        assert (run.total.calls, run.held, run.uncertain) == (3, sw.Usage(), sw.Usage())


def test_leaving_a_nested_use_of_a_reservation_leaves_the_outer_hold_alone():
    """A reservation used inside itself takes two holds, and leaving the inner one does not touch the outer one."""
    with sw.Run() as run:
        reservation = sw.reserve(input_tokens=5, output_tokens=5)
        with reservation as outer:
            with reservation as inner:
                assert inner is not outer
                assert run.held.total_tokens == 20
                inner.settle(input_tokens=5, output_tokens=1)
            assert run.held.total_tokens == 10
            assert run.uncertain == sw.Usage()
            outer.settle(input_tokens=5, output_tokens=2)
        assert (run.total.total_tokens, run.total.calls, run.total.estimated_calls) == (13, 2, 0)


def test_tasks_that_share_a_reservation_leave_their_own_hold():
    """Tasks may use one reservation at the same time: each leaves its own hold, never another task's."""

    async def main() -> None:
        reservation = sw.reserve(input_tokens=5, output_tokens=5)
        settled, entered, leave_first, leave_second = (asyncio.Event() for _ in range(4))

        async def first() -> None:
            async with reservation as hold:
                hold.settle(input_tokens=5, output_tokens=0)
                settled.set()
                await leave_first.wait()

        async def second() -> None:
            async with reservation as hold:
                entered.set()
                await leave_second.wait()
                hold.settle(input_tokens=5, output_tokens=5)

        async def third() -> None:
            async with reservation as hold:
                hold.settle(input_tokens=5, output_tokens=0)

        with sw.Run() as run:
            one = asyncio.create_task(first())
            await settled.wait()
            two = asyncio.create_task(second())
            await entered.wait()
            await asyncio.create_task(third())
            leave_first.set()
            await one
            assert (run.held.total_tokens, run.uncertain.total_tokens) == (10, 0)
            leave_second.set()
            await two
            assert (run.total.total_tokens, run.total.calls, run.held) == (20, 3, sw.Usage())

    asyncio.run(main())


@pytest.mark.parametrize(
    "ask",
    [{"wait": False}, {"timeout": 0}, {"timeout": 0.0}, {"wait": False, "timeout": 60}],
)
def test_without_waiting_a_call_that_must_wait_is_a_timeout(ask):
    """With wait=False or timeout=0 a call that would have to wait is a ReserveTimeoutError at once."""
    with sw.Run(budget=sw.Budget(max_tokens=10), name="r") as run:
        hold = elsewhere(sw.reserve(input_tokens=6))
        with pytest.raises(sw.ReserveTimeoutError) as caught:
            sw.reserve(input_tokens=5, **ask).acquire()
        assert (caught.value.scope_kind, caught.value.scope_name, caught.value.limit) == ("run", "r", "max_tokens")
        with pytest.raises(sw.ReserveTimeoutError):
            asyncio.run(taken(sw.reserve(input_tokens=5, **ask)))
        assert run.held.input_tokens == 6
        small = sw.reserve(input_tokens=4, **ask).acquire()
        small.release()
        hold.release()
        sw.reserve(input_tokens=5, **ask).acquire().release()


async def taken(reservation):
    """Take a hold as a coroutine."""
    return await reservation


def test_output_is_not_lowered_to_what_fits_now():
    """What others hold makes a call wait; it does not lower its output."""
    with sw.Run(budget=sw.Budget(max_tokens=100)):
        hold = elsewhere(sw.reserve(input_tokens=60))
        with pytest.raises(sw.ReserveTimeoutError):
            sw.reserve(output_tokens=50, wait=False).acquire()
        hold.release()


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        ({"input_tokens": -1}, ValueError),
        ({"output_tokens": -1}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"cost_usd": -1}, ValueError),
        ({"cost_usd": float("nan")}, ValueError),
        ({"cost_usd": "Infinity"}, ValueError),
        ({"input_tokens": 1.5}, TypeError),
        ({"output_tokens": "10"}, TypeError),
        ({"input_tokens": True}, TypeError),
        ({"min_output_tokens": True}, TypeError),
        ({"min_output_tokens": 1.0}, TypeError),
        ({"model": 3}, TypeError),
        ({"model": 3, "cost_usd": 1}, TypeError),
    ],
)
def test_a_reservation_that_cannot_be_right_holds_nothing(ask, error):
    """An amount that cannot be right is a ValueError or TypeError, and nothing is held for it."""
    with sw.Run() as run:
        with pytest.raises(error):
            sw.reserve(**ask).acquire()
        assert run.held == sw.Usage()


def test_outside_every_scope_a_hold_grants_what_was_asked():
    """Outside every scope a hold grants what was asked and settles nowhere."""
    with sw.reserve(input_tokens=10**9, output_tokens=10**9, cost_usd=10**6) as hold:
        assert (hold.input_tokens, hold.output_tokens, hold.cost_usd) == (10**9, 10**9, 10**6)
        hold.settle(input_tokens=1, output_tokens=1)
    with sw.reserve(output_tokens=5):
        pass
    sw.reserve().acquire().release()


def test_remaining_is_what_is_left_over_the_whole_chain():
    """`remaining` is the least over the chain of limit - spent - uncertain - held, for each limit, never below 0."""
    with (
        sw.Run(budget=sw.Budget(max_tokens=100, max_calls=9)) as run,
        sw.step("s", budget=sw.Budget(max_tokens=90, max_usd=1)) as step,
    ):
        sw.record_usage(input_tokens=20, cost_usd="0.25")
        with sw.reserve(output_tokens=10, cost_usd=0):
            pass
        hold = sw.reserve(input_tokens=30, cost_usd="0.5").acquire()
        assert step.remaining == sw.Budget(max_tokens=30, max_usd="0.25", max_calls=6)
        assert run.remaining == sw.Budget(max_tokens=40, max_calls=6)
        hold.release()
        with pytest.raises(sw.BudgetExceededError):
            sw.record_usage(input_tokens=1_000, cost_usd=5)
        assert step.remaining == sw.Budget(max_tokens=0, max_usd=0, max_calls=6)


def test_a_block_that_is_left_in_another_context_is_left_if_it_is_the_only_one():
    """A block that was entered in another context is left where there is no other; of two, none is guessed."""
    with sw.Run() as run:
        with sw.step("s"):
            reservation = sw.reserve(input_tokens=3)
            enter = contextvars.copy_context().run
            first = enter(reservation.__enter__)
            reservation.__exit__(None, None, None)
            assert (first.is_open, run.held.calls, run.total.input_tokens) == (False, 0, 3)
            two = enter(reservation.__enter__), enter(reservation.__enter__)
            reservation.__exit__(None, None, None)
            assert [hold.is_open for hold in two] == [True, True]
            for hold in two:
                hold.release()
        assert (run.held, run.total.calls) == (sw.Usage(), 1)
