"""Declarations: what cannot be right is refused where it is declared, with the name of the field."""

import contextlib
import copy
import dataclasses
import math
import pickle
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stepwarden as sw

HUGE = 10**400  # an int that no float can hold
NO_STRINGS = (5, True, b"gpt", ["gpt"], 1.5)
BAD_NAMES = ("", " ", "\t\n", 5, b"plan", ["plan"], True, "half a pair \ud83d")
BAD_BUDGETS = (5, True, "100", [100], ("max_tokens", 5))
BAD_TOOLS = (
    "github", "", b"github", 5, True, {"github": True}, [5], [None], [b"github"], ["github", 5], [["github"]], [""],
    [" "], ["a*b"], ["*b"], ["**"], ["a**"],
)  # fmt: skip
BAD_LEVELS = (
    "", " ", "readonly", "write", "READ ONLY", "read_only ", 0, 1, 99, True, 1.0, ["none"], b"none",
    "proce\N{LATIN SMALL LETTER SHARP S}_exec", "workspace_wr\N{LATIN SMALL LETTER DOTLESS I}te",
)  # fmt: skip
BAD_BOUNDARIES = ("", "ignore", "Continue", "continue ", "raise", None, True, 1, ["fail"], {"fail": 1}, b"fail")
BAD_OUTPUTS = (0, -1, True, False, 512.0, "512", Decimal(512), math.nan, math.inf, [512])

STEP_FIELDS = {
    "model": NO_STRINGS,
    "budget": BAD_BUDGETS,
    "error_boundary": BAD_BOUNDARIES,
    "tools": BAD_TOOLS,
    "side_effect_level": BAD_LEVELS,
    "default_max_output_tokens": BAD_OUTPUTS,
}
PERSONA_FIELDS = {
    "model": NO_STRINGS,
    "budget": BAD_BUDGETS,
    "tools": BAD_TOOLS,
    "side_effect_level": BAD_LEVELS,
    "stages": (5, True, "plan", b"plan", {"name": "plan"}, ["plan"], [5], [None], sw.Stage("plan"), [["plan"]]),
}


def cases(fields: dict[str, tuple[object, ...]]) -> list[object]:
    """Lay out every bad value of every field as one parameter set."""
    return [
        pytest.param(field, value, id=f"{field}-{number}")
        for field, values in fields.items()
        for number, value in enumerate(values)
    ]


