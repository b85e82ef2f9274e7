"""Hooks: whom they serve, where they run, what they spend, and what happens when they fail."""

import asyncio
import functools
from contextlib import nullcontext, suppress
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stepwarden as sw


@pytest.fixture(autouse=True)
def _no_hooks_left():
    sw.hooks.clear()
    yield
    sw.hooks.clear()


def chain(error):
    """Return an error with its causes and contexts, nearest first."""
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def own(run, name):
    """Return the own usage of the one receipt of this name."""
    (receipt,) = [one for one in run.receipts if one.name == name]
    return receipt.own


# Whom a hook serves.

NAMES = st.text(alphabet="abAB_1", max_size=4)
PATTERNS = st.lists(st.sampled_from(["a", "b", "A", "_", "*", "?", "[ab]", "[!a]", "[A-B]"]), max_size=4).map("".join)
BLANKS = st.sampled_from(["", " ", "\t\n"])


@example(pattern="", name="", blank="")
@example(pattern="?*", name="", blank="")
@example(pattern="a*", name="AB", blank=" ")
@given(pattern=PATTERNS, name=NAMES, blank=BLANKS)
def test_persona_patterns_are_case_sensitive_globs(pattern, name, blank):
    """A hook serves exactly the personas that its trimmed glob matches, with case; no persona matches as ``""``."""
    hooks, told = sw.Hooks(), []
    hooks.on(f"{blank}PreStep{blank}", persona=f"{blank}{pattern}{blank}")(told.append)
    with sw.Run(hooks=hooks), sw.persona(name) if name else nullcontext(), sw.step("plan"):
        pass
    assert bool(told) is fnmatchcase(name, pattern)


def test_the_innermost_persona_is_the_one_matched():
    """Under nested personas, a step belongs to the innermost one."""
    told = []
    sw.hooks.on("PreStep", persona="inner")(told.append)
    sw.hooks.on("PreStep", persona="outer")(lambda event: pytest.fail("the outer persona was matched"))
    with sw.Run(), sw.persona("outer"), sw.persona("inner"), sw.step("plan"):
        pass
    assert [event.target for event in told] == ["inner.plan"]


@pytest.mark.parametrize(
    ("wanted", "name", "serves"),
    [
        ("plan", "plan", True), (" plan ", "plan", True), ("Plan", "plan", False), ("pla*", "plan", False),
        ("plan", "plan2", False), ("pla*", "pla*", True), ("plan", " plan ", True), (" plan ", " plan ", True),
    ],
)  # fmt: skip
def test_step_names_match_exactly(wanted, name, serves):
    """A step's name is matched whole and with case, a star in it is a star, and blanks around names do not matter."""
    told = []
    sw.hooks.on("PreStep", step=wanted)(told.append)
    with sw.Run(), sw.step(name):
        pass
    assert bool(told) is serves


@pytest.mark.parametrize(
    "event", ["prestep", "Pre Step", "", "OnBudgetThreshold", "BudgetThreshold(80)", None, 80, "*"]
)
def test_an_unknown_event_is_a_definition_error(event):
    """An event that does not exist, or has another case, is refused where the hook is declared."""
    with pytest.raises(sw.DefinitionError):
        sw.hooks.on(event)


# What registration gives.


@pytest.mark.parametrize(
    ("field", "value"), [("persona", None), ("persona", 1), ("step", 1), ("step", ""), ("step", " ")]
)
def test_a_name_that_cannot_be_right_is_a_definition_error(field, value):
    """A hook's persona and step are strings, and a step's name is not empty; the error names the field and value."""
    with pytest.raises(sw.DefinitionError, match=rf"^{field} must .*{value!r}"):
        sw.hooks.on("PreStep", **{field: value})


def test_the_handle_is_callable_and_removable():
    """A handle is called like the function, has its name, and after `remove` the hook is not told any more."""
    told = []

    def gate(event, note="none"):
        """Tell."""
        told.append((event, note))
        return note

    handle = sw.hooks.on("PreStep")(gate)
    assert handle(1, note="direct") == "direct"
    assert (handle.__name__, handle.__doc__) == ("gate", "Tell.")
    handle.remove()
    handle.remove()
    with sw.Run(), sw.step("plan"):
        pass
    assert told == [(1, "direct")]


def test_one_function_may_serve_two_events():
    """Stacked `hooks.on` decorators register the function for each of their events."""
    told = []

    @sw.hooks.on("PreStep", step="plan")
    @sw.hooks.on("PostStep")
    def watch(event):
        told.append((event.event, event.step))

    with sw.Run():
        for name in ("plan", "other"):
            with sw.step(name):
                pass
    assert told == [("PreStep", "plan"), ("PostStep", "plan"), ("PostStep", "other")]


def test_attributes_of_the_function_do_not_change_what_it_is_registered_for():
    """A function's own attributes have no say in the event, persona, step or order of its hook."""
    told = []

    def watch(event):
        told.append(event.event)

    watch.event, watch.persona, watch.step, watch.function, watch.percent = "PostStep", "nobody", "none", print, 5
    sw.hooks.on("PreStep")(watch)
    with sw.Run(), sw.persona("captain"), sw.step("plan"):
        pass
    assert told == ["PreStep"]


