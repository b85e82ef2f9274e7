"""Stages: what a persona allows its steps, met with everything around and with the step's own ceiling."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw


def in_force():
    """Return the policy in force as its tools and the name of its level."""
    policy = sw.current_policy()
    tools = None if policy.tools is None else sorted(policy.tools)
    return tools, None if policy.side_effect_level is None else policy.side_effect_level.name


@sw.step
def plan():
    """Be a step that tells what is in force."""
    return in_force()


def persona(name="captain", **kwargs):
    """Return a persona that calls *plan*."""
    return sw.persona(name=name, **kwargs)(lambda: plan())


def receipt_of(run, name):
    """Return the newest receipt of this name."""
    return [one for one in run.receipts if one.name == name][-1]


NAMES = st.none() | st.frozensets(st.sampled_from(["a", "b", "c"]), max_size=3)
LEVELS = st.none() | st.sampled_from([level.name.lower() for level in sw.SideEffect])
CEILINGS = st.tuples(NAMES, LEVELS)


@given(CEILINGS, CEILINGS, CEILINGS, CEILINGS)
def test_all_four_ceilings_meet(run, captain, stage, own):
    """In a staged step, the policy in force is the run's, the persona's, the stage's and the step's own, all met."""
    if captain[0] is not None:
        stage = (None if stage[0] is None else stage[0] & captain[0], stage[1])
    step = sw.step("work", tools=own[0], side_effect_level=own[1])
    declared = [sw.Stage("work", *stage)]
    met = sw.Policy(*run)
    for one in (captain, stage, own):
        met &= sw.Policy(*one)
    with sw.Run(policy=sw.Policy(*run)):
        with sw.persona("captain", tools=captain[0], side_effect_level=captain[1], stages=declared):
            assert sw.current_policy() == sw.Policy(*run) & sw.Policy(*captain)
            with step as scope:
                assert sw.current_policy() == scope.policy == met
            assert sw.current_policy() == sw.Policy(*run) & sw.Policy(*captain)


def test_a_stage_holds_in_its_step_only():
    """A stage limits the step that it names, nothing beside it, and nothing after it."""
    staged = persona(stages=[sw.Stage("plan", ["read"], "read_only")])
    with sw.Run() as run:
        assert staged() == (["read"], "READ_ONLY")
        assert plan() == (None, None)
        with sw.persona("captain", stages=[sw.Stage("plan", [])]), sw.step("other"):
            assert in_force() == (None, None)
            assert plan() == ([], None)
            assert in_force() == (None, None)
    assert [one.stage for one in run.receipts if one.name == "plan"] == ["plan", None, "plan"]


def test_a_stage_is_named_by_the_step_or_its_decorated_function():
    """A stage takes the step's declared name or the function, not the function's name where that differs."""

    @sw.step(name="research")
    def research_step():
        return in_force()

    with sw.Run():
        for stage, tools in (("research", []), (research_step, []), ("research_step", None)):
            with sw.persona("captain", stages=[sw.Stage(stage, [])]):
                assert research_step() == (tools, None)


def test_a_stage_never_widens_a_narrower_parent():
    """A stage that allows more than the run around the persona still allows no more than that run."""
    with sw.Run(policy=sw.Policy(["read"], "read_only")):
        assert persona(stages=[sw.Stage("plan", ["read", "edit"], "network")])() == (["read"], "READ_ONLY")


def test_disjoint_tools_allow_nothing():
    """A stage and a step with no tool in common allow none, and no tool runs there."""

    @sw.tool(side_effect="none")
    def read():
        raise AssertionError("it ran")

    @sw.step(tools=["read"])
    def work():
        read()

    with (
        sw.Run(),
        sw.persona("captain", stages=[sw.Stage(work, ["edit"])]),
        pytest.raises(sw.ToolDeniedError) as caught,
    ):
        work()
    assert caught.value.policy.tools == frozenset()


def test_a_step_without_stage_has_its_personas_ceiling():
    """A step that no stage names stays under the persona's own tools and level."""
    assert persona(tools=["read", "ci"], side_effect_level="none")() == (["ci", "read"], "NONE")


def test_nested_personas_meet_and_the_innermost_stages_count():
    """Under a persona inside a persona, both ceilings hold, and only the inner persona's stages are looked at."""
    inner = persona("inner", tools=["read", "edit"], stages=[sw.Stage("plan", ["edit"])])
    with sw.Run() as run:
        with sw.persona("outer", tools=["edit", "ci"], stages=[sw.Stage("plan", [], "none")]):
            assert inner() == (["edit"], None)
        assert inner() == (["edit"], None)
    assert receipt_of(run, "outer").warnings != ()
    assert receipt_of(run, "inner").warnings == ()