def answer() -> int:
    """Be the function that is decorated."""
    return 42


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals(places=3)
    | st.text(max_size=12)
    | st.binary(max_size=3)
    | st.sampled_from(["fail", "continue", "none", "network", "max_tokens", "a*", HUGE, -HUGE, 1e308, 5e-324])
    | st.sampled_from([*sw.SideEffect, *sw.ErrorBoundary, sw.Budget(max_calls=1), sw.Stage("plan"), len, object()]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.sets(st.text(max_size=3), max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["max_tokens", "max_usd", "name"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize(("field", "value"), cases(STEP_FIELDS))
def test_a_bad_step_field_is_named_at_the_declaration(field, value):
    """A step's field that cannot be right is a DefinitionError that names the field, by every way to declare it."""
    ways = (
        lambda: sw.step(**{field: value}),
        lambda: sw.step(name="plan", **{field: value}),
        lambda: sw.step("plan", **{field: value}),
        lambda: sw.StepDefinition("plan", **{field: value}),
        lambda: sw.step_from_dict(answer, {field: value}),
        lambda: dataclasses.replace(sw.StepDefinition("plan"), **{field: value}),
    )
    for way in ways:
        with pytest.raises(sw.DefinitionError, match=field):
            way()


@pytest.mark.parametrize(("field", "value"), cases(PERSONA_FIELDS))
def test_a_bad_persona_field_is_named_at_the_declaration(field, value):
    """A persona's field that cannot be right is a DefinitionError that names the field, by every way to declare it."""
    ways = (
        lambda: sw.persona(**{field: value}),
        lambda: sw.persona("triage", **{field: value}),
        lambda: sw.PersonaDefinition("triage", **{field: value}),
        lambda: sw.persona_from_dict(answer, {field: value}),
        lambda: dataclasses.replace(sw.PersonaDefinition("triage"), **{field: value}),
    )
    for way in ways:
        with pytest.raises(sw.DefinitionError, match=field):
            way()


@pytest.mark.parametrize("value", BAD_NAMES)
def test_a_bad_name_is_refused_everywhere(value):
    """A name that is empty, blank or no string is a DefinitionError that says so, wherever a name is declared."""
    ways = [
        lambda: sw.step(name=value),
        lambda: sw.persona(name=value),
        lambda: sw.tool(name=value),
        lambda: sw.StepDefinition(value),
        lambda: sw.StepDefinition("plan", function=value),
        lambda: sw.PersonaDefinition(value),
        lambda: sw.Stage(value),
        lambda: sw.step_from_dict(answer, {"name": value}),
        lambda: sw.persona_from_dict(answer, {"name": value}),
        lambda: sw.persona_from_dict(answer, {"stages": [{"name": value}]}),
    ]
    if isinstance(value, str):
        ways += [lambda: sw.step(value), lambda: sw.persona(value), lambda: sw.tool(value)]
    for way in ways:
        with pytest.raises(sw.DefinitionError, match=r"name|stage\.step|step\.function"):
            way()


@pytest.mark.parametrize("value", [*BAD_LEVELS, None])
def test_a_tool_with_an_unknown_side_effect_is_refused(value):
    """A tool's side effect is one of the five levels, and anything else is a DefinitionError that names it."""
    with pytest.raises(sw.DefinitionError, match="side_effect"):
        sw.tool(side_effect=value)


@pytest.mark.parametrize("field", ["allowed_tools", "side_effect_level"])
def test_a_bad_stage_field_is_named_with_the_stage(field):
    """A stage's field that cannot be right is a DefinitionError that names the stage's step and the field."""
    for value in BAD_TOOLS if field == "allowed_tools" else BAD_LEVELS:
        with pytest.raises(sw.DefinitionError, match=rf"plan.*{field}"):
            sw.Stage("plan", **{field: value})


@pytest.mark.parametrize("field", ["tools", "side_effect_level"])
def test_a_bad_policy_field_is_named(field):
    """A policy's field that cannot be right is a DefinitionError that names the field."""
    for value in BAD_TOOLS if field == "tools" else BAD_LEVELS:
        with pytest.raises(sw.DefinitionError, match=field):
            sw.Policy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    cases(
        {
            "budget": BAD_BUDGETS,
            "policy": (5, "none", {"tools": []}, []),
            "hooks": (5, [], len),
            "prices": (5, [], "free", {"m": 5}, {"m": {"input": -1}}, {"m": {"inptu": 1}}, {"m": {"input": math.nan}}),
            "default_max_output_tokens": BAD_OUTPUTS,
            "max_receipts": (-1, True, 1.0, "5", None, math.nan),
            "name": BAD_NAMES,
        }
    ),
)
def test_a_bad_argument_of_a_run_is_named_as_the_runs(field, value):
    """A run's argument that cannot be right is a DefinitionError that names it, and does not talk of a step."""
    with pytest.raises(sw.DefinitionError, match=field) as caught:
        sw.Run(**{field: value})
    assert "step." not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    cases(
        {
            "max_wait": (-1, True, "5", None, math.nan, math.inf, HUGE),
            "unscoped_calls": ("", "ignore", None, True, ["warn"]),
            "prices": (None, 5, {"m": 5}),
            "ledger": (None, "x.db", sw.MemoryLedger),
            "clock": (None, 5, len),
        }
    ),
)
def test_a_bad_setting_is_named_and_changes_nothing(field, value):
    """A setting that cannot be right is a DefinitionError that names it, and no setting given beside it is changed."""
    others = {} if field == "unscoped_calls" else {"unscoped_calls": "refuse"}
    with pytest.raises(sw.DefinitionError, match=field):
        sw.configure(**others, **{field: value})
    sw.record_usage(input_tokens=1)  # outside every run: refused, had the other setting been taken over


def test_two_stages_for_one_step_are_refused():
    """Two stages for the same step, by name or by function, are a DefinitionError that names the step."""
    step = sw.step(name="merge")(answer)
    for stages in ([sw.Stage("merge"), sw.Stage("merge", ["git"])], [sw.Stage("merge"), sw.Stage(step)]):
        with pytest.raises(sw.DefinitionError, match=r"stages.*merge"):
            sw.persona(stages=stages)


def test_a_stage_is_given_by_the_name_its_step_declares():
    """A stage takes a decorated step, bound or not, for the step's declared name, and nothing else that is callable."""

    class Agent:
        @sw.step(name="merge")
        def method(self): ...

        @classmethod
        @sw.step(name="merge")
        def of_class(cls): ...

    assert {sw.Stage(step).step for step in (Agent.method, Agent().method, Agent.of_class)} == {"merge"}
    for other in (answer, sw.persona(answer), sw.tool(answer), Agent, lambda: 1):
        with pytest.raises(sw.DefinitionError, match=r"stage\.step"):
            sw.Stage(other)


@pytest.mark.parametrize(
    ("ceiling", "allowed", "fits"),
    [
        (None, ["anything*"], True),
        ([], [], True),
        ([], ["git"], False),
        (["git"], ["git"], True),
        (["git"], ["git*"], False),
        (["git*"], ["git", "github", "git*", "github*"], True),
        (["git*"], ["gi*"], False),
        (["git*"], ["git", "ci"], False),
        (["*"], ["git*", "ci", "*"], True),
        (["a*", "b"], ["ab", "b"], True),
        (["a*", "b"], ["b*"], False),
        (["git"], ["GIT"], False),
        (["git"], None, True),
    ],
)
def test_a_stage_may_only_allow_what_its_persona_allows(ceiling, allowed, fits):
    """A stage tool outside its persona's own tools is a DefinitionError that names the stage and the field."""
    stages = [sw.Stage("merge", allowed_tools=allowed)]
    if fits:
        sw.persona(tools=ceiling, stages=stages)
        return
    with pytest.raises(sw.DefinitionError, match=r"merge.*allowed_tools"):
        sw.persona(tools=ceiling, stages=stages)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: sw.step(fallback=0),
        lambda: sw.step("plan", fallback=0),
        lambda: sw.step_from_dict(lambda: None, {"fallback": 0}),
    ],
    ids=["decorator", "block", "mapping"],
)
def test_a_fallback_needs_a_boundary(declare):
    """A fallback without an error boundary, which nothing would ever return, is an error that says what to give."""
    with pytest.raises(sw.DefinitionError, match=r"step\.fallback is 0, .*error_boundary='continue'"):
        declare()


