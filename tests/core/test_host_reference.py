"""The reference's own unit tests, told again of `StepHost`, with the differences that the design names."""

import pytest

import stepwarden as sw
from stepwarden.host import StepHost

PLAN = {
    "name": "plan",
    "model": "claude-haiku-4-5",
    "error_boundary": "continue",
    "budget": {"max_tokens": 100, "max_usd": 0.05},
}


def test_a_step_is_registered_from_a_mapping_pushed_spent_in_and_pruned():
    """A registered step has its depth, its model and its own usage, trips when it is passed, and is pruned as completed."""
    with StepHost() as host:
        host.register_step_from_dict("plan_step", PLAN)
        assert host.push_step("plan_step", 3, ())
        assert host.active_step_frame_depth() == 3
        assert host.active_step().model == sw.default_model() == "claude-haiku-4-5"

        sw.record_usage("claude-haiku-4-5", input_tokens=10, output_tokens=20, cost_usd=0.001)
        own = host.active_step().own
        assert (own.input_tokens, own.output_tokens, float(own.cost_usd)) == (10, 20, 0.001)

        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.record_usage("claude-haiku-4-5", input_tokens=50, output_tokens=50, cost_usd=0.0)
        assert caught.value.as_dict() == {
            "category": "budget_exceeded",
            "kind": "budget_exhausted",
            "reason": "step_budget_exhausted",
            "step": "plan",
            "function": "plan_step",
            "limit": "max_tokens",
            "limit_value": 100,
            "consumed_tokens": 130,
            "consumed_cost_usd": 0.001,
            "error_boundary": "continue",
            "message": "step `plan` exceeded max_tokens budget (130 > 100)",
        }

        host.prune_below_frame(2)
        completed = host.drain_completed_steps()
        assert [step.completed_step() for step in completed] == [
            {
                "name": "plan",
                "function": "plan_step",
                "model": "claude-haiku-4-5",
                "input_tokens": 60,
                "output_tokens": 70,
                "cost_usd": 0.001,
                "llm_calls": 2,
                "status": "completed",
                "error": None,
            }
        ]
        assert host.drain_completed_steps() == ()


def test_an_unregistered_function_is_not_pushed():
    """A function that nobody registered opens nothing, and says so."""
    with StepHost() as host:
        assert not host.push_step("not_a_step", 1, ())
        assert not host.push_persona("not_a_step", 1)
        assert host.active_step_frame_depth() is None


def test_a_function_is_tracked_from_its_registration_to_the_reset():
    """Nothing is tracked at first; a second registration replaces; a reset forgets."""
    host = StepHost()
    assert not host.is_tracked("plan_step")
    host.register_step("plan_step", sw.StepDefinition(name="plan", function="plan_step"))
    assert host.is_tracked("plan_step")
    assert host.step_definition("plan_step").name == "plan"
    host.register_step("plan_step", sw.StepDefinition(name="plan_v2", function="plan_step"))
    assert host.is_tracked("plan_step")
    assert host.step_definition("plan_step").name == "plan_v2"
    host.reset()
    assert not host.is_tracked("plan_step")
    assert host.step_definition("plan_step") is None


def scoped(host, allowed_tools):
    """Register a step, and a persona with a stage for it."""
    host.register_step_from_dict("research_step", {"name": "research"})
    stage = {"name": "research", "allowed_tools": allowed_tools}
    host.register_persona_from_dict("scoped_persona", {"name": "scoped", "stages": [stage]})


def test_a_stage_narrows_the_policy_around_it_and_widens_nothing():
    """What the stage adds to the policy of the run is not allowed."""
    with sw.Run(policy=sw.Policy(tools=["read"])) as run:
        host = StepHost(run)
        scoped(host, ["read", "edit"])
        assert host.push_persona("scoped_persona", 1)
        assert host.push_step("research_step", 2, ())
        assert sw.current_policy() == sw.Policy(tools=["read"])
        host.prune_below_frame(0)
        assert sw.current_policy() == sw.Policy(tools=["read"])
    assert sw.current_policy() == sw.Policy()


