"""The types of the interface for hosts; checked by mypy and pyright, never run."""

from typing import assert_type

import stepwarden as sw
from stepwarden.host import Raised, Returned, StepHost


def frames(run: sw.Run, definition: sw.StepDefinition, persona: sw.PersonaDefinition) -> None:
    """Every method takes what the design pins, and gives it."""
    assert_type(StepHost(run).run, sw.Run)
    with StepHost() as host:
        assert_type(host, StepHost)
        host.register_step("f", definition)
        host.register_persona("p", persona)
        host.register_step_from_dict("f", {"budget": {"max_tokens": 5}})
        host.register_persona_from_dict("p", {"stages": []})
        assert_type(host.is_tracked("f"), bool)
        assert_type(host.step_definition("f"), sw.StepDefinition | None)
        assert_type(host.push_persona("p", 1), bool)
        assert_type(host.push_step("f", 2, ("a", 1)), bool)
        assert_type(host.active_step_frame_depth(), int | None)
        assert_type(host.active_step(), sw.StepScope | None)
        assert_type(host.current_persona_name(), str | None)
        host.prune_below_frame(1)
        host.prune_below_frame(1, KeyError())
        assert_type(host.pop_and_record(1, "failed", "why"), bool)
        assert_type(host.pop_and_record(1, sw.Status.FAILED, KeyError()), bool)
        assert_type(host.drain_completed_steps(), tuple[sw.Receipt, ...])
        assert_type(host.peek_completed_steps(), tuple[sw.Receipt, ...])
        for hook in host.matching_hooks("PreStep", "captain", "plan", 80.0):
            hook(sw.HookEvent("PreStep", "captain.plan"))
        with host.suspend() as nothing:
            assert_type(nothing, None)
        with host.attach() as attached:
            assert_type(attached, StepHost)
        host.reset()


def taken(host: StepHost) -> None:
    """What is taken is finished."""
    scope = host.take_active_step(1)
    assert_type(scope, sw.StepScope | None)
    if scope is not None:
        host.finish_active_step(scope, "completed", None)


def boundary(host: StepHost, error: BaseException) -> object:
    """What a boundary decides is one of two, told apart by their types."""
    outcome = host.apply_error_boundary(error, 1)
    assert_type(outcome, Returned | Raised)
    if isinstance(outcome, Returned):
        return outcome.value
    assert_type(outcome.error, BaseException)
    raise outcome.error


def wrong_uses(host: StepHost, step: sw.StepDefinition, persona: sw.PersonaDefinition) -> None:
    """Wrong uses are type errors."""
    StepHost("run")  # type: ignore[arg-type]
    host.register_step("f", persona)  # type: ignore[arg-type]
    host.register_persona("f", step)  # type: ignore[arg-type]
    host.register_step(print, step)  # type: ignore[arg-type]
    host.push_step("f", "1")  # type: ignore[arg-type]
    host.push_step("f", 1, [1])  # type: ignore[arg-type]
    host.prune_below_frame(None)  # type: ignore[arg-type]
    host.apply_error_boundary("error", 1)  # type: ignore[arg-type]
    host.finish_active_step(None, "completed")  # type: ignore[arg-type]
    host.pop_and_record(1, 5)  # type: ignore[arg-type]
    Returned(1).value = 2  # type: ignore[misc]
