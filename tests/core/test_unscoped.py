"""Calls outside every scope: when they are probably a lost context, and say so."""

import asyncio
import contextvars
import gc
import warnings

import pytest

import stepwarden as sw
from stepwarden.core._tree import _live_trees


def warned():
    """Record a call in a context without any scope; tell whether that warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        contextvars.Context().run(sw.record_usage, input_tokens=1)
    return [one.category for one in caught] == [sw.UnscopedCallWarning]


def test_a_run_that_was_never_left_warns_until_it_is_collected():
    """A run that is dropped without being left is open, and may be whose context was lost, as long as it exists."""
    gc.collect()
    assert not warned()
    inside = contextvars.Context()
    inside.run(lambda: sw.Run().__enter__())
    assert warned()
    del inside
    gc.collect()
    assert not warned()


def test_a_run_that_is_not_entered_does_not_warn():
    """A run that exists but was not entered, or has ended, is no reason to warn."""
    gc.collect()
    run = sw.Run()
    assert not warned()
    with run:
        assert warned()
    assert not warned()


def test_runs_may_come_and_go_while_somebody_looks():
    """Looking for an open run is not disturbed by runs that others open and drop meanwhile."""
    with sw.Run() as run:
        looking = _live_trees()
        first = next(looking)
        made = [sw.Run() for _ in range(100)]
        del made
        gc.collect()
        assert run.tree in [first, *looking]


@pytest.mark.parametrize("how", ["wait_for", "to_thread"])
def test_a_hold_taken_elsewhere_is_unknown_to_the_caller(how):
    """A hold that another task or thread took is not its caller's, who waits for it; a hold of its own it never does."""

    async def main():
        reservation = sw.reserve(input_tokens=10)
        taking = asyncio.create_task(take(reservation)) if how == "wait_for" else asyncio.to_thread(reservation.acquire)
        hold = await taking
        with pytest.raises(sw.ReserveTimeoutError):
            await sw.reserve(input_tokens=1, timeout=0.01)
        hold.release()
        async with sw.reserve(input_tokens=10, timeout=60):
            with pytest.raises(sw.BudgetExceededError) as caught:
                await sw.reserve(input_tokens=1, timeout=60)
        assert caught.value.reason == "would_deadlock"

    async def take(reservation):
        return await reservation

    with sw.Run(budget=sw.Budget(max_tokens=10)):
        asyncio.run(main())
