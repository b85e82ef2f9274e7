"""`extend` raises the limits of a live scope, and nothing else does."""

import asyncio
import contextvars
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.testing._clock import FakeClock

FULL = {
    "max_tokens": 10, "max_input_tokens": 10, "max_output_tokens": 10, "max_usd": Decimal(1), "max_calls": 2,
    "max_tool_calls": 2, "max_seconds": 60.0,
}  # fmt: skip


@sw.tool(side_effect="none")
def touch() -> None:
    """Do nothing."""


@pytest.mark.parametrize("limit", FULL)
def test_the_fields_given_are_the_new_limits(limit):
    """Each field that is given is the new limit, the others stay, and `remaining` follows."""
    with sw.step("s", budget=sw.Budget(**FULL)) as step:
        step.extend(sw.Budget(**{limit: 3 * FULL[limit]}))
        assert step.budget == sw.Budget(**FULL | {limit: 3 * FULL[limit]})
        left = getattr(step.remaining, limit)
        assert FULL[limit] < left <= 3 * FULL[limit]


@pytest.mark.parametrize("limit", FULL)
def test_a_lower_limit_is_a_value_error_and_changes_nothing(limit):
    """A limit lower than the one in force is a ValueError, and the other fields given with it do not change either."""
    higher = {name: 2 * value for name, value in FULL.items()}
    with sw.Run() as run:
        with sw.step("s", budget=sw.Budget(**FULL)) as step:
            with pytest.raises(ValueError, match=limit):
                step.extend(sw.Budget(**higher | {limit: FULL[limit] / 2 if limit == "max_usd" else 1}))
            assert step.budget == sw.Budget(**FULL)
        assert run.receipts[0].warnings == ()


@pytest.mark.parametrize("limit", FULL)
@pytest.mark.parametrize("budget", [None, "another"])
def test_a_limit_that_is_not_in_force_cannot_be_extended(limit, budget):
    """A limit that the scope does not have is a ValueError: to extend never means to narrow."""
    others = {name: value for name, value in FULL.items() if name != limit}
    declared = None if budget is None else sw.Budget(**others)
    with sw.step("s", budget=declared) as step:
        with pytest.raises(ValueError, match=limit):
            step.extend(sw.Budget(**{limit: 1_000}))
        assert step.budget == (declared or sw.Budget())


@pytest.mark.parametrize("given", [None, {"max_calls": 5}, 5])
def test_what_is_no_budget_is_a_type_error(given):
    """What is given must be a `Budget`, and the error says so."""
    with (
        sw.step("s", budget=sw.Budget(max_calls=2)) as step,
        pytest.raises(TypeError, match="extend takes a Budget with the new limits, not "),
    ):
        step.extend(given)


def test_the_same_limit_again_is_no_error():
    """A limit equal to the one in force may be given: it is not lower."""
    with sw.step("s", budget=sw.Budget(**FULL)) as step:
        step.extend(sw.Budget(**FULL))
        step.extend(sw.Budget())
        assert step.budget == sw.Budget(**FULL)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 50))
def test_a_limit_never_falls(limits, first):
    """Whatever is asked for, in whatever order, the limit in force is the highest so far."""
    with sw.Run(budget=sw.Budget(max_tokens=first)) as run:
        highest = first
        for limit in limits:
            if limit < highest:
                with pytest.raises(ValueError, match="max_tokens"):
                    run.extend(sw.Budget(max_tokens=limit))
            else:
                run.extend(sw.Budget(max_tokens=limit))
                highest = limit
            assert run.budget.max_tokens == highest


def test_an_exhausted_scope_goes_on():
    """After an extension, records, reservations and tools that were refused go through, up to the new limits."""
    with sw.step("s", budget=sw.Budget(max_tokens=10, max_tool_calls=0)) as step:
        with pytest.raises(sw.BudgetExceededError):
            sw.record_usage(input_tokens=11)
        with pytest.raises(sw.BudgetExceededError):
            touch()
        step.extend(sw.Budget(max_tokens=20, max_tool_calls=1))
        step.check()
        touch()
        sw.record_usage(input_tokens=1)
        with sw.reserve(output_tokens=99) as hold:
            assert hold.output_tokens == 8
            hold.release()
        with pytest.raises(sw.BudgetExceededError, match=r"21 > 20"):
            sw.record_usage(input_tokens=9)


