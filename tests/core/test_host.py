"""Steps that a host pushes and pops with call frames of its own, and what becomes of errors that leave them."""

import threading

import pytest

import stepwarden as sw
from stepwarden.host import Raised, Returned, StepHost
from tests.core.hosts import ended, exhausted, opened_host


@pytest.fixture
def host():
    """Give a host on a run of its own."""
    with opened_host() as opened:
        yield opened


# What is in force.


def test_what_is_pushed_is_in_force_for_everything(host):
    """A pushed step is the current one for every function of the package, and gives way to what is around it."""
    host.push_persona("who", 1)
    host.push_step("plain", 2, ("a", 1))
    step = host.active_step()
    assert sw.current_step() is step
    assert sw.current_persona() is step.parent
    assert sw.current_run() is host.run
    assert host.active_step_args() == ("a", 1)
    assert host.current_persona_name() == "who"
    host.prune_below_frame(1)
    assert sw.current_step() is None
    assert host.current_persona_name() == "who"
    assert host.active_step_args() is None
    host.prune_below_frame(0)
    assert host.current_persona_name() is None


def test_a_function_may_be_a_persona_and_a_step(host):
    """One frame may open both: the persona around the step, and one prune ends them."""
    host.register_step_from_dict("who", {"name": "main"})
    assert host.push_persona("who", 1)
    assert host.push_step("who", 1)
    assert host.active_step().parent.kind == "persona"
    host.prune_below_frame(0)
    assert [(one.kind, one.name, str(one.status)) for one in host.run.receipts] == [
        ("step", "main", "completed"),
        ("persona", "who", "completed"),
    ]


def test_a_push_ends_what_belongs_to_deeper_frames(host):
    """A frame that is pushed at a depth proves that deeper ones are gone, pruned or not."""
    host.push_step("plain", 5)
    host.push_step("fail_step", 3)
    assert ended(host) == [("plain", "completed")]
    assert host.active_step().parent is host.run


def test_prune_leaves_the_frames_that_are_left(host):
    """Only what is deeper than the frames left is ended, innermost first."""
    for depth, name in enumerate(["plain", "fail_step", "plain"], start=1):
        host.push_step(name, depth)
    host.prune_below_frame(3)
    assert ended(host) == []
    host.prune_below_frame(1)
    assert ended(host) == [("plain", "completed"), ("fail_step", "completed")]
    assert host.active_step_frame_depth() == 1


@pytest.mark.parametrize(
    ("error", "status", "named"),
    [(KeyError("k"), "failed", ("KeyError", "'k'")), (KeyboardInterrupt(), "cancelled", None)],
)
def test_prune_can_say_what_unwound_the_frames(host, error, status, named):
    """With an error, every step and persona that it unwound ends as failed or cancelled, and says so."""
    host.push_persona("who", 1)
    host.push_step("plain", 2)
    host.prune_below_frame(0, error)
    assert [(one.name, str(one.status), one.error) for one in host.run.receipts] == [
        ("plain", status, named),
        ("who", status, named),
    ]


# Errors and boundaries.


@pytest.mark.parametrize(
    ("boundary", "status"), [("fail", "failed"), ("continue", "skipped"), ("escalate", "escalated")]
)
def test_a_boundary_ends_the_step_at_its_depth(host, boundary, status):
    """The step's own exhaustion ends it as its boundary says, with the error on its receipt."""
    host.push_step(f"{boundary}_step", 2)
    error = exhausted()
    outcome = host.apply_error_boundary(error, 2)
    if boundary == "continue":
        assert outcome == Returned("fallback")
    elif boundary == "fail":
        assert outcome == Raised(error)
    else:
        assert isinstance(outcome.error, sw.EscalationError)
        assert outcome.error.error is outcome.error.__cause__ is error
        assert (outcome.error.step, outcome.error.function) == ("escalate_step", "escalate_step")
    assert ended(host) == [(f"{boundary}_step", status)]
    assert host.peek_completed_steps()[0].error.message == str(error)
    assert host.active_step() is None
    assert sw.current_step() is None


