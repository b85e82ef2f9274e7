"""Metrics: how far budgets are used, which calls are refused and why, how long others wait."""

import asyncio
import contextlib
import contextvars
import threading
import time

import pytest

import stepwarden as sw

FREE = {"free": {"input": 0, "output": 0}}


@pytest.fixture
def measured(application):
    """Give a function that returns the points of one metric: the attributes of each, and the point."""
    reader = application.measure()

    def points(name):
        data = reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics[0].scope_metrics
        assert {scope.scope.name for scope in found} <= {"stepwarden"}
        metrics = [metric for scope in found for metric in scope.metrics if metric.name == name]
        return [(dict(point.attributes), point) for metric in metrics for point in metric.data.data_points]

    return points


def test_utilization_of_each_limit_is_measured_at_the_end(measured):
    """When a scope closes, the share of each of its limits that was spent is measured, with kind, name and limit."""
    with sw.Run(name="voyage", budget=sw.Budget(max_calls=8)), sw.persona("captain", budget=sw.Budget(max_usd=1)):
        for spent in (30, 60):
            with sw.step("plan", budget=sw.Budget(max_tokens=100, max_tool_calls=0)):
                sw.record_usage(input_tokens=spent, cost_usd="0.1")
    shares = {
        (at["stepwarden.kind"], at["stepwarden.name"], at["stepwarden.limit"]): (point.count, round(point.sum, 6))
        for at, point in measured("stepwarden.budget.utilization")
    }
    assert shares == {
        ("step", "plan", "max_tokens"): (2, 0.9),
        ("persona", "captain", "max_usd"): (1, 0.2),
        ("run", "voyage", "max_calls"): (1, 0.25),
    }


def test_utilization_shows_what_was_passed(measured):
    """A limit that was passed has a share above 1."""
    with sw.Run(), contextlib.suppress(sw.BudgetExceededError), sw.step("plan", budget=sw.Budget(max_tokens=10)):
        sw.record_usage(input_tokens=25)
    ((_, point),) = measured("stepwarden.budget.utilization")
    assert point.sum == 2.5


def test_utilization_of_time_is_the_time_it_was_open(measured):
    """The share of `max_seconds` is what it was open of it, generators between two yields included."""

    @sw.step(budget=sw.Budget(max_seconds=1_000))
    def stream():
        yield 1

    with sw.Run() as run:
        list(stream())
    ((_, point),) = measured("stepwarden.budget.utilization")
    assert point.sum == pytest.approx(run.receipts[0].duration / 1_000)


def wait_at_once():
    hold = contextvars.copy_context().run(sw.reserve(input_tokens=60).acquire)
    try:
        sw.reserve(input_tokens=60, wait=False).acquire()
    finally:
        hold.release()


def hold_twice():
    with sw.reserve(input_tokens=60), sw.reserve(input_tokens=60):
        raise AssertionError("it was granted")


def sleep_too_long():
    asyncio.run(sw.step(name="sleepy", budget=sw.Budget(max_seconds=0.01))(asyncio.sleep)(30))


@pytest.mark.parametrize(
    ("refuse", "limit", "reason"),
    [
        (lambda: sw.reserve(input_tokens=101).acquire(), "max_tokens", "no_room"),
        (hold_twice, "max_tokens", "would_deadlock"),
        (wait_at_once, "max_tokens", "timeout"),
        (lambda: sw.reserve(model="no-such", input_tokens=1).acquire(), "max_usd", "unpriced"),
        (sw.tool(name="search")(lambda: None), "max_tool_calls", "no_room"),
        (sleep_too_long, "max_seconds", "deadline"),
    ],
    ids=["no room", "would deadlock", "timeout", "unpriced", "tool", "deadline"],
)
def test_refused_calls_are_counted(measured, refuse, limit, reason):
    """Each call that was not made is counted once, by the limit that had no room and the reason."""
    budget = sw.Budget(max_tokens=100, max_usd=1, max_tool_calls=0)
    with sw.Run(prices=FREE), contextlib.suppress(sw.StepwardenError), sw.step("plan", model="free", budget=budget):
        refuse()
    ((attributes, point),) = measured("stepwarden.calls.refused")
    assert attributes == {"stepwarden.limit": limit, "stepwarden.reason": reason}
    assert point.value == 1


def test_what_was_spent_already_is_no_refused_call(measured):
    """A limit that a record or a settlement passes, an escalation and a denial are no refused calls."""
    step = sw.step("plan", model="free", budget=sw.Budget(max_tokens=10), tools=[], error_boundary="escalate")
    with sw.Run(prices=FREE):
        with contextlib.suppress(sw.EscalationError), step:
            sw.record_usage(input_tokens=11)
        with contextlib.suppress(sw.EscalationError), step, sw.reserve(input_tokens=1) as hold:
            hold.settle(input_tokens=11, output_tokens=0)
        with contextlib.suppress(sw.ToolDeniedError), step:
            sw.tool(name="search")(lambda: None)()
    assert measured("stepwarden.calls.refused") == []


def test_waits_are_measured(measured):
    """How long a call waited for other calls' holds is measured in seconds, by the limit that had no room."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold = contextvars.copy_context().run(sw.reserve(input_tokens=60).acquire)
        waiter = threading.Thread(target=sw.propagate(lambda: sw.reserve(input_tokens=60).acquire().release()))
        waiter.start()
        give_up = time.monotonic() + 30
        while not run.tree.waiting:
            assert time.monotonic() < give_up
            time.sleep(0.001)
        hold.release()
        waiter.join(30)
    ((attributes, point),) = measured("stepwarden.wait.duration")
    assert attributes == {"stepwarden.limit": "max_tokens"}
    assert point.count == 1
    assert 0 < point.sum < 30


def test_metrics_and_spans_go_side_by_side(measured, application):
    """An application with both has both; a utilization is measured while its span is in force."""
    application.trace()
    with sw.Run(), sw.step("plan", budget=sw.Budget(max_calls=2)):
        sw.record_usage()
    assert [span.name for span in application.spans] == ["step plan"]
    ((_, point),) = measured("stepwarden.budget.utilization")
    assert point.exemplars[0].span_id == application.spans[0].context.span_id
