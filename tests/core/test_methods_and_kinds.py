"""Methods and the four kinds of function: each is what it was before, with a scope around it."""

import asyncio
import contextlib
import gc
import inspect
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stepwarden as sw

SCOPED = {"step": sw.step, "persona": sw.persona}
every_scoped_kind = pytest.mark.parametrize("kind", SCOPED)


def left(run):
    """Return kind, name and status of a run's receipts."""
    return [(receipt.kind, receipt.name, receipt.status.value) for receipt in run.receipts]


def scopes():
    """Return the kinds and names of the open scopes in force here, innermost first."""
    chains = []
    for scope in (sw.current_step(), sw.current_persona()):
        found = []
        while scope is not None and scope.kind != "run":
            found.append((scope.kind, scope.name, scope.status))
            scope = scope.parent
        chains.append(found)
    return max(chains, key=len)


class Agent:
    """Have every kind of method, decorated in the right order."""

    def __init__(self, name: str = "agent") -> None:
        self.name = name

    @sw.step
    def plan(self, number: int) -> tuple[str, int]:
        """Plan."""
        return self.name, number

    @sw.persona
    async def triage(self, number: int) -> tuple[str, int]:
        return self.name, number

    @classmethod
    @sw.step(name="of_class")
    def build(cls, number: int) -> tuple[str, int]:
        return cls.__name__, number

    @staticmethod
    @sw.step
    def add(number: int) -> tuple[str, int]:
        return "static", number

    @property
    @sw.step
    def cost(self) -> tuple[str, int]:
        return self.name, 0

    @sw.step
    def stream(self, number: int):
        yield self.name, number

    @sw.tool(side_effect="none")
    def look_up(self, number: int) -> tuple[str, int]:
        return self.name, number


class Captain(Agent):
    """Override a step with one that calls it."""

    @sw.step
    def plan(self, number: int) -> tuple[str, int]:
        return super().plan(number + 1)


def test_methods_get_their_object_and_leave_one_receipt():
    """Methods, class and static methods and properties get what they are bound to, and leave one receipt a call."""
    agent = Agent("ada")
    with sw.Run() as run:
        assert agent.plan(1) == Agent.plan(agent, 1) == ("ada", 1)
        assert asyncio.run(agent.triage(2)) == ("ada", 2)
        assert agent.build(3) == Captain.build.__func__(Agent, 3) == ("Agent", 3)
        assert Captain.build(3) == ("Captain", 3)
        assert agent.add(4) == Agent.add(4) == ("static", 4)
        assert agent.cost == ("ada", 0)
        assert list(agent.stream(5)) == [("ada", 5)]
    names = ["plan", "plan", "triage", "of_class", "of_class", "of_class", "add", "add", "cost", "stream"]
    assert [receipt.name for receipt in run.receipts] == names
    assert {receipt.status for receipt in run.receipts} == {sw.Status.COMPLETED}
    assert Agent.plan.definition is agent.plan.definition is sw.definition(agent.plan)
    assert Agent.build.definition.name == "of_class"
    assert Agent.add.definition.name == "add"
    assert inspect.signature(agent.plan) == inspect.signature(Agent.triage.__get__(agent))
    assert inspect.getdoc(agent.plan) == "Plan."


def test_an_override_that_calls_super_is_two_steps():
    """A step that overrides a step and calls it leaves the inner receipt, and then its own."""
    with sw.Run() as run:
        assert Captain("eve").plan(1) == ("eve", 2)
    inner, outer = run.receipts
    assert (inner.name, outer.name, inner.parent_id) == ("plan", "plan", outer.step_id)


@pytest.mark.parametrize("kind", ["step", "persona", "tool"])
@pytest.mark.parametrize("descriptor", [classmethod, staticmethod, property])
def test_above_a_descriptor_says_what_to_do(kind, descriptor):
    """A decorator above `@classmethod`, `@staticmethod` or `@property` is refused, with the order that works."""
    decorate = getattr(sw, kind)
    for put in (decorate, decorate(), decorate(name="plan")):
        with pytest.raises((sw.DefinitionError, TypeError), match=rf"@{kind}.*below.*{descriptor.__name__}"):
            put(descriptor(lambda: None))


@pytest.mark.parametrize("kind", ["step", "persona", "tool"])
def test_a_bound_method_stays_bound(kind):
    """A bound method is decorated like a function, also where the method is already decorated: it keeps its object."""
    agent = Agent("ada")
    decorate = getattr(sw, kind)(name="again")
    for method in (agent.plan, agent.look_up, agent.build, Agent.__str__.__get__(agent)):
        number = () if method.__name__ == "__str__" else (1,)
        with sw.Run():
            assert decorate(method)(*number) == method(*number)


