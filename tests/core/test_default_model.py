"""The default model: what the call names, else the innermost step's, else the persona's, else the fallback."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

PRICES = {"gpt": {"input": 1, "output": 2}, "openai:mini": {"input": 3, "output": 4}}


def nested(kinds, inside):
    """Open scopes, given as kind and model, inside one another; return what *inside* returns in the innermost."""
    if not kinds:
        return inside()
    kind, model = kinds[0]
    if kind == "run":
        with sw.Run():
            return nested(kinds[1:], inside)
    with {"step": sw.step, "persona": sw.persona}[kind](kind, model=model):
        return nested(kinds[1:], inside)


MODELS = st.none() | st.just("") | st.sampled_from(["a", "b", "openai:c"])


@given(
    steps=st.lists(st.tuples(st.sampled_from(["step", "run"]), MODELS), max_size=4),
    persona=MODELS,
    fallback=st.none() | st.just("fallback"),
)
def test_innermost_step_then_persona_then_fallback(steps, persona, fallback):
    """The innermost step that declares a model decides, else the persona, else the fallback; empty is undeclared."""
    declared = [model for kind, model in steps if kind == "step" and model]
    wanted = declared[-1] if declared else persona or fallback
    assert nested([("persona", persona), *steps], lambda: sw.default_model(fallback)) == wanted


def test_outside_every_scope_it_is_the_fallback():
    """With nothing open, and in a run alone, there is only the fallback, which is None by default."""
    assert sw.default_model() is None
    assert sw.default_model("mine") == "mine"
    with sw.Run():
        assert (sw.default_model(), sw.default_model("mine")) == (None, "mine")


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_model_is_not_declared(empty):
    """An empty string declares nothing, for steps, personas, calls and the receipt alike."""

    @sw.step(model=empty)
    def plan():
        sw.record_usage(empty, input_tokens=1)
        return sw.default_model("fallback")

    assert sw.definition(plan).model is None
    with sw.Run() as run, sw.persona("captain", model=empty):
        assert plan() == "fallback"
    with sw.Run(), sw.persona("captain", model="theirs"):
        assert plan() == "theirs"
    assert run.receipts[0].model is None


def test_a_nested_persona_is_nearer_than_what_is_around_it():
    """A persona called inside a step brings its own model, or else what the step around it has."""
    with sw.Run(), sw.persona("outer", model="P"), sw.step("delegate", model="S"):
        with sw.persona("inner", model="Q"), sw.step("work"):
            assert sw.default_model() == "Q"
        with sw.persona("inner"), sw.step("work"):
            assert sw.default_model() == "S"
        assert sw.default_model() == "S"


def test_every_shape_of_step_has_its_model_while_its_body_runs():
    """Coroutines, generators and async generators have their model inside, and the consumer its own between."""

    @sw.step(model="g")
    def items():
        yield sw.default_model()
        yield sw.default_model()

    @sw.step(model="a")
    async def items_later():
        yield sw.default_model()

    @sw.step(model="c")
    async def work():
        seen = [sw.default_model()]
        for item in items():
            seen += [item, sw.default_model()]
        async for item in items_later():
            seen += [item, sw.default_model()]
        return seen

    with sw.Run():
        assert asyncio.run(work()) == ["c", "g", "c", "g", "c", "a", "c"]


def test_tasks_and_threads_inherit_it_and_do_not_leak_it():
    """Tasks and `to_thread` see the model of the step that started them, and parallel steps each their own."""

    async def work(model):
        async with sw.step("work", model=model):
            await asyncio.sleep(0)
            return sw.default_model(), await asyncio.to_thread(sw.default_model)

    async def main():
        return await asyncio.gather(*(work(model) for model in ("a", "b", None)))

    with sw.Run(), sw.persona("captain", model="p"):
        assert asyncio.run(main()) == [("a", "a"), ("b", "b"), ("p", "p")]


def test_the_scopes_model_is_the_default_in_force():
    """`current_step().model` and `current_persona().model` tell the default in force in that scope."""
    with sw.Run(), sw.persona("captain", model="p"), sw.step("a"):
        assert (sw.current_step().model, sw.current_persona().model) == ("p", "p")
        with sw.step("b", model="s"):
            assert (sw.current_step().model, sw.current_persona().model) == ("s", "p")


def test_the_receipt_names_the_last_model_used_else_the_declared_one():
    """A receipt's model is the last that a call named, else the one that the step itself declares, else None."""
    with sw.Run() as run, sw.persona("captain", model="p"):
        with sw.step("used", model="declared"):
            sw.record_usage("first")
            sw.record_usage("second")
            sw.record_usage("")
            sw.record_usage()
        with sw.step("declared", model="declared"):
            sw.record_usage()
        with sw.step("neither"):
            pass
    assert [(one.name, one.model) for one in run.receipts] == [
        ("used", "second"), ("declared", "declared"), ("neither", None), ("captain", "p"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("gpt", 3), ("openai:gpt", 3), ("azure:gpt", 3), ("openai:mini", 7),
        ("gpt-2025-08-07", 3), ("openai:gpt-20250807", 3), ("openai:mini-2025-08-07", 7),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["named", "step", "persona"])
def test_a_providers_prefix_and_a_date_are_optional_for_prices(model, dollars, how):
    """A model is priced with its `provider:` prefix and its version's date or without, whoever names it."""
    named = model if how == "named" else None
    around = sw.persona("captain", model=model if how == "persona" else None)
    with sw.Run(prices=PRICES) as run, around, sw.step("plan", model=model if how == "step" else "") as scope:
        sw.record_usage(named, input_tokens=1_000_000, output_tokens=1_000_000)
        assert scope.own.cost_usd == dollars
        with sw.reserve(model=named, input_tokens=1_000_000, output_tokens=1_000_000) as hold:
            assert hold.cost_usd == dollars
            hold.settle(input_tokens=1_000_000, output_tokens=1_000_000)
    assert run.total.cost_usd == 2 * dollars


def test_the_prefix_stays_in_what_is_told():
    """`default_model` and receipts give the name as it was declared, prefix included."""
    with sw.Run() as run:
        with sw.step("plan", model="openai:gpt-5"):
            assert sw.default_model() == "openai:gpt-5"
        with sw.step("plan"):
            sw.record_usage("openai:gpt-5-mini")
    assert [one.model for one in run.receipts] == ["openai:gpt-5", "openai:gpt-5-mini"]


@pytest.mark.parametrize("model", [5, b"gpt", ["gpt"], True])
def test_a_model_that_is_no_name_is_refused(model):
    """A model that is no string is a DefinitionError where it is declared."""
    for kind in (sw.step, sw.persona):
        with pytest.raises(sw.DefinitionError, match="model"):
            kind(model=model)