def test_it_is_recorded_on_the_receipt():
    """The receipt has the new limits, and says that and how they were extended; no other receipt does."""
    with sw.Run() as run:
        with sw.step("s", budget=sw.Budget(max_tokens=10, max_usd="0.5")) as step:
            step.extend(sw.Budget(max_tokens=25))
            step.extend(sw.Budget(max_usd=2))
        with sw.step("t", budget=sw.Budget(max_tokens=10)):
            pass
    extended, other = run.receipts
    assert extended.budget == sw.Budget(max_tokens=25, max_usd=2)
    told = " ".join(extended.warnings)
    for word in ("extended", "max_tokens", "10", "25", "max_usd", "0.5", "2"):
        assert word in told
    assert (other.warnings, other.budget) == ((), sw.Budget(max_tokens=10))


def test_only_this_activation_is_extended():
    """Budgets are per activation: the next call of the same step, and a block used again, have the declared one."""
    seen = []

    @sw.step(budget=sw.Budget(max_tokens=10))
    def work(more) -> None:
        if more:
            sw.current_step().extend(sw.Budget(max_tokens=99))
        seen.append(sw.current_step().budget.max_tokens)

    block = sw.step("block", budget=sw.Budget(max_tokens=10))
    for more in (True, False):
        work(more)
        with block as scope:
            if more:
                scope.extend(sw.Budget(max_tokens=99))
            seen.append(scope.budget.max_tokens)
    assert seen == [99, 99, 10, 10]


def test_an_inner_extension_does_not_widen_the_scope_around():
    """To extend an inner scope does not let it pass the limits of the scopes around it."""
    with sw.Run(budget=sw.Budget(max_tokens=10)), sw.step("s", budget=sw.Budget(max_tokens=5)) as step:
        step.extend(sw.Budget(max_tokens=1_000))
        assert step.remaining.max_tokens == 10
        with pytest.raises(sw.BudgetExceededError, match="run `run` has no room"):
            sw.reserve(input_tokens=11).acquire()


def test_it_wakes_those_who_wait():
    """Everybody who waits for room in the scope is looked at after an extension, in order, as far as it reaches."""

    async def take(**ask):
        return await sw.reserve(**ask)

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
            hold = contextvars.copy_context().run(sw.reserve(input_tokens=10).acquire)
            tasks = [asyncio.create_task(take(input_tokens=5)) for _ in range(3)]
            await asyncio.sleep(0)
            run.extend(sw.Budget(max_tokens=22))
            for task in tasks[:2]:
                (await task).settle(input_tokens=5, output_tokens=0)
            assert not tasks[2].done()
            run.extend(sw.Budget(max_tokens=25))
            (await tasks[2]).release()
            hold.release()
            assert run.held == sw.Usage()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_more_seconds_reach_a_sync_scope():
    """A sync scope whose time was up goes on after an extension of `max_seconds`."""
    clock = FakeClock()
    sw.configure(clock=clock)
    try:
        with sw.step("s", budget=sw.Budget(max_seconds=1)) as step:
            clock.advance(2)
            with pytest.raises(sw.BudgetExceededError, match="max_seconds"):
                touch()
            step.extend(sw.Budget(max_seconds=3))
            touch()
            assert step.remaining.max_seconds == 1
    finally:
        sw.configure(clock=time)


async def in_block() -> None:
    """Extend the step of an async block beyond what it sleeps."""
    async with sw.step("s", budget=sw.Budget(max_seconds=0.1)) as step:
        step.extend(sw.Budget(max_seconds=60))
        await asyncio.sleep(0.3)


async def in_function() -> None:
    """Extend a coroutine step beyond what it sleeps."""

    @sw.step(budget=sw.Budget(max_seconds=0.1))
    async def work() -> None:
        sw.current_step().extend(sw.Budget(max_seconds=60))
        await asyncio.sleep(0.3)

    await work()


async def in_run() -> None:
    """Extend an async run beyond what it sleeps."""
    async with sw.Run(budget=sw.Budget(max_seconds=0.1)) as run:
        run.extend(sw.Budget(max_seconds=60))
        await asyncio.sleep(0.3)


@pytest.mark.parametrize("where", [in_block, in_function, in_run])
def test_more_seconds_reach_a_coroutine_that_sleeps(where):
    """A coroutine step, block or run that is given more seconds is not ended when the old ones are over."""
    asyncio.run(where())


def test_a_closed_scope_cannot_be_extended():
    """A scope that has ended has no live limits, so to extend it is an error, and its receipt stays as it is."""
    with sw.Run() as run:
        with sw.step("s", budget=sw.Budget(max_tokens=10)) as step:
            pass
        (receipt,) = run.receipts
        with pytest.raises(sw.StepwardenError):
            step.extend(sw.Budget(max_tokens=20))
        assert run.receipts == (receipt,)