def test_a_bound_method_stays_bound_when_it_is_registered_again():
    """Registering a bound step or persona again gives a step of the same object, with one receipt a call."""
    agent = Agent("ada")
    plan = sw.register_step(agent.plan, sw.StepDefinition("again"))
    triage = sw.persona_from_dict(agent.triage, {"name": "again"})
    with sw.Run() as run:
        assert plan(1) == ("ada", 1)
        assert asyncio.run(triage(2)) == ("ada", 2)
    assert left(run) == [("step", "again", "completed"), ("persona", "again", "completed")]


REACTIONS = ("propagate", "swallow", "replace", "finish")
THROWN = (ValueError("thrown"), KeyError("thrown"), StopIteration(3), StopAsyncIteration())
OPERATIONS = st.lists(
    st.sampled_from([("next", None), ("send", 1), ("close", None), *(("throw", error) for error in THROWN)]), max_size=6
)
PROGRAM = st.lists(st.sampled_from(REACTIONS), max_size=4)


def react(reaction, error, seen):
    """Do what the body of a generator does when something is thrown into it; tell whether it ends."""
    seen.append(type(error).__name__)
    if reaction == "propagate":
        raise error
    if reaction == "replace":
        raise LookupError("replaced") from error
    return reaction == "finish"


def sync_body(program, seen):
    """Yield once for each reaction; note everything that is sent and thrown in."""
    for number, reaction in enumerate(program):
        try:
            seen.append((yield number, reaction))
        except BaseException as error:
            if react(reaction, error, seen):
                break
    return list(seen)


async def async_body(program, seen):
    """Yield like `sync_body`, with a suspension before each `yield`."""
    for number, reaction in enumerate(program):
        await asyncio.sleep(0)
        try:
            seen.append((yield number, reaction))
        except BaseException as error:
            if react(reaction, error, seen):
                break


def told(error):
    """Describe an exception, and what it came from, so that two can be compared."""
    cause = error.__cause__ and type(error.__cause__)
    return type(error), str(error), cause, getattr(error, "value", None)


def drive(make, program, operations):
    """Run operations on a generator; return everything that can be seen of it from outside and inside."""
    seen, trace = [], []
    generator = make(program, seen)
    for name, value in [*operations, *[("close", None)] * 5]:
        try:
            if name == "next":
                trace.append(next(generator))
            elif name == "send":
                trace.append(generator.send(value))
            elif name == "close":
                trace.append(generator.close())
            else:
                trace.append(generator.throw(value))
        except BaseException as error:
            trace.append(told(error))
    return seen, trace


async def drive_async(make, program, operations):
    """Run operations on an async generator; return everything that can be seen of it."""
    seen, trace = [], []
    generator = make(program, seen)
    for name, value in [*operations, *[("close", None)] * 5]:
        try:
            if name == "next":
                trace.append(await anext(generator))
            elif name == "send":
                trace.append(await generator.asend(value))
            elif name == "close":
                trace.append(await generator.aclose())
            else:
                trace.append(await generator.athrow(value))
        except BaseException as error:
            trace.append(told(error))
    return seen, trace


def run_noting(make, program, operations):
    """Run `drive_async`; return what it saw, and what was raised where nobody could hear of it.

    A body that yields when it is closed stays suspended, and CPython closes it once more when it is collected.
    """
    unheard, hook = [], sys.unraisablehook
    sys.unraisablehook = lambda unraisable: unheard.append(type(unraisable.exc_value))
    try:
        return asyncio.run(drive_async(make, program, operations)), unheard
    finally:
        sys.unraisablehook = hook


@given(program=PROGRAM, operations=OPERATIONS, kind=st.sampled_from([*SCOPED]))
def test_a_generator_step_answers_like_the_generator(program, operations, kind):
    """Under any next, send, throw and close, a decorated generator does what the plain one does, once."""
    expected = drive(sync_body, program, operations)
    with sw.Run() as run:
        assert drive(SCOPED[kind](sync_body), program, operations) == expected
        assert scopes() == []
    if operations[:1] == [("next", None)]:  # whatever else comes first, a body that never began leaves none
        assert len(run.receipts) == 1


@example(program=["propagate", "swallow", "finish"], operations=[("next", None)] * 2 + [("close", None)], kind="step")
@given(program=PROGRAM, operations=OPERATIONS, kind=st.sampled_from([*SCOPED]))
def test_an_async_generator_step_answers_like_the_async_generator(program, operations, kind):
    """Under any anext, asend, athrow and aclose, a decorated async generator does what the plain one does."""
    expected = run_noting(async_body, program, operations)
    with sw.Run() as run:
        assert run_noting(SCOPED[kind](async_body), program, operations) == expected
        assert scopes() == []
    if operations[:1] == [("next", None)]:  # whatever else comes first, a body that never began leaves none
        assert len(run.receipts) == 1