def test_a_boundary_leaves_alone_what_is_not_its_own(host):
    """An ordinary error, another activation's budget error, an escalation or another depth end nothing."""
    host.push_step("continue_step", 1)
    old = exhausted()
    host.prune_below_frame(0)
    host.push_step("continue_step", 1)
    escalation = sw.EscalationError("e", step="s", function="s", error=old)
    for error in (KeyError("k"), old, escalation):
        assert host.apply_error_boundary(error, 1) == Raised(error)
    own = exhausted()
    for depth in (0, 2):
        assert host.apply_error_boundary(own, depth) == Raised(own)
    assert host.active_step_frame_depth() == 1
    assert host.apply_error_boundary(own, 1) == Returned("fallback")
    assert host.apply_error_boundary(own, 1) == Raised(own)


def test_a_group_of_a_steps_own_errors_counts_as_the_first(host):
    """An exception group all of whose leaves are the step's own budget errors meets its boundary."""
    host.push_step("continue_step", 1)
    errors = [exhausted(), exhausted(1)]
    mixed = ExceptionGroup("g", [errors[0], KeyError("k")])
    assert host.apply_error_boundary(mixed, 1) == Raised(mixed)
    assert host.apply_error_boundary(ExceptionGroup("g", errors), 1) == Returned("fallback")
    assert host.peek_completed_steps()[0].error.message == str(errors[0])


def test_a_boundary_ends_the_personas_inside_as_failed(host):
    """A persona whose frame was unwound above the step is ended with the error that unwound it."""
    host.push_step("continue_step", 1)
    host.push_persona("who", 2)
    error = exhausted()
    assert host.apply_error_boundary(error, 1) == Returned("fallback")
    assert [(one.name, str(one.status)) for one in host.run.receipts] == [
        ("who", "failed"),
        ("continue_step", "skipped"),
    ]


def test_a_refusal_meets_the_boundary_too(host):
    """What `reserve` refuses for lack of room is the step's exhaustion as well."""
    host.push_step("continue_step", 1)
    sw.record_usage(output_tokens=10, cost_usd=0)
    with pytest.raises(sw.BudgetExceededError, match="has no room") as caught:
        sw.reserve(output_tokens=5, cost_usd=0).acquire()
    assert host.apply_error_boundary(caught.value, 1) == Returned("fallback")


@pytest.mark.parametrize(
    ("status", "error", "named"),
    [
        ("completed", None, None),
        (sw.Status.FAILED, KeyError("k"), ("KeyError", "'k'")),
        ("skipped", "no room", ("Error", "no room")),
        ("denied", None, None),
    ],
)
def test_pop_and_record_ends_the_innermost_step_with_a_status(host, status, error, named):
    """The step of the frame ends with the status and the error that the host gives, and the frame below is in force."""
    host.push_step("plain", 1)
    host.push_step("fail_step", 2)
    host.push_persona("who", 3)
    assert not host.pop_and_record(1, status, error)
    assert host.pop_and_record(2, status, error)
    assert ended(host) == [("fail_step", str(status))]
    assert host.peek_completed_steps()[0].error == named
    assert host.run.receipts[0].status == (status if error is None else "failed")
    assert sw.current_step() is host.active_step() is not None
    assert not host.pop_and_record(2, status)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [("done", None, "status must be one of 'completed', .*'done'"), ("completed", "no", "error must be None .*'no'")],
)
def test_a_status_that_cannot_be_right_ends_nothing(host, status, error, message):
    """An unknown status, or an error beside one that leaves none, is a ValueError before anything ends."""
    host.push_step("plain", 1)
    with pytest.raises(ValueError, match=message):
        host.pop_and_record(1, status, error)
    assert host.active_step_frame_depth() == 1