def test_a_stage_around_a_nested_persona_holds_inside_it():
    """What a stage forbids its step stays forbidden in a persona that the step calls."""
    inner = persona("inner", tools=["read", "edit"])
    with sw.Run(), sw.persona("outer", stages=[sw.Stage("delegate", ["read"])]), sw.step("delegate"):
        assert inner() == (["read"], None)


def test_steps_inside_a_staged_step_stay_under_it():
    """A step called by a staged step has at most what that one has, and its own stage as well."""
    stages = [sw.Stage("outer", ["a", "b"]), sw.Stage("plan", ["b", "c"])]
    with sw.Run(), sw.persona("captain", stages=stages), sw.step("outer"), sw.step("between"):
        assert in_force() == (["a", "b"], None)
        assert plan() == (["b"], None)


def test_a_run_inside_a_staged_step_meets_its_policy():
    """A run opened inside a step is under the step's policy and adds its own."""
    with sw.Run(), sw.persona("captain", stages=[sw.Stage("work", ["a", "b"])]), sw.step("work"):
        with sw.Run(policy=sw.Policy(["b", "c"], "none")):
            assert in_force() == (["b"], "NONE")
            with sw.step("inside"):
                assert in_force() == (["b"], "NONE")


def test_the_same_step_meets_each_persona_anew():
    """A step called in turn under different personas and runs never keeps the policy of an earlier one."""
    narrow = persona("narrow", stages=[sw.Stage("plan", [])])
    wide = persona("wide", stages=[sw.Stage("plan", ["a"])])
    for _ in range(2):
        with sw.Run(policy=sw.Policy(["a", "b"])):
            assert narrow() == ([], None)
            assert wide() == (["a"], None)
            assert plan() == (["a", "b"], None)
        assert plan() == (None, None)


def test_stages_hold_in_every_shape_of_step():
    """Coroutines, generators and blocks in one persona, in parallel too, have each its own stage."""

    @sw.step
    async def a():
        await asyncio.sleep(0)
        return in_force()

    @sw.step
    async def b():
        yield in_force()
        await asyncio.sleep(0)
        yield in_force()

    @sw.persona(stages=[sw.Stage(a, ["a"]), sw.Stage(b, ["b"])])
    async def captain():
        async def all_of_b():
            return [item async for item in b()]

        return await asyncio.gather(a(), all_of_b(), a())

    with sw.Run():
        assert asyncio.run(captain()) == [(["a"], None), [(["b"], None)] * 2, (["a"], None)]


def test_a_stage_that_matched_no_step_is_a_warning_on_the_personas_receipt():
    """A stage whose step never ran is named on the receipt; one whose step was denied or failed did match."""
    gate = sw.Hooks()
    gate.on("PreStep", step="denied")(lambda event: sw.Deny("no"))
    stages = [sw.Stage(name) for name in ("plan", "denied", "failed", "pla", "never")]
    with sw.Run(hooks=gate) as run, pytest.raises(ZeroDivisionError), sw.persona("captain", stages=stages):
        plan()
        with pytest.raises(sw.HookDeniedError):
            sw.step(name="denied")(plan)()
        with sw.step("failed"):
            raise ZeroDivisionError
    warnings = receipt_of(run, "captain").warnings
    assert len(warnings) == 2
    assert "'pla'" in warnings[0] or "`pla`" in warnings[0]
    assert "never" in warnings[1]


def test_a_step_outside_the_persona_does_not_match_its_stage():
    """A step of the same name before, after or in another persona leaves the stage unmatched."""
    with sw.Run() as run:
        plan()
        with sw.persona("captain", stages=[sw.Stage(plan)]), sw.persona("other"):
            plan()
        plan()
    assert len(receipt_of(run, "captain").warnings) == 1
    assert receipt_of(run, "other").warnings == ()


def test_the_policy_is_fixed_when_the_scope_opens():
    """A task that outlives its step stays under the policy that the step had."""

    @sw.tool(side_effect="none")
    def read():
        raise AssertionError("it ran")

    async def later(gate):
        await gate.wait()
        with pytest.raises(sw.ToolDeniedError):
            read()
        return in_force()

    async def main():
        gate = asyncio.Event()
        with sw.step("closed", tools=["edit"]):
            task = asyncio.create_task(later(gate))
            await asyncio.sleep(0)
        gate.set()
        return await task

    with sw.Run():
        assert asyncio.run(main()) == (["edit"], None)