@pytest.mark.parametrize("boundary", [*sw.ErrorBoundary])
def test_a_fallback_may_stay_where_the_boundary_is_named(boundary):
    """A boundary that is named may be any: a fallback stays beside it, so that settings can switch the boundary alone."""
    assert sw.step(name="plan", error_boundary=boundary, fallback=0)(lambda: None).definition.fallback == 0
    assert sw.step_from_dict(lambda: None, {"error_boundary": boundary, "fallback": 0}).definition.fallback == 0


@pytest.mark.parametrize("iterable", [list, tuple, set, frozenset])
def test_tools_are_read_from_every_plain_collection(iterable):
    """Tools are taken from a list, tuple, set or frozenset, and kept as a frozenset; an empty one stays empty."""
    assert sw.StepDefinition("plan", tools=iterable(["git", "ci*"])).tools == frozenset({"git", "ci*"})
    assert sw.StepDefinition("plan", tools=iterable([])).tools == frozenset()
    assert sw.StepDefinition("plan").tools is None


def test_stages_from_an_iterator_serve_every_function_of_one_declaration():
    """Stages given as an iterator are read once, and every function that the declaration decorates has them all."""
    declare = sw.persona(stages=iter([sw.Stage("plan"), sw.Stage("merge")]))
    definitions = [declare(lambda: None).definition for _ in range(2)]
    assert [[stage.step for stage in one.stages] for one in definitions] == [["plan", "merge"]] * 2