def test_any_callable_may_be_a_hook():
    """A partial and a bound method serve as hooks, and what is not callable is refused."""
    told = []
    sw.hooks.on("PreStep")(functools.partial(told.insert, 0))
    sw.hooks.on("PreStep")(told.append)
    with sw.Run(), sw.step("plan"):
        pass
    assert len(told) == 2
    with pytest.raises(sw.DefinitionError):
        sw.hooks.on("PreStep")("not callable")


def test_a_runs_own_hooks_replace_the_process_ones():
    """Under a run with its own `Hooks()` only those are told, and a child run without any has its parent's."""
    told, mine = [], sw.Hooks()
    sw.hooks.on("PreStep")(lambda event: told.append(("process", event.step)))
    mine.on("PreStep")(lambda event: told.append(("own", event.step)))
    with sw.Run(), sw.step("a"):
        pass
    with sw.Run(hooks=mine):
        with sw.step("b"), sw.Run(), sw.step("c"):
            pass
        with sw.Run(hooks=sw.Hooks()), sw.step("d"):
            pass
    assert told == [("process", "a"), ("own", "b"), ("own", "c")]


def test_what_a_hook_does_to_the_payload_in_place_changes_nothing():
    """Arguments are replaced by ReplaceArgs only, not by writing into the payload."""

    @sw.hooks.on("PreStep")
    def meddle(event):
        with suppress(TypeError):  # a payload that cannot be written to is as good
            event.kwargs["x"] = "meddled"

    @sw.step
    def plan(*, x):
        return x

    with sw.Run():
        assert plan(x="given") == "given"


# Where a hook runs.

EVENTS = ["PreStep", "PostStep", "OnStepFailed", "OnEscalation", "OnToolDenied", "OnBudgetThreshold(50)"]


@sw.tool
def forbidden():
    """Be a tool that the step may not call."""


def make_happen(event):
    """Do inside a step with `max_calls=3` and no tools what makes *event* happen once."""
    if event == "OnStepFailed":
        raise LookupError("made to fail")
    if event == "OnToolDenied":
        forbidden()
    for _ in range({"OnEscalation": 4, "OnBudgetThreshold(50)": 2}.get(event, 0)):
        sw.record_usage(input_tokens=1)


def run_step(event):
    """Run a step inside a persona inside a run, in which *event* happens; return the run."""
    plan = sw.step("plan", model="m-plan", budget=sw.Budget(max_calls=3), error_boundary="escalate", tools=[])

    @sw.step(name="outer", model="m-outer")
    def outer():
        with plan:
            make_happen(event)

    expected = suppress(LookupError, sw.BudgetExceededError, sw.EscalationError, sw.ToolDeniedError)
    with sw.Run(name="root") as run, sw.persona("captain", model="m-captain"), expected:
        outer()
    return run


@pytest.mark.parametrize("event", EVENTS)
def test_what_a_hook_spends_is_the_parents(event):
    """Usage, holds and tools of a hook count on the scope around the step, never on the step."""

    @sw.tool
    def look():
        assert sw.current_step().name == "outer"

    @sw.hooks.on(event, step="plan")
    def spend(told):
        sw.record_usage("m", input_tokens=1_000)
        with sw.reserve(input_tokens=500) as hold:
            hold.settle(input_tokens=100, output_tokens=0)
        look()

    run = run_step(event)
    assert (own(run, "outer").input_tokens, own(run, "outer").tool_calls) == (1_100, 1)
    assert own(run, "plan").input_tokens == {"OnEscalation": 4, "OnBudgetThreshold(50)": 2}.get(event, 0)
    assert own(run, "plan").tool_calls == 0


@pytest.mark.parametrize("event", EVENTS)
def test_inside_a_hook_the_parent_is_current_and_no_model_is_the_default(event):
    """While a hook runs, `current_step` is the parent and its policy holds, and there is no default model."""
    seen = []

    @sw.hooks.on(event, step="plan")
    def look(told):
        seen.append((sw.current_step().name, sw.current_persona().name, sw.current_run().name, sw.current_policy()))
        seen.append((sw.default_model(), sw.default_model("mine")))

    run_step(event)
    assert seen == [("outer", "captain", "root", sw.Policy()), (None, "mine")]


@pytest.mark.parametrize("event", ["PreStep", "PostStep"])
def test_coroutine_hooks_run_in_the_same_scope(event):
    """A coroutine hook, and the tasks that it starts, spend on the parent too, across its awaits."""

    @sw.hooks.on(event, step="plan")
    async def spend(told):
        await asyncio.sleep(0)
        sw.record_usage(input_tokens=10)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(sw.record_usage, input_tokens=5))

    @sw.step
    async def plan():
        assert sw.current_step().name == "plan"
        await asyncio.sleep(0)

    async def main():
        async with sw.step("outer", model="m"):
            await plan()
            assert sw.current_step().name == "outer"

    with sw.Run() as run:
        asyncio.run(main())
    assert (own(run, "outer").input_tokens, own(run, "plan").input_tokens) == (15, 0)


