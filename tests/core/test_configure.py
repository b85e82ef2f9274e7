"""Settings of the process: what each changes, and that a bad one names itself and changes nothing."""

import asyncio
import contextvars
import math
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

DEFAULTS = {"unscoped_calls": "warn", "prices": {}, "max_wait": 600, "clock": time}


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    sw.configure(ledger=sw.MemoryLedger(), **DEFAULTS)


class Clock:
    """Stand still until it is moved."""

    def __init__(self):
        self.now = 1_700_000_000_000_000_000

    def monotonic_ns(self):
        return self.now

    def time_ns(self):
        return self.now


def unscoped(call=sw.record_usage):
    """Call something in a context without any scope; return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        contextvars.Context().run(call)
    return [one.category for one in caught]


def give_up_waiting():
    """Wait for another call's hold for as long as it may; return the error."""
    with sw.Run(budget=sw.Budget(max_calls=1)), ThreadPoolExecutor(1) as pool:
        hold = pool.submit(sw.propagate(sw.reserve().acquire)).result()
        with pytest.raises(sw.ReserveTimeoutError) as caught:
            sw.reserve().acquire()
        hold.release()
    return caught.value


def in_force():
    """Return what of the settings can be seen from outside."""
    with sw.Run() as run, sw.step("plan") as scope:
        calls = "pass"
        try:
            calls = "warn" if unscoped() else "pass"
        except sw.PolicyViolationError:
            calls = "refuse"
        sw.record_usage("m", input_tokens=1_000_000)
        return calls, scope.own.cost_usd, run.receipts


