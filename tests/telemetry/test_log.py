"""Log records: refusals, escalations and denials, with the attributes of their errors; quiet where nobody listens."""

import asyncio
import contextvars
import logging
import subprocess
import sys
import textwrap
from decimal import Decimal

import pytest

import stepwarden as sw


def refused(step, body, **run):
    """Run a body in a step under a run, and return the error that left it."""
    with sw.Run(**run), pytest.raises(sw.StepwardenError) as caught, step:
        body()
    return caught.value


def test_a_refusal_is_logged_with_the_attributes_of_its_error(caplog):
    """The record of a refused call says what the error says, in fields of the same names."""
    step = sw.step("plan", budget=sw.Budget(max_usd="0.50"))
    error = refused(step, lambda: sw.reserve(cost_usd="0.75").acquire())
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("stepwarden", logging.WARNING, str(error))
    for field in ("scope_kind", "scope_name", "scope_id", "function", "limit", "reason", "phase", "error_boundary"):
        assert getattr(record, field) == getattr(error, field)
    assert record.error_type == "BudgetExceededError"
    assert (record.limit_value, record.requested, record.held) == (Decimal("0.5"), Decimal("0.75"), 0)
    assert record.run_id == record.scope_id.partition(".")[0]
    assert record.persona is None
    assert not hasattr(record, "usage")


def test_the_scope_is_that_of_the_limit(caplog):
    """Where a limit further out refuses, the record names the scope whose limit it is, as the error does."""
    with sw.Run(name="voyage", budget=sw.Budget(max_calls=0)), sw.persona("captain"), sw.step("plan"):
        with pytest.raises(sw.BudgetExceededError):
            sw.record_usage()
    (record,) = caplog.records
    assert (record.scope_kind, record.scope_name, record.persona) == ("run", "voyage", "captain")


def test_an_escalation_is_an_error_with_what_caused_it(caplog):
    """An escalation is logged as an error, with its step and the limit that ran out."""
    step = sw.step("plan", budget=sw.Budget(max_calls=0), error_boundary="escalate")
    error = refused(step, sw.record_usage)
    cause, record = caplog.records
    assert (cause.error_type, record.error_type) == ("BudgetExceededError", "EscalationError")
    assert (record.levelno, record.getMessage()) == (logging.ERROR, str(error))
    assert (record.step, record.function, record.limit, record.reason) == ("plan", "plan", "max_calls", "exceeded")


def test_a_denied_tool_is_logged(caplog):
    """The record of a denied tool names the tool, the reason and the step that called it."""
    error = refused(sw.step("plan", tools=[]), sw.tool(name="search")(lambda: None))
    (record,) = caplog.records
    assert (record.levelno, record.tool, record.reason) == (logging.WARNING, "search", error.reason)
    assert (record.error_type, record.scope_name) == ("ToolDeniedError", "plan")


def test_a_denied_step_is_logged(caplog):
    """The record of a step that a hook refused names the event, the reason and the step."""
    hooks = sw.Hooks()
    hooks.on("PreStep")(lambda event: sw.Deny("not today"))
    refused(sw.step("plan"), None, hooks=hooks)
    (record,) = caplog.records
    assert (record.error_type, record.event, record.reason, record.step, record.scope_name) == (
        "HookDeniedError", "PreStep", "not today", "plan", "plan",
    )  # fmt: skip


def test_a_wrong_use_is_not_logged(caplog):
    """An error that refuses nothing, but says that the code is wrong, is the caller's to see and no record."""
    hold = None
    with sw.Run(), sw.step("plan"):
        hold = sw.reserve().acquire()
        hold.release()
        with pytest.raises(sw.HoldClosedError):
            hold.release()
    with pytest.raises(sw.ScopeOrderError), sw.Run(), sw.step("plan"):
        sw.step("left").__enter__()

    async def block_the_loop():
        hold = contextvars.copy_context().run(sw.reserve(input_tokens=60).acquire)
        with pytest.raises(sw.WouldBlockError):
            sw.reserve(input_tokens=60).acquire()
        hold.release()

    with sw.Run(budget=sw.Budget(max_tokens=100)):
        asyncio.run(block_the_loop())
    assert caplog.records == []


def test_what_a_model_said_is_not_logged(caplog):
    """The text that had arrived before a call ended is content, and is on no record."""
    from stepwarden.core._watch import tell_refused

    with sw.Run() as run:
        error = sw.BudgetExceededError(
            "m", scope_kind="run", scope_name="r", scope_id="1", function="f", limit="max_calls", limit_value=1,
            consumed=2, usage=sw.Usage(), partial="what the model said",
        )  # fmt: skip
        tell_refused(run, error)
    (record,) = caplog.records
    assert "what the model said" not in str(vars(record))


def test_nothing_is_made_for_a_level_that_is_off(caplog):
    """A logger that is set to errors keeps warnings away before a record is made."""
    with caplog.at_level(logging.ERROR, logger="stepwarden"):
        refused(sw.step("plan", budget=sw.Budget(max_calls=0)), sw.record_usage)
    assert caplog.records == []


@pytest.mark.parametrize("imports", ["", "import logging"])
def test_it_is_quiet_by_default(imports):
    """A program that has set up no logging sees nothing of it, and one that has not imported it does not load it."""
    script = f"""
    import sys
    {imports}
    import stepwarden as sw

    with sw.Run(budget=sw.Budget(max_calls=0)):
        try:
            sw.record_usage()
        except sw.BudgetExceededError:
            print("refused", "logging" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["refused", str(bool(imports))]
    assert done.stderr == ""
