"""Thresholds: when a share of a limit is reached, how often that is told, to whom, and what a hook may do then."""

import asyncio
import functools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw


@pytest.fixture(autouse=True)
def _no_hooks_left():
    sw.hooks.clear()
    yield
    sw.hooks.clear()
    sw.configure(clock=time)


class Clock:
    """Stand still until it is moved."""

    def __init__(self):
        self.now = 1_000_000_000

    def monotonic_ns(self):
        return self.now

    def time_ns(self):
        return self.now


def watch(percent, into, **match):
    """Register a hook for *percent* that only appends what it is told."""
    return sw.hooks.on(sw.BudgetThreshold(percent), **match)(into.append)


def spend(tokens):
    """Spend output tokens on the current scope."""
    sw.record_usage(output_tokens=tokens)


# What a threshold is.


@pytest.mark.parametrize("written", ["OnBudgetThreshold(80)", " OnBudgetThreshold( 80.0 ) ", sw.BudgetThreshold(80)])
def test_ways_to_write_a_threshold(written):
    """A threshold is written in a name or given as a value, and both mean percent."""
    told = []
    sw.hooks.on(written)(told.append)
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tokens=100)):
        spend(79)
        assert told == []
        spend(1)
        assert [event.pct for event in told] == [80]


@pytest.mark.parametrize("percent", [0, -1, math.nan, math.inf, -math.inf, True, "80", None, 1j])
def test_a_threshold_must_be_a_positive_finite_number(percent):
    """Zero, negative numbers, infinity, NaN and what is no number are refused as values."""
    with pytest.raises(sw.DefinitionError):
        sw.BudgetThreshold(percent)


@pytest.mark.parametrize("inside", ["", "0", "-1", "nan", "inf", "-inf", "1e999", "80%", "eighty", "80, 90", "(80)"])
def test_a_written_threshold_must_be_a_positive_finite_number(inside):
    """The same holds for a threshold that is written in the event's name."""
    with pytest.raises(sw.DefinitionError):
        sw.hooks.on(f"OnBudgetThreshold({inside})")


@pytest.mark.parametrize("exponent", [308, 400])
def test_a_huge_threshold_is_no_crash(exponent):
    """A number too large for a float is taken, and then never reached, or refused as a declaration."""
    told = []
    try:
        watch(10**exponent, told)
    except sw.DefinitionError:
        return
    with sw.Run(budget=sw.Budget(max_tokens=100)):
        spend(99)
    assert told == []


# When it fires.


@given(
    limit=st.integers(1, 1_000),
    percent=st.integers(1, 130) | st.floats(0.5, 130),
    amounts=st.lists(st.integers(0, 400), max_size=12),
)
def test_it_fires_once_at_the_first_spending_that_reaches_it(limit, percent, amounts):
    """For any limit, threshold and spending it fires exactly when `pct >= threshold` is first true, and never again."""
    hooks, told = sw.Hooks(), []
    hooks.on(sw.BudgetThreshold(percent))(told.append)
    spent = 0
    with sw.Run(hooks=hooks), sw.step("plan", budget=sw.Budget(max_tokens=limit)) as scope:
        for amount in amounts:
            due = not told and 100 * (spent + amount) / limit >= percent
            before, spent = len(told), spent + amount
            try:
                spend(amount)
            except sw.BudgetExceededError:
                assert spent > limit
            assert len(told) - before == due
            if due:
                assert told[0].pct == pytest.approx(100 * spent / limit)
                assert (told[0].limit, told[0].limit_value, told[0].consumed) == ("max_tokens", limit, spent)
        assert scope.total.total_tokens == spent


def test_each_activation_fires_anew():
    """A threshold fires once for each activation, however often the step runs."""
    told = []
    watch(50, told)

    @sw.step(budget=sw.Budget(max_tokens=10))
    def plan():
        spend(5)
        spend(5)

    with sw.Run():
        for _ in range(3):
            plan()
    assert [event.pct for event in told] == [50, 50, 50]


def test_each_threshold_reached_at_once_fires_in_registration_order():
    """One spending that reaches several thresholds fires each of them once, in the order of registration."""
    told = []
    for percent in (90, 50, 200, 100):
        sw.hooks.on(sw.BudgetThreshold(percent))(lambda event, percent=percent: told.append((percent, event.pct)))
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tokens=10)):
        spend(10)
    assert told == [(90, 100), (50, 100), (100, 100)]