CALLS = {
    "a record": sw.record_usage,
    "a reservation": lambda: sw.reserve().acquire().release(),
    "a tool": sw.tool(name="look")(lambda: None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_unscoped_calls(call):
    """A record, a reservation and a tool outside every scope warn by default, or are refused, or pass."""
    with sw.Run():
        assert unscoped(call) == [sw.UnscopedCallWarning]
        sw.configure(unscoped_calls="pass")
        assert unscoped(call) == []
        sw.configure(unscoped_calls="refuse")
        with pytest.raises(sw.PolicyViolationError, match="propagate"):
            unscoped(call)
    sw.configure(unscoped_calls="warn")
    assert unscoped(call) == []


def test_prices():
    """Prices of the process hold in every run, behind the run's own, and a later table replaces an earlier one."""

    def cost(**kwargs):
        with sw.Run(**kwargs) as run:
            sw.record_usage("m", input_tokens=1_000_000)
        return run.total.cost_usd, run.total.unpriced_calls

    assert cost() == (0, 1)
    sw.configure(prices={"m": {"input": "0.5", "output": 1}})
    assert [str(part) for part in cost()] == ["0.5", "0"]
    assert cost(prices={"m": {"input": 3, "output": 1}}) == (3, 0)
    assert str(cost(prices={"other": {"input": 3, "output": 1}})[0]) == "0.5"
    sw.configure(prices={"other": {"input": 1, "output": 1}})
    assert cost() == (0, 1)


@pytest.mark.parametrize("model", [3, None, "", " "])
def test_a_price_is_for_a_model_that_has_a_name(model):
    """A price table's keys are names of models: anything else could never be found, and is refused."""
    table = {model: {"input": 1, "output": 1}}
    with pytest.raises(sw.DefinitionError, match="a model in prices must be a non-empty name"):
        sw.configure(prices=table)
    with pytest.raises(sw.DefinitionError, match="a model in prices must be a non-empty name"):
        sw.Run(prices=table)


def test_a_table_changed_afterwards_changes_nothing():
    """The process keeps the prices that it was given, whatever becomes of the table."""
    table = {"m": {"input": 1, "output": 1}}
    sw.configure(prices=table)
    table["m"]["input"] = 100
    del table["m"]
    assert in_force()[1] == 1


def test_max_wait():
    """A reservation waits no longer than `max_wait`, not even with a longer timeout of its own, and 0 waits not at all."""
    sw.configure(max_wait=0.01)
    error = give_up_waiting()
    assert (error.scope_kind, error.limit) == ("run", "max_calls")
    assert isinstance(error, TimeoutError)
    sw.configure(max_wait=0)
    assert give_up_waiting().waited < 600


def test_max_wait_of_0_lets_no_task_wait():
    """Where `max_wait` is 0, a task that would have to wait is refused at once, and leaves nothing behind."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_calls=1)) as run:
            hold = contextvars.copy_context().run(sw.reserve().acquire)
            with pytest.raises(sw.ReserveTimeoutError):
                await sw.reserve()
            hold.release()
            assert (run.held, run.tree.waiting) == (sw.Usage(), set())

    sw.configure(max_wait=0)
    asyncio.run(main())


def test_clock():
    """Runs that are opened from then on take the time from the clock: durations, start times and `max_seconds`."""
    clock = Clock()
    with sw.Run(budget=sw.Budget(max_seconds=10)):
        sw.configure(clock=clock)
        clock.now += 11_000_000_000
        sw.record_usage()
    with sw.Run(budget=sw.Budget(max_seconds=10)) as run:
        with sw.step("plan"):
            clock.now += 10_000_000_000
            sw.record_usage()
            assert run.elapsed == 10
        clock.now += 1
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.record_usage()
    assert (caught.value.limit, caught.value.limit_value, caught.value.reason) == ("max_seconds", 10.0, "deadline")
    (receipt,) = run.receipts
    assert receipt.duration == 10.0
    assert receipt.started_at.timestamp() == pytest.approx(1_700_000_011)


def test_ledger():
    """Receipts of runs that were opened implicitly go to the configured ledger, those of a Run never do."""
    ledger = sw.MemoryLedger(2)
    sw.configure(ledger=ledger)
    for name in ("a", "b", "c"):
        with sw.step(name):
            pass
    with sw.Run(), sw.step("d"):
        pass
    assert [one.name for one in sw.receipts()] == ["b", "c"]
    assert sw.receipts() == ledger.receipts


def test_what_is_not_given_stays():
    """A call changes what it is given and leaves the rest, and an empty one changes nothing."""
    sw.configure(unscoped_calls="refuse")
    sw.configure(prices={"m": {"input": 2, "output": 2}})
    sw.configure()
    assert in_force()[:2] == ("refuse", 2)


BAD = {
    "unscoped_calls": [None, "", "Warn", "ignore", True, 0, ["warn"]],
    "max_wait": [None, -1, -0.001, math.nan, math.inf, True, "600", 10**400],
    "ledger": [None, {}, "ledger.db", sw.MemoryLedger],
    "clock": [None, 5, time.monotonic_ns],
    "prices": [None, [], "m", {"m": None}, {"m": {"input": -1}}, {"m": {"in": 1}}, {"m": {"input": "x"}}, {5: {}}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_a_bad_value_names_its_field_and_changes_nothing(field, value):
    """A bad value is a DefinitionError that names the field, and nothing given beside it is changed either."""
    beside = {"unscoped_calls": "refuse", "prices": {"m": {"input": 9, "output": 9}}, "max_wait": 0.01}
    sw.configure(unscoped_calls="pass", prices={"m": {"input": 2, "output": 2}})
    with pytest.raises(sw.DefinitionError, match=field.removesuffix("s")):
        sw.configure(**{**beside, field: value})
    assert in_force()[:2] == ("pass", 2)


def test_an_unknown_setting_is_refused():
    """A setting that does not exist, and a positional one, is a TypeError."""
    with pytest.raises(TypeError, match="unscoped"):
        sw.configure(unscoped="pass")
    with pytest.raises(TypeError):
        sw.configure("pass")


@given(st.floats() | st.integers() | st.text(max_size=3) | st.none() | st.booleans())
def test_any_max_wait_is_taken_or_refused_by_name(value):
    """Whatever is given as `max_wait`, it is a finite number of seconds at least 0, or a DefinitionError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value >= 0:
        sw.configure(max_wait=value)
    else:
        with pytest.raises(sw.DefinitionError, match="max_wait"):
            sw.configure(max_wait=value)