@given(field=st.sampled_from([*STEP_FIELDS, "name", "function"]), value=ANYTHING)
@example(field="budget", value={"max_seconds": HUGE})
@example(field="budget", value={"max_tokens": HUGE})
@example(field="error_boundary", value=[[]])
def test_any_value_of_a_step_field_is_taken_or_refused_by_name(field, value):
    """Whatever is given for a step's field, it is accepted, or is a DefinitionError that names it."""
    definition, refusal = None, ""
    try:
        definition = sw.StepDefinition(**{"name": "plan", field: value})
    except sw.DefinitionError as error:
        refusal = str(error)
    assert definition is not None or field in refusal
    if definition is not None:
        assert dataclasses.replace(definition) == definition
        assert hash(dataclasses.replace(definition)) == hash(definition)


@given(value=ANYTHING)
def test_any_value_of_a_stage_or_policy_is_taken_or_refused(value):
    """Whatever is given for the tools or the level of a stage or policy, it is accepted or is a DefinitionError."""
    for declare in (
        lambda: sw.Stage("plan", allowed_tools=value),
        lambda: sw.Stage("plan", side_effect_level=value),
        lambda: sw.Policy(tools=value),
        lambda: sw.Policy(side_effect_level=value),
        lambda: sw.PersonaDefinition("triage", stages=value),
    ):
        with contextlib.suppress(sw.DefinitionError):
            declare()


@pytest.mark.parametrize("percent", [0, -1, True, "80", None, math.nan, math.inf, pytest.param(HUGE, id="huge")])
def test_a_threshold_is_a_positive_finite_number(percent):
    """A threshold that is not a positive finite number is a DefinitionError that says so."""
    with pytest.raises(sw.DefinitionError, match="threshold"):
        sw.BudgetThreshold(percent)


def test_an_unknown_argument_is_a_type_error_that_names_it():
    """A keyword that no declaration knows is a TypeError that names it."""
    for declare in (sw.step, sw.persona, sw.tool, sw.Budget, sw.Run, sw.configure):
        with pytest.raises(TypeError, match="modle"):
            declare(modle="openai:gpt-5")


def test_an_empty_model_counts_as_not_declared():
    """An empty string as the model counts as none declared, so the enclosing one's stays in force."""
    assert sw.StepDefinition("plan", model="").model is None
    with sw.persona("triage", model="openai:gpt-5"), sw.step("plan", model=""):
        assert sw.default_model() == "openai:gpt-5"


DEFINITIONS = [
    sw.Stage("plan", ["git*", "ci"], "read_only"),
    sw.Policy(["git*"], sw.SideEffect.PROCESS_EXEC),
    sw.StepDefinition("plan", "do_plan", "m", sw.Budget(max_usd="0.10"), "continue", "later", ["git"], "none", 64),
    sw.PersonaDefinition("triage", "do_triage", "m", sw.Budget(max_calls=2), ["git"], "network", [sw.Stage("plan")]),
    sw.tool(side_effect="process_exec")(answer).definition,
]


@pytest.mark.parametrize("value", DEFINITIONS, ids=lambda value: type(value).__name__)
def test_definitions_are_values(value):
    """A declaration is frozen, equal and hashed by its fields, and survives copying, pickling and replacing."""
    thawed = pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes
    for twin in (copy.copy(value), copy.deepcopy(value), thawed, dataclasses.replace(value)):
        assert twin == value
        assert hash(twin) == hash(value)
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(value, field.name)
    with pytest.raises((AttributeError, TypeError)):
        value.anything_else = 1


def test_a_definition_with_an_unhashable_fallback_has_a_hash():
    """A step whose fallback is a list or dict can still be used as a key, and is equal by its fallback."""
    one, other = sw.StepDefinition("plan", fallback=[1]), sw.StepDefinition("plan", fallback=[2])
    assert hash(one) == hash(other)
    assert one != other