def test_it_fires_after_the_counting_and_before_the_error():
    """When the crossing call fires it, the usage is counted already and the error is not raised yet."""
    order = []

    @sw.hooks.on("OnBudgetThreshold(100)")
    def told(event):
        order.append((event.consumed, sw.current_run().total.total_tokens))

    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tokens=10), error_boundary="continue"):
        try:
            spend(15)
        except sw.BudgetExceededError:
            order.append("error")
            raise
    assert order == [(15, 15), "error"]


def test_outer_scopes_fire_first():
    """Where one spending reaches the threshold of several scopes, they fire outermost first, the run included."""
    told = []
    watch(50, told)
    ten = sw.Budget(max_tokens=10)
    inner = sw.step("b", budget=ten)
    with sw.Run(budget=ten, name="root"), sw.persona("captain", budget=ten), sw.step("a", budget=ten), inner:
        spend(5)
    assert [event.target for event in told] == ["root", "captain", "captain.a", "captain.b"]
    assert [(event.persona, event.step) for event in told] == [
        (None, None), ("captain", None), ("captain", "a"), ("captain", "b"),
    ]  # fmt: skip


def test_filters_serve_thresholds_too():
    """A step's name and a persona's pattern choose the scopes of a threshold, and only steps have step names."""
    named, patterned, unnamed = [], [], []
    watch(50, named, step="plan")
    watch(50, patterned, persona="cap*")
    watch(50, unnamed, persona="")
    ten = sw.Budget(max_tokens=10)
    with sw.Run(budget=ten, name="plan"), sw.persona("captain", budget=ten), sw.step("plan", budget=ten):
        spend(5)
    assert [event.target for event in named] == ["captain.plan"]
    assert [event.target for event in patterned] == ["captain", "captain.plan"]
    assert [event.target for event in unnamed] == ["plan"]


# What the share is of.


@pytest.mark.parametrize(
    ("budget", "usage", "wanted", "pct"),
    [
        ({"max_tokens": 100, "max_input_tokens": 20}, {"input_tokens": 10}, ("max_input_tokens", 20, 10), 50),
        ({"max_tokens": 10, "max_output_tokens": 100}, {"output_tokens": 5}, ("max_tokens", 10, 5), 50),
        ({"max_usd": "0.10", "max_tokens": 9}, {"cost_usd": "0.07"}, ("max_usd", Decimal("0.10"), Decimal("0.07")), 70),
        ({"max_calls": 3}, {}, ("max_calls", 3, 1), 100 / 3),
    ],
)
def test_the_share_is_the_largest_over_the_limits(budget, usage, wanted, pct):
    """The share told is the largest over the scope's limits, with that limit's name, value and amount in its unit."""
    told = []
    watch(30, told)
    with sw.Run(), sw.step("plan", budget=sw.Budget(**budget)):
        sw.record_usage(**usage)
    (event,) = told
    assert (event.limit, event.limit_value, event.consumed) == wanted
    assert event.pct == pytest.approx(pct)
    assert (event.event, event.function, event.args, dict(event.kwargs)) == ("OnBudgetThreshold", "plan", (), {})


def test_seconds_count_when_something_is_recorded():
    """Time is a share of `max_seconds` as any other, told at the next record."""
    clock, told = Clock(), []
    sw.configure(clock=clock)
    watch(50, told)
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_seconds=10)):
        clock.now += 4_900_000_000
        spend(1)
        assert told == []
        clock.now += 100_000_000
        spend(1)
    assert [(event.limit, event.limit_value, event.consumed, event.pct) for event in told] == [
        ("max_seconds", 10.0, 5.0, 50.0)
    ]


def test_tool_calls_count_too():
    """A tool call that reaches the share of `max_tool_calls` fires it, a refused or denied one does not."""
    told = []
    watch(100, told)

    @sw.tool
    def look():
        return len(told)

    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tool_calls=2)):
        look()
        with sw.step("closed", tools=[]), pytest.raises(sw.ToolDeniedError):
            look()
        assert told == []
        look()
        with pytest.raises(sw.BudgetExceededError):
            look()
    assert [(event.limit, event.consumed) for event in told] == [("max_tool_calls", 2)]