def test_a_step_called_by_a_hook_is_beside_the_step():
    """A step that a hook calls is the parent's child, inherits no model, and is told to hooks itself."""
    seen = []

    @sw.step(name="review")
    def review():
        seen.append((sw.current_step().parent.name, sw.default_model()))

    sw.hooks.on("PostStep", step="plan")(lambda event: review())
    sw.hooks.on("PreStep", step="review")(lambda event: seen.append(event.target))
    with sw.Run() as run, sw.persona("captain", model="m"), sw.step("plan"):
        pass
    assert seen == ["captain.review", ("captain", None)]
    assert [one.name for one in run.receipts] == ["review", "plan", "captain"]


@pytest.mark.parametrize("event", ["PreStep", "PostStep", "OnStepFailed", "PersonaStart", "PersonaEnd"])
def test_hooks_may_work_where_the_run_is_implicit(event):
    """Outside every run, a hook may call tools and reserve, since its scope is the implicit run, and no persona's."""
    done = []

    @sw.tool
    def note():
        done.append(sw.current_run().status)

    @sw.hooks.on(event)
    def report(told):
        assert (sw.current_persona(), sw.current_step(), sw.default_model()) == (None, None, None)
        note()
        with sw.reserve(output_tokens=1) as hold:
            hold.settle(input_tokens=0, output_tokens=1)
        done.append("hold")

    kind = sw.persona if event.startswith("Persona") else sw.step
    with pytest.raises(LookupError) if event == "OnStepFailed" else nullcontext():
        kind(name="work", model="m")(make_happen)(event)
    assert done == [None, "hold"]


@pytest.mark.parametrize("how", ["returns", "raises", "is closed early"])
def test_every_persona_that_starts_also_ends(how):
    """Each PersonaStart is met by a PersonaEnd with the receipt, also where a generator persona is closed early."""
    told = []
    sw.hooks.on("PersonaStart")(lambda event: told.append((event.event, event.persona)))
    sw.hooks.on("PersonaEnd")(lambda event: told.append((event.event, str(event.receipt.status))))

    @sw.persona
    def captain():
        yield 1
        if how == "raises":
            raise LookupError

    with sw.Run():
        running = captain()
        next(running)
        with pytest.raises(LookupError) if how == "raises" else nullcontext():
            running.close() if how == "is closed early" else next(running, None)
    status = {"returns": "completed", "raises": "failed", "is closed early": "cancelled"}[how]
    assert told == [("PersonaStart", "captain"), ("PersonaEnd", status)]


# When a hook fails.


@pytest.mark.parametrize("event", ["PreStep", "PersonaStart"])
def test_a_hook_that_raises_before_keeps_the_body_from_running(event):
    """An error of a hook at the start leaves the step or persona, which is failed, without its body."""

    @sw.hooks.on(event)
    def broken(told):
        raise LookupError("hook")

    kind = sw.step if event == "PreStep" else sw.persona
    with sw.Run() as run:
        with pytest.raises(LookupError, match="hook"):
            kind(name="plan")(lambda: pytest.fail("the body ran"))()
        assert sw.current_step() is None
    assert [(one.status, one.error) for one in run.receipts] == [(sw.Status.FAILED, ("LookupError", "hook"))]


def test_a_post_step_hook_that_raises_fails_the_step():
    """An error of a PostStep hook leaves the step, which is failed; OnStepFailed is told of it."""
    failed = []
    sw.hooks.on("OnStepFailed")(lambda event: failed.append(str(event.error)))

    @sw.hooks.on("PostStep")
    def broken(told):
        raise LookupError("hook")

    with sw.Run() as run, pytest.raises(LookupError, match="hook"):
        sw.step(name="plan", error_boundary="continue")(lambda: 1)()
    assert [one.status for one in run.receipts] == [sw.Status.FAILED]
    assert failed == ["hook"]


@pytest.mark.parametrize("event", ["OnStepFailed", "OnEscalation", "OnToolDenied", "OnBudgetThreshold(1)"])
def test_a_hook_that_raises_hides_nothing(event):
    """When an observing hook raises, what it was told of is still in the error's chain, and the receipt is left."""

    @sw.hooks.on(event)
    def broken(told):
        raise LookupError("hook")

    @sw.step(name="plan", budget=sw.Budget(max_calls=0), error_boundary="escalate", tools=[])
    def plan():
        if event == "OnStepFailed":
            raise OSError("told")
        make_happen(event)
        sw.record_usage()

    with sw.Run() as run, pytest.raises((LookupError, sw.StepwardenError)) as caught:
        plan()
    wanted = {"OnStepFailed": OSError, "OnToolDenied": sw.ToolDeniedError}.get(event, sw.BudgetExceededError)
    kinds = [type(one) for one in chain(caught.value)]
    assert LookupError in kinds
    assert wanted in kinds
    assert len(run.receipts) == 1
