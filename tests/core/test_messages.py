"""What errors and warnings tell beside what happened: where, and what to do about it."""

import threading
import warnings

import pytest

import stepwarden as sw


@sw.tool(side_effect="workspace_write")
def write_file():
    return "written"


@sw.step
def draft():
    return write_file()


def denial(**contract):
    """Return what a call of the tool in `draft` is refused with inside a persona with this contract."""
    with sw.persona("writer", **contract), pytest.raises(sw.ToolDeniedError) as denied:
        draft()
    return str(denied.value)


@pytest.fixture
def own_ledger():
    """Keep the receipts of implicit runs apart."""
    sw.configure(ledger=sw.MemoryLedger())
    yield
    sw.configure(ledger=sw.MemoryLedger())


@pytest.fixture
def silent():
    """Let calls outside every scope pass."""
    sw.configure(unscoped_calls="pass")
    yield
    sw.configure(unscoped_calls="warn")


def in_bare_thread(function):
    """Return the warnings of a call in a thread that carries no scope."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()
    return caught


def test_a_denied_tool_tells_which_declaration_to_change():
    """The message names the persona, its stage or the step whose ceiling it is, and the field."""
    assert denial(side_effect_level="none").endswith(", by side_effect_level of persona `writer`")
    assert denial(tools=["read_*"]).endswith(", by tools of persona `writer`")
    stage = sw.Stage(draft, side_effect_level="read_only")
    assert denial(stages=[stage]).endswith(", by side_effect_level of the stage for step `draft` in persona `writer`")
    stage = sw.Stage("draft", allowed_tools=[])
    assert denial(stages=[stage]).endswith(", by allowed_tools of the stage for step `draft` in persona `writer`")
    with sw.step("inner", tools=[]), pytest.raises(sw.ToolDeniedError, match=r"by tools of step `inner`$"):
        write_file()
    with sw.persona("writer", stages=[sw.Stage("inner", ["write_file"])]), sw.step("inner", side_effect_level="none"):
        with pytest.raises(sw.ToolDeniedError, match=r"by side_effect_level of step `inner`$"):
            write_file()


def test_a_denied_tool_tells_the_outermost_of_several_ceilings():
    """Where several declarations refuse a tool, the message names the one that has to change first."""
    with sw.Run(policy=sw.Policy(tools=[]), name="night"), sw.step("outer", tools=[]):
        with pytest.raises(sw.ToolDeniedError, match=r"^step `draft` denied: .*, by the policy of run `night`$"):
            draft()


def test_a_budget_error_notes_what_to_do():
    """The note below the message names the limit to raise, and what else there is for that kind of scope."""
    with sw.Run(budget=sw.Budget(max_calls=1), name="night"), pytest.raises(sw.BudgetExceededError) as refused:
        with sw.step("plan", budget=sw.Budget(max_calls=0)) as plan:
            plan_error = pytest.raises(sw.BudgetExceededError, sw.reserve().acquire)
            assert plan.own == sw.Usage()
        sw.record_usage()
        sw.reserve().acquire()
    assert plan_error.value.__notes__ == [
        "to spend more, raise max_calls of step `plan`; to go on without, give it another error_boundary"
    ]
    assert refused.value.__notes__ == [
        "to spend more, raise max_calls of run `night`; to go on without, catch the error"
    ]


def test_a_misspelt_limit_is_named_with_the_one_that_was_meant():
    """`Budget(max_token=5)` is a TypeError, as any unknown argument, and says which field is probably meant."""
    with pytest.raises(TypeError, match=r"Budget has no field 'max_token'; did you mean 'max_tokens'\?"):
        sw.Budget(max_token=5)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("max_cost_usd", "max_usd"), ("max_dollars", "max_usd"), ("max_dolars", "max_usd"), ("budget_usd", "max_usd"),
        ("cost_limit", "max_usd"), ("MAX_USD", "max_usd"), ("tokens", "max_tokens"), ("maxTokens", "max_tokens"),
        ("max_total_tokens", "max_tokens"), ("max_tokns", "max_tokens"), ("max_prompt_tokens", "max_input_tokens"),
        ("max_completion_tokens", "max_output_tokens"), ("max_output", "max_output_tokens"), ("max-calls", "max_calls"),
        ("max_requests", "max_calls"), ("max_model_calls", "max_calls"), ("tools", "max_tool_calls"),
        ("timeout", "max_seconds"), ("time_limit", "max_seconds"), ("max_secs", "max_seconds"),
    ],
)  # fmt: skip
def test_a_limit_by_another_name_is_understood(written, meant):
    """A field that is called by what it means, in other words, is named by its own."""
    with pytest.raises(TypeError, match=rf"Budget has no field '{written}'; did you mean '{meant}'\?"):
        sw.Budget(**{written: 5})


@pytest.mark.parametrize(
    "written",
    [
        "max_turns",
        "min_tokens",
        "max_steps",
        "max_minutes",
        "max_retries",
        "max_usd_per_call",
        "limit",
        "",
        "request_tokens",
    ],
)
def test_a_field_that_means_something_else_is_not_guessed(written):
    """Where no field means what was written, none is suggested, however alike one is spelt."""
    with pytest.raises(TypeError, match=rf"Budget has no field '{written}'\. Known: max_tokens, "):
        sw.Budget(**{written: 5})


def test_other_declarations_are_understood_alike():
    """Settings of steps, stages and prices get the same suggestions as those of budgets."""
    for mapping, meant in (
        ({"boundary": "fail"}, "error_boundary"),
        ({"allowed_tools": []}, "tools"),
        ({"modle": "m"}, "model"),
    ):
        with pytest.raises(sw.DefinitionError, match=f"did you mean '{meant}'"):
            sw.step_from_dict(lambda: None, {"name": "plan", **mapping})
    with pytest.raises(sw.DefinitionError, match=r"step has no field 'max_tokens'\. Known"):
        sw.step_from_dict(lambda: None, {"name": "plan", "max_tokens": 5})
    with pytest.raises(sw.DefinitionError, match="did you mean 'input'"):
        sw.Run(prices={"m": {"input_tokens": 1, "output": 1}})


@pytest.mark.usefixtures("own_ledger")
@pytest.mark.parametrize("kind", [sw.step, sw.persona])
def test_a_scope_that_lost_its_run_warns(kind):
    """A step or persona in a bare thread while a run is open runs, and warns: no limit of that run applies to it."""
    work = kind(name="work")(lambda: sw.record_usage(input_tokens=5))
    with sw.Run(budget=sw.Budget(max_tokens=1), name="night") as run:
        (warning,) = in_bare_thread(work)
        assert in_bare_thread(sw.propagate(lambda: None)) == []
    assert run.total == sw.Usage()
    assert warning.category is sw.UnscopedCallWarning
    assert f"{'step' if kind is sw.step else 'persona'} `work` outside every scope" in str(warning.message)
    assert "run `night` is open" in str(warning.message)
    assert "stepwarden.propagate" in str(warning.message)
    assert [receipt.total.input_tokens for receipt in sw.receipts()] == [5]


@pytest.mark.usefixtures("own_ledger")
def test_nothing_is_lost_where_nobody_has_entered_a_run():
    """Without a run that was entered and is open, a step on its own is what was meant."""
    inner = sw.step(name="inner")(lambda: None)
    outer = sw.step(name="outer")(lambda: in_bare_thread(inner))
    assert outer() == []
    with sw.Run():
        pass
    assert in_bare_thread(inner) == []


@pytest.mark.usefixtures("own_ledger", "silent")
def test_a_lost_scope_is_passed_where_lost_calls_are():
    """`unscoped_calls="pass"` silences the warning of a lost scope too."""
    with sw.Run():
        assert in_bare_thread(sw.step(name="work")(lambda: None)) == []


def test_a_warning_points_at_the_line_that_lost_the_scope():
    """The warning's place is the caller's own line, through blocks, tools and records alike."""

    def lose():
        with sw.step("block"):
            pass
        sw.record_usage()
        with sw.reserve():
            pass
        write_file()

    with sw.Run():
        caught = in_bare_thread(lose)
    first = lose.__code__.co_firstlineno
    assert [(one.filename, one.lineno - first) for one in caught] == [(__file__, line) for line in (1, 3, 4, 6)]


@pytest.mark.parametrize(("model", "cure"), [("our-7b", "or prices="), (None, "; name the model, or give cost_usd")])
def test_an_unpriced_call_tells_what_is_missing(model, cure):
    """A model without a price wants one; a call that names no model wants its name."""
    with sw.Run(budget=sw.Budget(max_usd=1)), pytest.raises(sw.UnpricedModelError) as refused:
        sw.reserve(model=model, input_tokens=1).acquire()
    assert cure in str(refused.value)
