"""Decorators: every way to write one, what stays as it was, what is replaced, and what is refused."""

import asyncio
import functools
import gc
import inspect
import pickle
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

KINDS = {"step": sw.step, "persona": sw.persona, "tool": sw.tool}
SCOPED = {"step": sw.step, "persona": sw.persona}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_scoped_kind = pytest.mark.parametrize("kind", SCOPED)


def plain(number: "int" = 1, /, *rest: "int", scale: "float" = 1.0, **more: "Box") -> "Box":
    """Add up."""
    return [number, *rest, scale, more]


Box = list


@sw.step(name="by_reference")
def importable() -> int:
    """Be found by pickle under its own name."""
    return 5


def innermost():
    """Return the names of the persona and step in force."""
    step, persona = sw.current_step(), sw.current_persona()
    return persona and persona.name, step and step.name


def noting(log):
    """Make a user's own decorator, well-behaved: it uses `functools.wraps`."""

    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            log.append(function.__name__)
            return function(*args, **kwargs)

        return wrapper

    return decorate


@every_kind
def test_every_way_to_write_a_decorator_gives_the_same_name(kind):
    """Bare, with empty parentheses, with the name first and with the name as keyword, the declared name is right."""
    decorate = KINDS[kind]

    def function():
        return 7

    ways = {
        "function": (decorate(function), decorate()(function), decorate(None)(function)),
        "given": (decorate("given")(function), decorate(name="given")(function), decorate(function, name="given")),
    }
    for name, made in ways.items():
        for one in made:
            assert one.definition.name == name
            assert one.definition.function == one.__name__ == "function"
            with sw.Run():
                assert one() == 7


@every_kind
def test_a_name_given_twice_is_refused(kind):
    """A name given both first and as keyword is a DefinitionError that shows the two."""
    with pytest.raises(sw.DefinitionError, match=r"name.*one.*two"):
        KINDS[kind]("one", name="two")


@every_kind
@pytest.mark.parametrize("target", [5, b"plan", ["plan"], int, type("Agent", (), {}), property(len)], ids=repr)
def test_what_cannot_be_called_cannot_be_decorated(kind, target):
    """A decorator refuses a class, a property and anything that is not callable, and says what it goes on."""
    for decorate in (KINDS[kind], KINDS[kind](name="given")):
        with pytest.raises((sw.DefinitionError, TypeError), match=kind):
            decorate(target)


@every_kind
def test_a_decorated_function_looks_like_the_function(kind):
    """Name, module, docstring, signature, annotations and type hints of a decorated function are the function's."""
    decorated = KINDS[kind](plain)
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(decorated, attribute) == getattr(plain, attribute)
    assert inspect.signature(decorated) == inspect.signature(plain)
    assert typing.get_type_hints(decorated) == typing.get_type_hints(plain)
    assert inspect.unwrap(decorated) is plain
    assert inspect.getsource(decorated) == inspect.getsource(plain)


@every_kind
def test_a_decorated_coroutine_function_is_one(kind):
    """`inspect` and asyncio see a decorated coroutine function as one, also a callable object or partial of one."""

    async def plan(number=1):
        return number

    class Planner:
        async def __call__(self):
            return await plan()

    decorate = KINDS[kind](name="plan")
    for target in (plan, functools.partial(plan, 1), Planner(), Planner().__call__):
        decorated = decorate(target)
        assert inspect.iscoroutinefunction(decorated)
        assert asyncio.run(decorated()) == 1
    assert not inspect.iscoroutinefunction(decorate(lambda: 1))


@every_kind
def test_a_decorator_adds_nothing_but_the_definition(kind):
    """The function's own attributes stay, and the only new public one is its definition."""

    def function():
        return 1

    function.plan = "gold"
    function.kind = "mine"
    decorated = KINDS[kind](function)
    assert decorated.plan == "gold"
    assert decorated.kind == "mine"
    added = set(vars(decorated)) - set(vars(function))
    assert {name for name in added if not name.startswith("_")} == {"definition"}


@every_scoped_kind
@given(args=st.lists(st.integers(), max_size=3), names=st.lists(st.text(max_size=8), max_size=4, unique=True))
def test_every_argument_reaches_the_function(kind, args, names):
    """Positional and keyword arguments reach the function unchanged, whatever the keywords are called."""
    kwargs = dict.fromkeys([*names, "self", "function", "plan", "args", "kwargs", "scope", "name"], 1)
    decorated = SCOPED[kind](lambda *args, **kwargs: (args, kwargs), name="plan")
    with sw.Run():
        assert decorated(*args, **kwargs) == (tuple(args), kwargs)


