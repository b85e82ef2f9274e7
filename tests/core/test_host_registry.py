"""What a host registers, and the hooks that it asks for."""

import pytest

import stepwarden as sw
from stepwarden.host import StepHost
from tests.core.hosts import exhausted, opened_host


@pytest.fixture
def host():
    """Give a host on a run of its own."""
    with opened_host() as opened:
        yield opened


def test_what_a_hook_pushes_is_its_parents(host):
    """A step that a hook lets the host push is no child of the step that the hook is for, and has no model from it."""
    hooks = sw.Hooks()
    seen = []

    @hooks.on("PostStep")
    def push(event):
        inner.push_step("plain", 1)
        seen.append((inner.active_step().parent, sw.default_model()))
        inner.prune_below_frame(0)

    with sw.Run(hooks=hooks) as run, sw.persona("who", model="m") as who:
        inner = StepHost(run)
        inner.register_step_from_dict("plain", {})
        with sw.step("s"):
            pass
    assert seen == [(who, None)]


def test_matching_hooks_are_those_that_want_to_hear(host):
    """Hooks match by event, persona pattern, exact step name and percentage, in the order of registration."""
    hooks = sw.Hooks()

    def nothing(event):
        pass

    registered = {
        "any": hooks.on("PreStep")(nothing),
        "persona": hooks.on("PreStep", persona="merge_*")(nothing),
        "step": hooks.on("PreStep", step="plan")(nothing),
        "threshold": hooks.on("OnBudgetThreshold(80)")(nothing),
        "other": hooks.on("PostStep")(nothing),
    }
    with sw.Run(hooks=hooks) as run, StepHost(run) as other:

        def names(*asked):
            matching = other.matching_hooks(*asked)
            return [name for name, hook in registered.items() if hook in matching]

        assert names("PreStep", "merge_captain", "plan", None) == ["any", "persona", "step"]
        assert names(" PreStep ", None, None, None) == ["any"]
        assert names("OnBudgetThreshold", None, None, 80.0) == ["threshold"]
        assert names("OnBudgetThreshold", None, None, 79.9) == []
        assert names("OnBudgetThreshold", None, None, None) == []
        assert names("PostStep") == ["other"]
        assert other.matching_hooks("PreStep", None, "plan")[1].function is nothing
        for unknown in ("OnBudgetThreshold(80)", "Before", None):
            with pytest.raises(sw.DefinitionError, match="unknown event"):
                other.matching_hooks(unknown)
    assert host.matching_hooks("PreStep") == []


def test_thresholds_fire_and_no_other_hook_is_called():
    """Pushing and popping calls no hook, which is the host's to do; a threshold fires when usage is recorded."""
    hooks = sw.Hooks()
    heard = []
    for event in ("PreStep", "PostStep", "OnStepFailed", "OnBudgetThreshold(50)", "OnEscalation", "PersonaEnd"):
        hooks.on(event)(lambda event: heard.append((event.event, event.target)))
    with sw.Run(hooks=hooks) as run, StepHost(run) as host:
        host.register_persona_from_dict("who", {})
        host.register_step_from_dict("plan", {"budget": {"max_tokens": 10}, "error_boundary": "escalate"})
        host.push_persona("who", 1)
        host.push_step("plan", 2)
        host.apply_error_boundary(exhausted(), 2)
        host.prune_below_frame(0)
    assert heard == [("OnBudgetThreshold", "who.plan")]


def test_a_definition_takes_the_name_of_the_function_it_is_bound_to(host):
    """What is registered names the host's function, whatever the definition was made for."""
    host.register_step("renamed", sw.StepDefinition("plan", function="other"))
    assert host.step_definition("renamed") == sw.StepDefinition("plan", function="renamed")
    host.register_persona("captain", sw.PersonaDefinition("captain"))
    assert host.is_tracked("captain")
    assert host.step_definition("captain") is None


@pytest.mark.parametrize(
    ("method", "function", "given", "message"),
    [
        ("register_step", "f", {}, "definition of 'f' must be a StepDefinition"),
        ("register_step", "f", sw.PersonaDefinition("p"), "definition of 'f' must be a StepDefinition"),
        ("register_persona", "f", None, "definition of 'f' must be a PersonaDefinition"),
        ("register_step", " ", sw.StepDefinition("f"), "function must be a non-empty name"),
        ("register_step_from_dict", None, {}, "function must be a non-empty name"),
        ("register_persona_from_dict", 1, {}, "function must be a non-empty name"),
        ("register_persona_from_dict", "f", {"stage": []}, "no field 'stage'"),
    ],
)
def test_a_registration_that_cannot_be_right_is_refused(method, function, given, message):
    """What is no definition, no mapping of known keys or no name is a DefinitionError, and nothing is registered."""
    host = StepHost()
    with pytest.raises(sw.DefinitionError, match=message):
        getattr(host, method)(function, given)
    assert not host.is_tracked(function)


@pytest.mark.parametrize(("depth", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)])
def test_a_depth_is_a_number_of_frames(host, depth, error):
    """A depth that is no number of frames is refused, and nothing is pushed or pruned."""
    for call in (host.prune_below_frame, lambda depth: host.push_step("plain", depth)):
        with pytest.raises(error, match="depth must be"):
            call(depth)
    assert host.active_step() is None