def test_of_a_limit_of_zero_the_share_is_zero_or_infinite():
    """A limit of 0 has the share 0 while nothing is spent, and infinity from the first unit on."""
    told = []
    watch(1, told)
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_output_tokens=0, max_calls=1_000)):
        sw.record_usage(input_tokens=5)
        assert told == []
        with pytest.raises(sw.BudgetExceededError):
            spend(1)
    assert [(event.limit, event.limit_value, event.pct) for event in told] == [("max_output_tokens", 0, math.inf)]


def test_holds_do_not_count():
    """What is only held reaches no threshold; settling it does, and so does the input of a call left uncertain."""
    told = []
    watch(50, told)
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tokens=100)), sw.reserve(input_tokens=90) as hold:
        spend(1)
        assert told == []
        hold.settle(input_tokens=60, output_tokens=0)
        assert [event.pct for event in told] == [61]
    left = sw.reserve(input_tokens=50, output_tokens=50)
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tokens=100)), left:
        assert len(told) == 1
    assert [event.pct for event in told] == [61, 50]


# What a hook may do.


def test_it_fires_outside_the_lock():
    """While the hook runs, another thread can work on the same scopes."""
    counted = []

    @sw.hooks.on("OnBudgetThreshold(50)")
    def told(event):
        thread = threading.Thread(target=sw.propagate(functools.partial(spend, 1)))
        thread.start()
        thread.join(20)
        counted.append(thread.is_alive())

    with sw.Run() as run, sw.step("outer"), sw.step("plan", budget=sw.Budget(max_tokens=10)):
        spend(5)
    assert counted == [False]
    assert run.total.total_tokens == 6


def test_a_hook_may_record_and_reserve_on_the_parent():
    """What a threshold's hook spends is the parent's and fires the parent's thresholds, without recursion."""
    told = []

    @sw.hooks.on("OnBudgetThreshold(50)")
    def report(event):
        told.append(event.target)
        spend(20)
        with sw.reserve(output_tokens=30) as hold:
            hold.settle(input_tokens=0, output_tokens=10)

    outer = sw.step("outer", budget=sw.Budget(max_tokens=40))
    with sw.Run(budget=sw.Budget(max_tokens=1_000)) as run, outer, sw.step("plan", budget=sw.Budget(max_tokens=10)):
        spend(5)
    assert told == ["plan", "outer"]
    assert {one.name: one.own.total_tokens for one in run.receipts} == {"plan": 5, "outer": 30}
    assert run.own.total_tokens == 30


def test_a_hook_that_fails_keeps_no_other_from_being_told():
    """When a threshold's hook raises, the others that were due are told now or at the next spending, once."""
    told = []

    @sw.hooks.on("OnBudgetThreshold(50)", step="plan")
    def broken(event):
        raise LookupError("hook")

    watch(50, told, step="plan")
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tokens=10)):
        with pytest.raises(LookupError, match="hook"):
            spend(5)
        spend(1)
    assert len(told) == 1


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_parallel_callers_fire_it_once(kind):
    """Many callers that cross it at the same time fire it once for the scope that they share."""
    told = []
    watch(50, told)

    async def in_tasks():
        await asyncio.gather(*(asyncio.to_thread(spend, 1) for _ in range(40)))

    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tokens=40)):
        if kind == "tasks":
            asyncio.run(in_tasks())
        else:
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(sw.propagate(spend), [1] * 40))
    assert len(told) == 1
    assert told[0].pct >= 50


def test_registered_late_it_fires_at_the_next_spending():
    """A threshold registered after its share was passed fires at the next spending, and a removed one never."""
    told = []
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_tokens=10)):
        spend(6)
        removed = watch(50, told)
        removed.remove()
        spend(1)
        assert told == []
        watch(50, told)
        spend(1)
    assert [event.pct for event in told] == [80]


def test_a_runs_own_hooks_hear_of_its_own_scopes_only():
    """Under a run with hooks of its own, its scopes tell those, and the scopes around it tell theirs."""
    outside, inside, mine = [], [], sw.Hooks()
    watch(50, outside)
    mine.on("OnBudgetThreshold(50)")(inside.append)
    ten = sw.Budget(max_tokens=10)
    with sw.Run(budget=ten, name="outer"), sw.Run(budget=ten, name="inner", hooks=mine), sw.step("plan", budget=ten):
        spend(5)
    assert [event.target for event in outside] == ["outer"]
    assert [event.target for event in inside] == ["inner", "plan"]