def test_a_decorated_function_is_pickled_by_reference():
    """A decorated function at the top of a module is pickled by its name, like the function itself."""
    thawed = pickle.loads(pickle.dumps(importable))  # noqa: S301 - our own bytes
    assert thawed is importable


@every_kind
def test_lambdas_partials_and_objects_are_decorated_by_name(kind):
    """A lambda needs no name, a partial and a callable object do, and without it the error says how to give one."""

    class Planner:
        def __call__(self, number):
            return number

    decorate = KINDS[kind]
    assert decorate(lambda: 3).definition.name == "<lambda>"
    for target in (functools.partial(plain, 5), Planner(), functools.partial(functools.partial(plain), 5)):
        with pytest.raises((sw.DefinitionError, TypeError), match="name="):
            decorate(target)
        with pytest.raises((sw.DefinitionError, TypeError), match="name="):
            decorate()(target)
        decorated = decorate(name="plan")(target)
        assert decorated.definition.name == decorated.definition.function == "plan"
    assert decorate("plan")(functools.partial(plain, 5))(6) == [5, 6, 1.0, {}]
    assert decorate("plan")(Planner())(6) == 6


@every_scoped_kind
def test_a_partial_keeps_its_declared_name_when_it_is_decorated_again(kind):
    """What has no name of its own goes by the declared one in its definition, again after it is decorated again."""
    decorate = SCOPED[kind]
    once = decorate(name="plan")(functools.partial(plain, 5))
    again = decorate(name="merge")(once)
    assert again.definition.function in {"plan", "merge"}
    assert again.__name__ in {"plan", "merge"}


@every_scoped_kind
@pytest.mark.parametrize("is_awaited", [False, True])
@pytest.mark.parametrize("kind_returned", ["a generator", "an async generator"])
def test_a_function_that_returns_a_generator_is_refused(kind, is_awaited, kind_returned):
    """A function that returns a generator, which would run outside the step, is a TypeError that says what to do."""

    def generator():
        yield 1

    async def async_generator():
        yield 1

    made = generator() if kind_returned == "a generator" else async_generator()

    def forgetful():
        return made

    async def forgetful_coroutine():
        return made

    step = SCOPED[kind](name="plan")(forgetful_coroutine if is_awaited else forgetful)
    with sw.Run() as run, pytest.raises(TypeError, match=rf"`plan` returned {kind_returned}, .*return a list"):
        asyncio.run(step()) if is_awaited else step()
    assert [receipt.status for receipt in run.receipts] == ["failed"]


@every_scoped_kind
def test_a_function_may_return_a_generator_step(kind):
    """A generator step that a function returns is a step of its own, under the scope of its call, and goes through."""

    @sw.step
    def counting():
        yield sw.current_step().parent.name

    @sw.step
    async def counting_async():
        yield sw.current_step().parent.name

    async def collected(generator):
        return [name async for name in generator]

    with sw.Run():
        assert list(SCOPED[kind](name="plan")(lambda: counting())()) == ["plan"]
        assert asyncio.run(collected(SCOPED[kind](name="plan")(lambda: counting_async())())) == ["plan"]


@every_scoped_kind
@pytest.mark.parametrize("hooked", [False, True])
def test_a_sync_function_that_returns_a_coroutine_is_refused(kind, hooked):
    """A sync function that returns a coroutine is a TypeError that says what to do, and the coroutine is closed."""
    made = []

    async def plan():
        raise AssertionError

    def forgetful():
        made.append(plan())
        return made[-1]

    hooks = sw.Hooks()
    if hooked:
        hooks.on("PostStep")(lambda event: None)

    class Forgetful:
        def __call__(self):
            return forgetful()

    for target in (
        forgetful,
        functools.partial(forgetful),
        lambda: [forgetful()][0],
        Forgetful(),
        Forgetful().__call__,
    ):
        with sw.Run(hooks=hooks) as run, pytest.raises(TypeError, match="async def"):
            SCOPED[kind](name="plan")(target)()
        assert [receipt.status for receipt in run.receipts] == [sw.Status.FAILED]
        assert inspect.getcoroutinestate(made.pop()) == inspect.CORO_CLOSED
    gc.collect()  # a coroutine that nobody awaited would warn here, and a warning is an error


@pytest.mark.parametrize("shape", ["function", "method", "object", "partial", "lambda"])
def test_a_tool_that_fails_is_not_told_as_completed(shape):
    """A coroutine tool that fails, or that could not be awaited inside, is not `completed` on the receipt."""

    async def function():
        raise KeyError("issue")

    class Lookup:
        async def __call__(self):
            raise KeyError("issue")

    target = {
        "function": function,
        "method": Lookup().__call__,
        "object": Lookup(),
        "partial": functools.partial(Lookup()),
        "lambda": lambda: [function()][0],
    }[shape]

    async def main():
        with sw.step("plan"), pytest.raises((KeyError, TypeError)):
            await sw.tool(name="look_up", side_effect="none")(target)()

    with sw.Run() as run:
        asyncio.run(main())
    assert [(tool.name, tool.outcome) for tool in run.receipts[0].tools] == [("look_up", "failed")]


