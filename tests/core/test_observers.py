"""Hooks that only observe: each is told, whatever another does, and the first failure is raised then."""

import asyncio

import pytest

import stepwarden as sw

SPENT = sw.Budget(max_tokens=1)


def overspend():
    """Pass the limit of the step around."""
    sw.record_usage(input_tokens=2)


def fail(event):
    """Be a hook that breaks."""
    raise RuntimeError(event.event)


async def fail_later(event):
    """Be a coroutine hook that breaks."""
    await asyncio.sleep(0)
    raise RuntimeError(event.event)


def answer(event):
    """Be a hook that answers what an observer cannot answer."""
    return "yes"


@pytest.mark.parametrize("broken", [fail, fail_later, answer])
def test_a_failing_hook_of_an_escalation_keeps_none_from_hearing_of_the_failure(broken):
    """OnEscalation and OnStepFailed are told to every hook; the first failure is raised, from the step's own error."""
    hooks, told = sw.Hooks(), []
    hooks.on("OnEscalation")(broken)
    hooks.on("OnEscalation")(lambda event: told.append(event.event))
    hooks.on("OnStepFailed")(broken)
    hooks.on("OnStepFailed")(lambda event: told.append((event.event, type(event.error))))

    @sw.step(budget=SPENT, error_boundary="escalate")
    async def plan():
        overspend()

    with sw.Run(hooks=hooks) as run:
        with pytest.raises(TypeError if broken is answer else RuntimeError, match="OnEscalation") as caught:
            asyncio.run(plan())
    assert isinstance(caught.value.__cause__, sw.BudgetExceededError)
    assert told == ["OnEscalation", ("OnStepFailed", sw.EscalationError)]
    assert [receipt.status for receipt in run.receipts] == ["escalated"]


def test_every_hook_hears_of_a_personas_end():
    """PersonaEnd is told to every hook, with what it returned, also after one that fails."""
    hooks, told = sw.Hooks(), []
    hooks.on("PersonaEnd")(fail)
    hooks.on("PersonaEnd")(lambda event: told.append(event.output))
    with sw.Run(hooks=hooks), pytest.raises(RuntimeError, match="PersonaEnd") as caught:
        sw.persona(name="p")(lambda: "done")()
    assert caught.value.__cause__ is None
    assert told == ["done"]


def test_every_hook_hears_of_a_denied_tool():
    """OnToolDenied is told to every hook; what one raises is raised from the denial."""
    hooks, told = sw.Hooks(), []
    hooks.on("OnToolDenied")(fail)
    hooks.on("OnToolDenied")(lambda event: told.append(event.error.tool))
    with sw.Run(hooks=hooks), sw.step("s", tools=[]), pytest.raises(RuntimeError) as caught:
        sw.tool(name="t")(lambda: None)()
    assert isinstance(caught.value.__cause__, sw.ToolDeniedError)
    assert told == ["t"]


def test_an_interrupt_in_a_hook_stops_the_others():
    """What is no `Exception`, such as an interrupt, is not held back until the other hooks have been told."""
    hooks, told = sw.Hooks(), []

    @hooks.on("OnStepFailed")
    def interrupted(event):
        raise KeyboardInterrupt

    hooks.on("OnStepFailed")(told.append)
    with sw.Run(hooks=hooks) as run, pytest.raises(KeyboardInterrupt), sw.step("s"):
        raise ValueError
    assert told == []
    assert [receipt.status for receipt in run.receipts] == ["failed"]
