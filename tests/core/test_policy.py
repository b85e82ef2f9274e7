"""Policies in effect: what a tool meets under any combination of ceilings, and that nothing can widen them."""

import copy
import itertools
import pickle
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

LEVELS = [level.name.lower() for level in sw.SideEffect]
TOOL_NAMES = ["git", "git_push", "git_pull", "github", "ci", "c", "*odd"]


def make_tool(name, level):
    """Return a tool of this name and side effect."""
    return sw.tool(name=name, side_effect=level)(lambda: "ran")


TOOLS = {(name, level): make_tool(name, level) for name in TOOL_NAMES for level in LEVELS}
PATTERNS = st.sampled_from(["git", "git_push", "git*", "git_*", "github", "g*", "ci", "c*", "*", "nothing", "x*"])
CEILINGS = st.none() | st.lists(PATTERNS, max_size=4)
POLICIES = st.builds(sw.Policy, CEILINGS, st.none() | st.sampled_from(LEVELS))


def effect():
    """Return which tools run in this context, by calling each."""
    through = set()
    for key, tool in TOOLS.items():
        try:
            assert tool() == "ran"
        except sw.ToolDeniedError:
            continue
        else:
            through.add(key)
    return through


def allowed_by(policy):
    """Return which tools run under a run with this policy alone."""
    with sw.Run(policy=policy):
        return effect()


def matches(pattern, name):
    """Tell what a pattern means, spelled out."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


@given(POLICIES)
def test_a_policy_allows_what_its_words_say(policy):
    """None is no ceiling, a name is itself, `prefix*` is what begins so, and a level allows all up to it."""
    ceiling = sw.SideEffect.NETWORK if policy.side_effect_level is None else policy.side_effect_level
    assert allowed_by(policy) == {
        (name, level)
        for name, level in TOOLS
        if (policy.tools is None or any(matches(pattern, name) for pattern in policy.tools))
        and sw.SideEffect[level.upper()] <= ceiling
    }


@given(POLICIES, POLICIES, POLICIES)
def test_meeting_is_the_intersection_of_effects(a, b, c):
    """In effect `&` is idempotent, commutative, associative, and exactly what both sides allow, so never wider."""
    effects = [allowed_by(policy) for policy in (a, b, c)]
    assert allowed_by(a & a) == effects[0]
    assert allowed_by(a & b) == allowed_by(b & a) == effects[0] & effects[1]
    assert allowed_by((a & b) & c) == allowed_by(a & (b & c)) == set.intersection(*effects)


@given(POLICIES, POLICIES)
def test_meeting_keeps_every_axis(a, b):
    """On each axis alone the meeting is at most either side: never fewer ceilings, never a higher level."""
    met = a & b
    assert (met.tools is None) == (a.tools is None and b.tools is None)
    levels = [one.side_effect_level for one in (a, b) if one.side_effect_level is not None]
    assert met.side_effect_level == (min(levels) if levels else None)


@given(st.lists(POLICIES, min_size=1, max_size=4))
def test_runs_personas_and_steps_meet_in_any_nesting(policies):
    """Whichever scopes declare the ceilings, what is in force inside them all is the meeting of all."""
    outer, *inner = policies
    met = outer
    with ExitStack() as scopes:
        scopes.enter_context(sw.Run(policy=outer))
        for kind, policy in zip(itertools.cycle([sw.persona, sw.step]), inner, strict=False):
            met &= policy
            scopes.enter_context(kind("x", tools=policy.tools, side_effect_level=policy.side_effect_level))
        inside = effect()
    assert inside == set.intersection(*(allowed_by(policy) for policy in policies)) == allowed_by(met)


@pytest.mark.parametrize(
    ("one", "other", "met"),
    [
        (["git*"], ["git_*"], ["git_*"]), (["git_*"], ["github*"], []), (["*"], ["git*"], ["git*"]),
        (["*"], ["*"], ["*"]), (["git*"], ["git"], ["git"]), (["git*"], ["ci"], []), ([], ["*"], []), (["a", "b"], ["b", "c"], ["b"]),
        (["git*", "ci"], ["git_*", "c*"], ["git_*", "ci"]), (["git"], ["Git"], []),
    ],
)  # fmt: skip
def test_of_two_globs_the_narrower_stays_or_both_drop_out(one, other, met):
    """Two patterns meet in the narrower, a name under a pattern stays, and what shares nothing allows nothing."""
    assert (sw.Policy(one) & sw.Policy(other)).tools == frozenset(met)
    assert (sw.Policy(other) & sw.Policy(one)).tools == frozenset(met)


def test_nothing_open_allows_everything():
    """Outside every scope the policy is `Policy()`, which has no ceiling and refuses nothing."""
    assert sw.current_policy() == sw.Policy() == sw.Policy(None, None)
    assert effect() == set(TOOLS)


def test_the_empty_set_denies_everything():
    """An empty collection is a ceiling that allows no tool at all, not even one without effects."""
    assert allowed_by(sw.Policy([])) == allowed_by(sw.Policy(set(), "network")) == set()


def test_a_policy_has_no_operator_that_widens():
    """`|`, `+`, `-`, `^` and `~` do not exist, what is no policy cannot be met, and fields cannot be set."""
    a, b = sw.Policy(["a"]), sw.Policy(["b"])
    for widen in (lambda: a | b, lambda: a + b, lambda: a - b, lambda: a ^ b, lambda: ~a, lambda: a & None):
        with pytest.raises(TypeError):
            widen()
    for field in ("tools", "side_effect_level"):
        with pytest.raises(AttributeError):
            setattr(a, field, None)
    assert isinstance(a.tools, frozenset)


def test_a_list_changed_afterwards_changes_no_policy():
    """A policy, stage, step or persona keeps the tools that it was given, whatever becomes of the list."""
    tools = ["git"]
    policy, stage, step = sw.Policy(tools), sw.Stage("plan", tools), sw.step("plan", tools=tools)
    tools.append("ci")
    with step as scope:
        assert scope.policy == policy == sw.Policy(["git"])
    assert stage.allowed_tools == {"git"}


@given(POLICIES)
def test_policies_are_values(policy):
    """Policies compare and hash by what they say, and survive copying and pickling."""
    for twin in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy)), copy.copy(policy)):  # noqa: S301
        assert (twin, hash(twin)) == (policy, hash(policy))


@pytest.mark.parametrize("level", ["", "NETWORK", "Network", "write", "unknown", 4, True, 2.0, ["none"], " none "])
def test_an_unknown_level_is_refused_everywhere(level):
    """An unknown side-effect level is a DefinitionError in policies, stages, steps, personas and tools."""
    for declare in (
        lambda: sw.Policy(None, level),
        lambda: sw.Stage("plan", None, level),
        lambda: sw.step(side_effect_level=level),
        lambda: sw.persona(side_effect_level=level),
        lambda: sw.tool(side_effect=level),
    ):
        with pytest.raises(sw.DefinitionError):
            declare()


def test_levels_are_ordered_and_named():
    """Levels rise from none to network, and each is given as itself or by its name in lower case."""
    assert sorted(sw.SideEffect) == [getattr(sw.SideEffect, name.upper()) for name in LEVELS]
    assert [sw.Policy(None, name).side_effect_level for name in LEVELS] == list(sw.SideEffect)