@every_kind
def test_a_function_stays_what_it_was(kind):
    """Decorating makes a new function: the one given runs outside every scope as before."""

    def function():
        return innermost()

    KINDS[kind](function)
    with sw.Run() as run:
        assert function() == (None, None)
    assert run.receipts == ()
    assert not hasattr(function, "definition")


@every_scoped_kind
def test_decorating_again_replaces(kind):
    """Decorating and registering again replaces the declaration, so that a call leaves one receipt, of the last one."""
    decorate = SCOPED[kind]
    once = decorate(name="first", budget=sw.Budget(max_calls=0), tools=[])(innermost)
    register, make = {
        "step": (sw.register_step, sw.StepDefinition),
        "persona": (sw.register_persona, sw.PersonaDefinition),
    }[kind]
    for again in (
        decorate(name="last")(once),
        decorate(once, name="last"),
        decorate(name="last")(decorate(name="middle")(once)),
        register(once, make("last")),
        getattr(sw, f"{kind}_from_dict")(once, {"name": "last"}),
    ):
        with sw.Run() as run:
            again()
            sw.record_usage()
        assert [(receipt.kind, receipt.name) for receipt in run.receipts] == [(kind, "last")]
        assert again.definition.budget is None
        assert once.definition.name == "first"


def test_step_and_persona_stack_in_both_orders():
    """A step over a persona, and a persona over a step, are two scopes, the inner one inside the outer."""
    with sw.Run() as run:
        assert sw.step(name="plan")(sw.persona(name="triage")(innermost))() == ("triage", "plan")
        assert sw.persona(name="triage")(sw.step(name="plan")(innermost))() == ("triage", "plan")
    kinds = [(receipt.kind, receipt.name, receipt.persona) for receipt in run.receipts]
    assert kinds[:2] == [("persona", "triage", "triage"), ("step", "plan", None)]
    assert kinds[2:] == [("step", "plan", "triage"), ("persona", "triage", "triage")]


def test_a_users_own_decorator_in_between_stays():
    """A user's decorator between two of ours runs on every call, and both of ours are in force around and inside it."""
    log = []
    outer = sw.step(name="outer")(noting(log)(sw.step(name="inner")(innermost)))
    with sw.Run() as run:
        assert outer() == (None, "inner")
    assert log == ["innermost"]
    assert [receipt.name for receipt in run.receipts] == ["inner", "outer"]
    assert run.receipts[0].parent_id == run.receipts[1].step_id
    log.clear()
    tool = sw.tool(name="outer", side_effect="none")(noting(log)(sw.tool(name="inner", side_effect="none")(plain)))
    with sw.Run(), sw.step("plan") as scope:
        tool()
    assert log == ["plain"]
    assert [record.name for record in scope.receipt.tools] == ["inner", "outer"]


def test_a_tool_between_two_steps_is_still_asked_about():
    """A step put on a tool never takes the tool away: its policy is asked, whatever the tool itself was put on."""

    @sw.tool(name="push", side_effect="network")
    @sw.step(name="inner")
    def push():
        return "pushed"

    with sw.Run(policy=sw.Policy(tools=[])), pytest.raises(sw.ToolDeniedError):
        push()
    with sw.Run(policy=sw.Policy(tools=[])), pytest.raises(sw.ToolDeniedError):
        sw.step(name="outer")(push)()


def test_tools_and_steps_stack():
    """A tool over a step and a step over a tool do both: the call is counted as a tool and leaves a step's receipt."""
    for decorated in (sw.tool(sw.step(plain)), sw.step(sw.tool(plain))):
        with sw.Run(budget=sw.Budget(max_tool_calls=1)) as run:
            assert decorated(2) == [2, 1.0, {}]
            with pytest.raises(sw.BudgetExceededError):
                decorated(2)
        assert run.total.tool_calls == 1
        assert "plain" in [receipt.name for receipt in run.receipts if receipt.kind == "step"]


def test_a_tool_decorated_again_is_asked_about_and_counted_once():
    """Decorating a tool again replaces its declaration: one count and one record a call, under the last name."""
    again = sw.tool(name="last", side_effect="none")(sw.tool(name="first")(plain))
    with sw.Run(policy=sw.Policy(["last"], "none")) as run, sw.step("plan") as scope:
        again()
    assert [record.name for record in scope.receipt.tools] == ["last"]
    assert run.total.tool_calls == 1