def test_throwing_generator_exit_is_what_it_is_without_a_step():
    """A body that answers a thrown `GeneratorExit` by returning or yielding is heard, as in a plain generator."""

    def body(answer):
        try:
            yield "first"
        except GeneratorExit:
            if answer == "yield":
                yield "second"
        return "done"

    def outcome(make, answer):
        generator = make(answer)
        next(generator)
        try:
            value = generator.throw(GeneratorExit())
        except BaseException as error:
            return told(error)
        generator.close()
        return value

    for answer in ("return", "yield"):
        with sw.Run():
            assert outcome(sw.step(body), answer) == outcome(body, answer)


@every_scoped_kind
def test_each_kind_of_function_runs_inside_its_scope(kind):
    """The body of a function, coroutine, generator and async generator runs inside the scope, and nothing else does."""
    decorate = SCOPED[kind]

    def function():
        return [scopes()]

    async def coroutine():
        await asyncio.sleep(0)
        return [scopes()]

    def generator():
        yield scopes()

    async def async_generator():
        yield scopes()

    async def collect(stream):
        return [item async for item in stream]

    with sw.Run() as run:
        found = [
            decorate(name="plan")(function)(),
            asyncio.run(decorate(name="plan")(coroutine)()),
            list(decorate(name="plan")(generator)()),
            asyncio.run(collect(decorate(name="plan")(async_generator)())),
        ]
        assert scopes() == []
    assert found == [[[(kind, "plan", None)]]] * 4
    assert left(run) == [(kind, "plan", "completed")] * 4


@pytest.mark.parametrize("order", [("step", "persona"), ("persona", "step")])
def test_stacked_decorators_stay_open_while_a_generator_runs(order):
    """A step over a persona, and a persona over a step, are both open in a generator's body."""
    outer, inner = order

    def body():
        yield scopes()

    async def async_body():
        yield scopes()

    async def collect(stream):
        return [item async for item in stream]

    def stack(function):
        return SCOPED[outer](name=outer)(SCOPED[inner](name=inner)(function))

    for run_it in (lambda: list(stack(body)()), lambda: asyncio.run(collect(stack(async_body)()))):
        with sw.Run() as run:
            assert run_it() == [[(inner, inner, None), (outer, outer, None)]]
        assert left(run) == [(inner, inner, "completed"), (outer, outer, "completed")]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_tool_over_a_generator_step_ends_with_it(is_async):
    """A tool put on a generator that is a step has its outcome when the body has ended, not when it was called."""

    def body():
        yield 1
        raise KeyError("late")

    async def async_body():
        yield 1
        raise KeyError("late")

    async def collect(stream):
        return [item async for item in stream]

    tool = sw.tool(name="stream", side_effect="none")(sw.step(async_body if is_async else body))
    with sw.Run() as run, sw.step("plan"), pytest.raises(KeyError):
        asyncio.run(collect(tool())) if is_async else list(tool())
    assert [(tool.name, tool.outcome) for tool in run.receipts[-1].tools] == [("stream", "failed")]


def test_a_generator_that_is_never_iterated_is_never_activated():
    """A generator step that nobody iterates leaves no receipt, whether it is closed, dropped or thrown into."""
    step = sw.step(sync_body)
    with sw.Run() as run:
        step(["finish"], []).close()
        step(["finish"], [])
        with pytest.raises(ValueError, match="early"):
            step(["finish"], []).throw(ValueError("early"))
        gc.collect()
    assert run.receipts == ()


def test_a_continuing_generator_ends_with_its_fallback():
    """On `continue` an exhausted generator just ends, with the fallback as its return value."""

    @sw.step(budget=sw.Budget(max_calls=1), error_boundary="continue", fallback="short")
    def body():
        for number in range(5):
            yield number
            sw.record_usage()
        return "whole"

    def delegating():
        return (yield from body()), scopes()

    def consume():
        result.append((yield from delegating()))

    result = []
    with sw.Run() as run:
        assert list(consume()) == [0, 1]
    assert result == [("short", [])]
    assert left(run) == [("step", "body", "skipped")]


def test_a_generator_step_serves_as_a_context_manager():
    """`contextmanager` over a generator step opens the step at entry, and ends it as the block ended."""

    @contextlib.contextmanager
    @sw.step
    def session(name):
        yield name, scopes()

    with sw.Run() as run:
        with session("a") as (name, inside):
            assert (name, inside, scopes()) == ("a", [("step", "session", None)], [])
        with pytest.raises(KeyError), session("b"):
            raise KeyError("inside")
    assert left(run) == [("step", "session", "completed"), ("step", "session", "failed")]
