"""Policies only narrow: the algebra of `&`, over whatever names and levels there may be."""

import string
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

NAMES = st.text("ab_", min_size=1, max_size=4)
PATTERNS = NAMES | NAMES.map(lambda name: name + "*") | st.just("*")
POLICIES = st.builds(
    sw.Policy,
    st.none() | st.frozensets(PATTERNS, max_size=4),
    st.none() | st.sampled_from(list(sw.SideEffect)),
)
EVERY_NAME = ["a", "b", "_", "ab", "ba", "aa", "a_b", "abab", "b_a", "bbb", "aab", "____", "other"]


def allowed(policy):
    """Return everything that a policy allows, over many names and every level."""
    return {(name, level) for name in EVERY_NAME for level in sw.SideEffect if policy.refusal(name, level) is None}


@given(POLICIES, POLICIES)
def test_both_allow_what_the_meeting_allows(one, other):
    """`a & b` allows exactly what both allow, so never more than either."""
    assert allowed(one & other) == allowed(one) & allowed(other)


@given(POLICIES)
def test_meeting_itself_changes_nothing(policy):
    """`a & a` has the effect of `a`."""
    assert allowed(policy & policy) == allowed(policy)


@given(POLICIES, POLICIES, POLICIES)
def test_the_order_of_meeting_does_not_matter(one, two, three):
    """`&` is commutative and associative in effect."""
    assert allowed(one & two) == allowed(two & one)
    assert allowed((one & two) & three) == allowed(one & (two & three))


@given(POLICIES)
def test_meeting_the_unrestricted_changes_nothing(policy):
    """`Policy()` is the neutral element, and an empty set allows nothing at all."""
    assert allowed(policy & sw.Policy()) == allowed(policy)
    assert allowed(policy & sw.Policy(tools=[])) == set()


@given(st.lists(POLICIES, min_size=1, max_size=5))
def test_nested_scopes_never_widen(policies):
    """Whatever runs are opened inside one another, each allows only what the one around it allows."""
    with ExitStack() as stack:
        around = allowed(sw.Policy())
        for policy in policies:
            run = stack.enter_context(sw.Run(policy=policy))
            assert sw.current_policy() == run.policy
            inside = allowed(run.policy)
            assert inside == around & allowed(policy)
            around = inside


@pytest.mark.parametrize("one", ["git*", "github", "g*", "slack"])
@pytest.mark.parametrize("other", ["git*", "github", "g*", "slack"])
def test_of_two_patterns_the_narrower_is_kept_or_nothing(one, other):
    """Two patterns meet in the narrower of them, or in nothing where neither holds the other."""
    meeting = (sw.Policy(tools=[one]) & sw.Policy(tools=[other])).tools
    narrower = {
        name
        for name in (one, other)
        if all(name == by or (by.endswith("*") and name.startswith(by[:-1])) for by in (one, other))
    }
    assert meeting == frozenset(narrower)


@given(st.text(string.printable, min_size=1, max_size=6))
def test_a_star_belongs_at_the_end(name):
    """A pattern with a star before its end is refused, and so is a blank name."""
    if name.strip() and "*" not in name[:-1]:
        assert sw.Policy(tools=[name]).tools == frozenset({name})
    else:
        with pytest.raises(sw.DefinitionError, match=r"tools"):
            sw.Policy(tools=[name])
