"""What a span says: names, numbers and statuses of the activation, and nothing of what was said in it."""

import asyncio
import contextlib

import pytest
from opentelemetry.trace import StatusCode

import stepwarden as sw

SAID = "what nobody else is to read"


def test_a_step_says_what_it_was_and_what_it_spent(traced):
    """A step's span has its names, its limits, its model, its status and its numbers, own and total."""

    @sw.step(model="openai:gpt-5-mini", budget=sw.Budget(max_tokens=100, max_usd="0.50"), error_boundary="continue")
    def plan():
        sw.record_usage(
            "openai:gpt-5", input_tokens=10, output_tokens=4, cost_usd="0.1", cache_read_tokens=6, reasoning_tokens=2
        )
        with sw.step("detail"):
            sw.record_usage(input_tokens=1, output_tokens=1, cost_usd="0.05", estimated=True)

    @sw.persona(stages=[sw.Stage(plan)])
    def captain():
        plan()

    with sw.Run() as run:
        captain()
    receipt = next(receipt for receipt in run.receipts if receipt.name == "plan")
    assert dict(traced.span("step plan").attributes) == {
        "stepwarden.kind": "step",
        "stepwarden.name": "plan",
        "stepwarden.run.id": run.id,
        "stepwarden.scope.id": receipt.step_id,
        "stepwarden.stage": "plan",
        "stepwarden.boundary": "continue",
        "stepwarden.budget.max_tokens": 100,
        "stepwarden.budget.max_usd": 0.5,
        "stepwarden.status": "completed",
        "stepwarden.cost.usd": 0.15,
        "stepwarden.own.cost.usd": 0.1,
        "stepwarden.own.input_tokens": 10,
        "stepwarden.own.output_tokens": 4,
        "stepwarden.own.calls": 1,
        "stepwarden.own.tool_calls": 0,
        "stepwarden.own.cache_read_tokens": 6,
        "stepwarden.own.reasoning_tokens": 2,
        "stepwarden.total.input_tokens": 11,
        "stepwarden.total.output_tokens": 5,
        "stepwarden.total.calls": 2,
        "stepwarden.total.tool_calls": 0,
        "stepwarden.total.cache_read_tokens": 6,
        "stepwarden.total.reasoning_tokens": 2,
        "stepwarden.total.estimated_calls": 1,
        "gen_ai.agent.name": "captain",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.response.model": "gpt-5",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 6,
    }


def test_a_persona_is_an_agent_that_was_invoked(traced):
    """A persona's span is named and attributed as the conventions say of an agent's invocation."""
    with sw.Run(), sw.persona("captain", model="gpt-5"):
        pass
    span = traced.span("invoke_agent captain")
    assert span.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert span.attributes["gen_ai.agent.name"] == "captain"
    assert span.attributes["gen_ai.request.model"] == "gpt-5"
    assert {"gen_ai.provider.name", "stepwarden.boundary", "stepwarden.stage"}.isdisjoint(span.attributes)
    assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == ("stepwarden", sw.__version__)


def deny(event):
    return sw.Deny(SAID)


def exhaust():
    sw.record_usage(input_tokens=10)


def interrupt():
    raise KeyboardInterrupt


def fail():
    raise ValueError(SAID)


@pytest.mark.parametrize(
    ("boundary", "body", "hook", "status", "error", "description"),
    [
        ("fail", lambda: None, None, "completed", None, None),
        ("fail", exhaust, None, "failed", "BudgetExceededError", "step `plan` exceeded max_tokens budget (10 > 5)"),
        ("continue", exhaust, None, "skipped", None, None),
        (
            "escalate", exhaust, None, "escalated", "BudgetExceededError",
            "step `plan` exceeded max_tokens budget (10 > 5)",
        ),
        ("continue", fail, None, "failed", "ValueError", None),
        ("continue", interrupt, None, "cancelled", None, None),
        ("fail", lambda: None, deny, "denied", "HookDeniedError", None),
    ],
    ids=["completed", "failed", "skipped", "escalated", "error", "cancelled", "denied"],
)  # fmt: skip
def test_how_it_ended(traced, boundary, body, hook, status, error, description):
    """What failed, escalated or was denied is an error of its type; what was skipped or cancelled is none."""
    hooks = sw.Hooks()
    if hook is not None:
        hooks.on("PreStep")(hook)
    step = sw.step(name="plan", budget=sw.Budget(max_tokens=5), error_boundary=boundary)(body)
    with sw.Run(hooks=hooks), contextlib.suppress(sw.StepwardenError, ValueError, KeyboardInterrupt):
        step()
    span = traced.span("step plan")
    assert span.attributes["stepwarden.status"] == status
    assert span.attributes.get("error.type") == error
    assert span.status.status_code is (StatusCode.UNSET if error is None else StatusCode.ERROR)
    assert span.status.description == description


def test_what_stays_uncertain_is_on_the_span(traced):
    """A call whose cost never became known is on the span with what it may have cost."""
    with sw.Run(prices={"m": {"input": 1, "output": 2}}), sw.step("plan", model="m"):
        with contextlib.suppress(TimeoutError), sw.reserve(input_tokens=1_000_000, output_tokens=500_000):
            raise TimeoutError
    span = traced.span("step plan")
    assert span.attributes["stepwarden.uncertain.cost.usd"] == 1.0
    assert span.attributes["stepwarden.cost.usd"] == 1.0


def test_no_content_is_on_a_span(traced):
    """No argument, output, message of an error or name of a tool's argument is on a span, nor any event."""

    @sw.tool
    def write(text):
        return text

    @sw.step
    async def plan(text):
        write(SAID)
        sw.record_usage(input_tokens=1)
        return text

    @sw.step
    def fail(text):
        raise RuntimeError(text)

    with sw.Run():
        asyncio.run(plan(SAID))
        with pytest.raises(RuntimeError):
            fail(SAID)
    assert len(traced.spans) == 2
    for span in traced.spans:
        assert SAID not in span.to_json()
        assert span.events == ()