def test_the_policy_of_a_stage_holds_exactly_while_its_step_is_open():
    """The persona alone has no ceiling; its stage has one in the step; after it there is none."""
    with StepHost() as host:
        scoped(host, ["read"])
        assert host.push_persona("scoped_persona", 1)
        assert sw.current_policy() == sw.Policy()
        assert host.push_step("research_step", 2, ())
        assert sw.current_policy() == sw.Policy(tools=["read"])
        host.prune_below_frame(0)
        assert sw.current_policy() == sw.Policy()


# Where we differ, on purpose.


@pytest.mark.parametrize(
    ("field", "limit"),
    [("max_tokens", -1), ("max_tokens", 1.5), ("max_tokens", "100"), ("max_tokens", True), ("max_usd", -1),
     ("max_usd", float("nan")), ("max_usd", True)],
)  # fmt: skip
def test_a_bad_limit_is_refused_where_the_reference_drops_it(field, limit):
    """A limit that cannot be right is an error that names its field, and nothing is registered."""
    host = StepHost()
    with pytest.raises(sw.DefinitionError, match=f"budget.{field}"):
        host.register_step_from_dict("plan_step", {"budget": {field: limit}})
    assert not host.is_tracked("plan_step")


def test_a_limit_of_0_is_a_limit():
    """Where the reference reads 0 tokens as no limit, the first token passes it."""
    with StepHost() as host:
        host.register_step_from_dict("plan_step", {"budget": {"max_tokens": 0}})
        host.push_step("plan_step", 1)
        with pytest.raises(sw.BudgetExceededError, match="1 > 0"):
            sw.record_usage(input_tokens=1, cost_usd=0)
        host.prune_below_frame(0)


@pytest.mark.parametrize("mapping", [{"error_boundary": "ignore"}, {"max_iterations": 3}, {"on_exit": "x"}])
def test_what_the_reference_reads_and_forgets_is_refused(mapping):
    """An unknown boundary, and fields that would do nothing, are errors where they are declared."""
    with pytest.raises(sw.DefinitionError):
        StepHost().register_step_from_dict("plan_step", mapping)


def test_an_empty_tool_list_denies_all():
    """Where the reference reads an empty list as no ceiling, no tool is allowed."""
    with StepHost() as host:
        scoped(host, [])
        host.push_persona("scoped_persona", 1)
        host.push_step("research_step", 2)
        assert sw.current_policy() == sw.Policy(tools=[])
        host.prune_below_frame(0)


def test_usage_counts_on_every_step_around():
    """Where the reference counts on the innermost step alone, an outer step's limit holds for what is inside it."""
    with StepHost() as host:
        host.register_step_from_dict("outer", {"budget": {"max_tokens": 10}})
        host.register_step_from_dict("inner", {})
        host.push_step("outer", 1)
        host.push_step("inner", 2)
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.record_usage(input_tokens=11, cost_usd=0)
        assert (caught.value.scope_name, caught.value.function) == ("outer", "outer")
        # And the inner step's boundary leaves alone what is not its own.
        assert host.apply_error_boundary(caught.value, 2).error is caught.value
        assert host.active_step_frame_depth() == 2
        host.prune_below_frame(0)


def test_a_nested_step_has_the_model_around_it():
    """Where the reference has none, a step without a model has that of the step around, else of its persona."""
    with StepHost() as host:
        host.register_persona_from_dict("who", {"model": "of the persona"})
        host.register_step_from_dict("outer", {"model": "of the step"})
        host.register_step_from_dict("inner", {"model": ""})
        host.push_persona("who", 1)
        host.push_step("inner", 2)
        assert host.active_step().model == "of the persona"
        host.prune_below_frame(1)
        host.push_step("outer", 2)
        host.push_step("inner", 3)
        assert host.active_step().model == "of the step"
        host.prune_below_frame(0)
