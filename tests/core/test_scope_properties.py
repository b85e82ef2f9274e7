"""What a scope tells of itself, field by field and to the last unit."""

import contextlib
import contextvars
import time
from decimal import Decimal

import pytest

import stepwarden as sw
from stepwarden.core import _record, _tool
from stepwarden.testing._clock import FakeClock


@pytest.fixture
def clock():
    """Stop the clock, so that it moves only as a test says."""
    fake = FakeClock()
    sw.configure(clock=fake)
    yield fake
    sw.configure(clock=time)


@pytest.mark.parametrize(
    ("budget", "excess"),
    [
        (sw.Budget(max_tokens=4), sw.Usage(output_tokens=3)),
        (sw.Budget(max_tokens=1), sw.Usage(input_tokens=1, output_tokens=5)),
        (sw.Budget(max_input_tokens=1), sw.Usage(input_tokens=1)),
        (sw.Budget(max_output_tokens=4), sw.Usage(output_tokens=1)),
        (sw.Budget(max_tokens=5, max_output_tokens=4), sw.Usage(output_tokens=2)),
        (sw.Budget(max_usd="0.25"), sw.Usage(cost_usd=Decimal("0.5"))),
        (sw.Budget(max_calls=0), sw.Usage(calls=1)),
        (sw.Budget(max_seconds=60), sw.Usage()),
        (sw.Budget(), sw.Usage()),
    ],
    ids=str,
)
def test_the_overshoot_is_what_passes_each_limit_and_nothing_else(budget, excess):
    """The overshoot has what was recorded beyond each limit, token excess as output first, and zero elsewhere."""
    with sw.Run(), sw.step("s", budget=budget) as step, contextlib.suppress(sw.BudgetExceededError):
        sw.record_usage(input_tokens=2, output_tokens=5, cost_usd="0.75")
    assert (step.overshoot, step.receipt.overshoot) == (excess, excess)


def test_a_closed_scope_spends_no_more():
    """What a step spent itself is frozen when it closes: a hold settled later is late, and leaves it as it was."""
    with sw.Run() as run:
        with sw.step("s") as step:
            sw.record_usage(input_tokens=1)
            outlives = contextvars.copy_context()
            hold = outlives.run(sw.reserve(input_tokens=5).acquire)
        before = step.own
        hold.settle(input_tokens=4, output_tokens=0)
        assert (before.input_tokens, step.own, step.total) == (1, before, before)
        assert (run.receipts[0].own, run.own.input_tokens, run.total.input_tokens) == (before, 4, 5)


def test_a_scope_is_open_for_seconds(clock):
    """Elapsed are the seconds since a scope was opened, and once it has closed those for which it was open."""
    with sw.Run() as run:
        with sw.step("s") as step:
            clock.advance(1.5)
            assert step.elapsed == 1.5
        clock.advance(10)
        assert (step.elapsed, step.receipt.duration, run.elapsed) == (1.5, 1.5, 11.5)


def test_a_start_is_the_microsecond_that_has_begun(clock):
    """A receipt's start is rounded down to the microsecond, not to the nearest."""
    with sw.Run() as run:
        with sw.step("at once"):
            clock.advance(0.000_000_9)
        with sw.step("in the same microsecond"):
            pass
    first, second = run.receipts
    assert second.started_at == first.started_at


def test_a_run_leaves_no_receipt():
    """Neither a run nor a run within it has a receipt, also when it has closed."""
    with sw.Run() as run:
        with sw.Run() as inner:
            pass
        assert inner.receipt is None
    assert run.receipt is None


def test_a_call_is_on_the_receipt_as_it_was_recorded():
    """A receipt's call has the model, the tokens, the cost, the outcome and whether it was clamped, as recorded."""
    with sw.Run(), sw.step("s") as step:
        sw.record_usage(model="some-model", input_tokens=2, output_tokens=3, cost_usd="0.5")
    (call,) = step.receipt.calls
    assert call == sw.CallRecord("some-model", 2, 3, Decimal("0.5"), call.outcome, clamped=False)


def test_what_is_counted_while_a_step_closes_is_on_its_receipt(monkeypatch):
    """What another thread counts for a step at the moment in which it closes came before: every number has it."""
    charge = _record.charge

    def closed_meanwhile(*amounts):
        step.close(sw.Status.COMPLETED)
        return charge(*amounts)

    with sw.Run() as run:
        with sw.step("s") as step:
            sw.record_usage(input_tokens=1, cost_usd=0)
            with monkeypatch.context() as patch:
                patch.setattr(_record, "charge", closed_meanwhile)
                sw.record_usage(input_tokens=2, cache_read_tokens=1, cost_usd=0)
        (receipt,) = run.receipts
        expected = sw.Usage(input_tokens=3, cache_read_tokens=1, calls=2)
        assert (step.own, step.total, receipt.own, receipt.total) == (expected,) * 4
        assert (run.total, run.own) == (expected, sw.Usage())


def test_a_tool_call_that_a_signal_leaves_counted_is_overshoot(monkeypatch):
    """Where a signal handler raises before a refused tool call is counted back, it shows as too much by one."""

    def interrupt(scope):
        raise KeyboardInterrupt

    tool = sw.tool(name="t")(lambda: None)
    monkeypatch.setattr(_tool, "_full", interrupt)
    with sw.Run() as run, sw.step("s", budget=sw.Budget(max_tool_calls=0)), contextlib.suppress(KeyboardInterrupt):
        tool()
    assert run.receipts[0].overshoot == sw.Usage(tool_calls=1)
