"""What counts toward the limits, packed into one integer: nothing is lost in it, and it tells when a limit is passed."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.core._amount import ALARMS, CALL, COST, MOST_BITS, OUTPUT, TOOL, headway, part
from stepwarden.core._budget import Limits
from tests.core.test_interrupts import Interrupted, Raises

TOKENS = st.integers(0, 20) | st.integers(0, 2**MOST_BITS - 1)
FEW = st.integers(0, 20)
PICODOLLARS = st.integers(0, 20) | st.integers(0, 10**31)
MOST = st.none() | st.integers(0, 40) | st.integers(0, 10**30)
CALLS = st.lists(st.tuples(TOKENS, TOKENS, FEW, FEW, PICODOLLARS), max_size=6)


def counted(calls):
    """Return the sum of amounts, and what it is of each limit."""
    tokens_in, tokens_out, made, used, cost = (sum(column) for column in zip(*calls, (0, 0, 0, 0, 0), strict=True))
    amount = sum(a + b * OUTPUT + c * CALL + d * TOOL + (e << COST) for a, b, c, d, e in calls)
    return amount, {
        "max_tokens": tokens_in + tokens_out,
        "max_input_tokens": tokens_in,
        "max_output_tokens": tokens_out,
        "max_calls": made,
        "max_tool_calls": used,
        "max_usd": cost,
    }


@given(CALLS, CALLS)
def test_an_amount_is_the_sum_of_its_parts(calls, more):
    """Every part of a sum of amounts is the sum of the parts, also after another amount was added and taken back."""
    amount, parts = counted(calls)
    added, _ = counted(more)
    assert {limit: part(amount + added - added, limit) for limit in parts} == parts


@given(MOST, MOST, MOST, MOST, MOST, CALLS)
def test_an_alarm_is_raised_exactly_when_a_limit_is_passed(tokens, output, calls, tools, dollars, made):
    """Where every limit has a place of its own, one look tells whether any is passed."""
    budget = sw.Budget(max_tokens=tokens, max_output_tokens=output, max_calls=calls, max_tool_calls=tools)
    limits = Limits(budget)
    limits.usd = dollars
    amount, parts = counted(made)
    is_passed = any(most is not None and parts[limit] > most for limit, most in limits.items() if limit in parts)
    assert bool(headway(limits) + amount & ALARMS) == is_passed


@given(st.sampled_from([{"max_input_tokens": 0}, {"max_seconds": 1}]), MOST, CALLS)
def test_what_has_no_place_of_its_own_is_looked_at_each_time(rare, tokens, made):
    """A limit of input tokens or seconds always raises the alarm, and disturbs no other part."""
    ahead = headway(Limits(sw.Budget(max_tokens=tokens, **rare)))
    amount, parts = counted(made)
    assert (ahead + amount) & ALARMS
    assert {limit: part(ahead + amount - ahead, limit) for limit in parts} == parts
    assert part(ahead + amount, "max_output_tokens") == parts["max_output_tokens"]


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
def test_more_tokens_than_any_call_has_are_refused(name):
    """A number of tokens that would reach into another part is a ValueError that names it, and counts nothing."""
    most, told = 2**MOST_BITS - 1, rf"^{name} must be below 2\*\*{MOST_BITS}, not {2**MOST_BITS}$"
    with sw.Run() as run:
        with pytest.raises(ValueError, match=told):
            sw.record_usage(**{name: most + 1})
        with pytest.raises(ValueError, match=told):
            sw.reserve(**{name: most + 1})
        with sw.reserve(**{name: most}) as hold:
            assert getattr(run.held, name) == most
            with pytest.raises(ValueError, match=told):
                hold.settle(**{name: most + 1})
            hold.settle(**{name: most})
        assert (run.held, getattr(run.total, name), run.total.total_tokens) == (sw.Usage(), most, most)


def test_a_refused_reservation_that_is_interrupted_holds_nothing():
    """Whatever raises while a call that has no room is taken back: nothing stays set aside in any scope."""
    number, was_there = 1, True
    while was_there:
        with sw.Run(budget=sw.Budget(max_tokens=5)) as run, sw.step("outer") as outer, sw.step("inner") as inner:
            raises = Raises(number)
            with contextlib.suppress(Interrupted, sw.BudgetExceededError), raises:
                sw.reserve(input_tokens=6).acquire()
            was_there = raises.left <= 0
            assert (run.held, outer.held, inner.held) == (sw.Usage(),) * 3, (number, raises.where)
        number += 1