def test_a_step_that_was_taken_is_charged_no_more_until_it_is_finished(host):
    """Taken off the stack, a step stays open for the host to finish, and usage goes to what is around it."""
    host.push_step("plain", 1)
    host.push_step("fail_step", 2)
    host.push_persona("who", 3)
    sw.record_usage(output_tokens=5, cost_usd=0)
    assert host.take_active_step(1) is None
    taken = host.take_active_step(2)
    assert taken.name == "fail_step"
    assert taken.status is None
    assert host.active_step_frame_depth() == 1
    sw.record_usage(output_tokens=50, cost_usd=0)
    host.finish_active_step(taken, "failed", KeyError("k"))
    assert ended(host) == [("fail_step", "failed")]
    receipt = host.peek_completed_steps()[0]
    assert (receipt.total.output_tokens, receipt.error.type) == (5, "KeyError")
    for scope in (taken, host.active_step()):
        with pytest.raises(sw.ScopeOrderError, match="none that was taken"):
            host.finish_active_step(scope, "completed")


def test_a_python_step_left_open_is_abandoned_and_said(host):
    """A step that Python code opened inside a frame and did not leave is abandoned when the frame is popped."""
    stray = sw.step("stray")

    def pushed():
        host.push_step("continue_step", 1)
        error = exhausted()
        stray.__enter__()
        return error

    pushed()
    with pytest.raises(sw.ScopeOrderError, match="`stray`"):
        host.prune_below_frame(0)
    pushed()
    with pytest.raises(sw.ScopeOrderError) as caught:
        host.pop_and_record(1, "failed", KeyError("k"))
    assert isinstance(caught.value.__cause__, KeyError)
    error = pushed()
    outcome = host.apply_error_boundary(error, 1)
    assert isinstance(outcome.error, sw.ScopeOrderError)
    assert outcome.error.__cause__ is error
    pushed()
    taken = host.take_active_step(1)
    with pytest.raises(sw.ScopeOrderError):
        host.finish_active_step(taken, "completed")
    assert ended(host) == [("continue_step", status) for status in ("failed", "failed", "skipped", "completed")]
    assert [str(one.status) for one in host.run.receipts if one.name == "stray"] == ["abandoned"] * 4
    assert sw.current_step() is None


# Receipts.


def test_drain_forgets_what_peek_shows_and_the_run_keeps_it(host):
    """Completed steps are the host's own steps in completion order; draining them leaves the run's log whole."""
    host.push_persona("who", 1)
    host.push_step("plain", 2)
    with sw.step("in python"):
        pass
    host.prune_below_frame(0)
    assert [one.name for one in host.peek_completed_steps()] == ["plain"]
    assert host.drain_completed_steps() == host.run.receipts[1:2]
    assert host.drain_completed_steps() == host.peek_completed_steps() == ()
    assert [one.name for one in host.run.receipts] == ["in python", "plain", "who"]


def test_a_step_that_the_run_abandoned_is_completed_too():
    """A step whose run ended first is off the stack, and its receipt is among the completed ones."""
    with sw.Run() as run:
        host = StepHost(run)
        host.register_step_from_dict("plain", {})
        host.push_step("plain", 1)
        thread = threading.Thread(target=run.__exit__, args=(None, None, None))
        thread.start()
        thread.join()
        assert host.active_step() is None
        assert ended(host) == [("plain", "abandoned")]
        with pytest.raises(sw.RunClosedError, match="no step `plain` opens under it"):
            host.push_step("plain", 1)


def test_a_reset_abandons_what_is_open_and_forgets_the_rest(host):
    """After a reset nothing is registered, open or completed; the receipts of the run say what was abandoned."""
    host.push_step("plain", 1)
    host.push_step("fail_step", 2)
    taken = host.take_active_step(2)
    host.reset()
    assert taken.status == host.run.receipts[0].status == "abandoned"
    assert [str(one.status) for one in host.run.receipts] == ["abandoned", "abandoned"]
    assert host.peek_completed_steps() == ()
    assert not host.is_tracked("plain")
    assert not host.push_step("plain", 1)
    assert sw.current_step() is None
