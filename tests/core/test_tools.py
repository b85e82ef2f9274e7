"""Tools: asked and counted before they run, in every shape, with the outcome on the step's receipt."""

import asyncio
import contextvars
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

import stepwarden as sw


@pytest.fixture(autouse=True)
def _as_it_was():
    sw.hooks.clear()
    yield
    sw.hooks.clear()
    sw.configure(unscoped_calls="warn")


class Rack:
    """A tool in every shape; each call of a body is noted."""

    def __init__(self, name="use", **declared):
        ran = self.ran = []
        tool = sw.tool(name=name, **declared)

        class Held:
            @tool
            def method(self, fail=None):
                return body(fail)

            @classmethod
            @tool
            def class_method(cls, fail=None):
                return body(fail)

            @staticmethod
            @tool
            def static_method(fail=None):
                return body(fail)

        class Callable:
            async def __call__(self, fail=None):
                return body(fail)

        def body(fail):
            ran.append(1)
            if fail is not None:
                raise fail
            return "ran"

        async def later(fail=None):
            await asyncio.sleep(0)
            return body(fail)

        def generate(fail=None):
            yield body(fail)

        async def generate_later(fail=None):
            await asyncio.sleep(0)
            yield body(fail)

        run_later, run_callable, items, items_later = (
            tool(later),
            tool(Callable()),
            tool(generate),
            tool(generate_later),
        )
        self.calls = {
            "function": tool(lambda fail=None: body(fail)),
            "method": Held().method,
            "class method": Held.class_method,
            "static method": Held.static_method,
            "coroutine": lambda *args: asyncio.run(run_later(*args)),
            "callable object": lambda *args: asyncio.run(run_callable(*args)),
            "generator": lambda *args: list(items(*args))[0],
            "async generator": lambda *args: asyncio.run(_first(items_later(*args))),
        }


async def _first(items):
    (item,) = [item async for item in items]
    return item


SHAPES = list(Rack().calls)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def outcomes(run, name="plan"):
    """Return the tools' names and outcomes on the one receipt of this name."""
    (receipt,) = [one for one in run.receipts if one.name == name]
    return [(tool.name, tool.outcome) for tool in receipt.tools]


@every_shape
def test_an_allowed_tool_runs_and_counts(shape):
    """An allowed call runs, counts on the step and everything around, and is completed on the step's receipt."""
    rack = Rack(side_effect="read_only")
    with sw.Run() as run, sw.step("outer"), sw.step("plan", tools=["us*"], side_effect_level="read_only"):
        assert rack.calls[shape]() == "ran"
    assert rack.ran == [1]
    assert outcomes(run) == [("use", "completed")]
    assert outcomes(run, "outer") == []
    assert [(one.own.tool_calls, one.total.tool_calls) for one in run.receipts] == [(1, 1), (0, 1)]
    assert run.total.tool_calls == 1


@every_shape
@pytest.mark.parametrize("ceiling", [{"tools": ["other"]}, {"tools": []}, {"side_effect_level": "read_only"}])
def test_a_denied_tool_never_runs(shape, ceiling):
    """A call that the policy refuses raises ToolDeniedError before the body, is not counted, and is on the receipt."""
    rack = Rack(side_effect="workspace_write")
    with sw.Run() as run, sw.step("plan", **ceiling) as scope:
        with pytest.raises(sw.ToolDeniedError) as caught:
            rack.calls[shape]()
        policy = scope.policy
    error = caught.value
    assert rack.ran == []
    assert (error.tool, error.policy) == ("use", policy)
    assert error.reason
    assert error.reason in str(error)
    assert not isinstance(error, OSError)
    assert isinstance(error, sw.PolicyViolationError)
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(twin), twin.tool, twin.reason, twin.policy) == (str(error), error.tool, error.reason, error.policy)
    assert outcomes(run) == [("use", "denied")]
    assert run.total.tool_calls == 0


@every_shape
def test_a_failed_tool_counts(shape):
    """A call whose body raises counts, and is failed on the receipt; its exception is as it was."""
    rack, error = Rack(), LookupError("tool")
    with sw.Run() as run, sw.step("plan"), pytest.raises(LookupError) as caught:
        rack.calls[shape](error)
    assert caught.value is error
    assert outcomes(run) == [("use", "failed")]
    assert run.total.tool_calls == 1


@every_shape
def test_a_tool_beyond_the_limit_never_runs(shape):
    """A call that would pass `max_tool_calls` is refused before its body, does not count, and is an exhaustion."""
    rack = Rack()
    with sw.Run() as run, sw.step("plan", budget=sw.Budget(max_tool_calls=2)) as scope:
        rack.calls[shape]()
        rack.calls[shape]()
        with pytest.raises(sw.BudgetExceededError) as caught:
            rack.calls[shape]()
        assert scope.remaining.max_tool_calls == 0
    error = caught.value
    assert (error.limit, error.limit_value, error.consumed, error.phase) == ("max_tool_calls", 2, 2, "tool")
    assert (error.scope_kind, error.scope_name, error.requested, error.reason) == ("step", "plan", 1, "no_room")
    assert "(2 of 2 spent, 0 held, 1 needed)" in str(error)
    assert len(rack.ran) == run.total.tool_calls == 2
    assert outcomes(run)[:2] == [("use", "completed")] * 2
    (receipt,) = run.receipts
    assert receipt.overshoot.tool_calls == 0


@pytest.mark.parametrize("declared", [{}, {"side_effect": "network"}])
@pytest.mark.parametrize("level", [level.name.lower() for level in sw.SideEffect])
def test_a_tool_that_declares_nothing_counts_as_the_network(declared, level):
    """Without a declared effect a tool may run only where the network may be used."""
    rack = Rack(**declared)
    with sw.Run(), sw.step("plan", side_effect_level=level):
        try:
            rack.calls["function"]()
        except sw.ToolDeniedError:
            assert level != "network"
        else:
            assert level == "network"


def test_bare_and_named_tools():
    """A bare decorator takes the function's name, an argument another one, and policies look at that name only."""

    @sw.tool
    def read():
        return "read"

    @sw.tool("edit", side_effect="none")
    def write():
        """Write."""
        return "write"

    with sw.Run(), sw.step("plan", tools=["read", "write"]):
        assert read() == "read"
        with pytest.raises(sw.ToolDeniedError) as caught:
            write()
    assert caught.value.tool == "edit"
    assert (write.__name__, write.__doc__, write.definition.name) == ("write", "Write.", "edit")
    assert write.definition.side_effect is sw.SideEffect.NONE


@pytest.mark.parametrize("wrap", [classmethod, staticmethod, property])
def test_a_tool_above_a_descriptor_is_refused(wrap):
    """The decorator above `@classmethod`, `@staticmethod` or `@property` says what to do instead."""
    with pytest.raises((sw.DefinitionError, TypeError), match=wrap.__name__):
        sw.tool(wrap(lambda self: None))


def test_the_policy_is_asked_before_the_limit():
    """Where a tool is both forbidden and beyond the limit, it is denied, and a denial uses no call up."""
    rack, other = Rack(), Rack("other")
    with sw.Run(), sw.step("plan", tools=["other"], budget=sw.Budget(max_tool_calls=1)):
        for _ in range(3):
            with pytest.raises(sw.ToolDeniedError):
                rack.calls["function"]()
        assert other.calls["function"]() == "ran"
        with pytest.raises(sw.ToolDeniedError):
            rack.calls["function"]()


@pytest.mark.parametrize("where", ["run", "persona", "step"])
def test_limits_of_scopes_around_hold(where):
    """A limit on any scope around refuses the call and is named, the outermost first; no boundary inside absorbs it."""
    rack, two = Rack(), sw.Budget(max_tool_calls=2)
    around = {
        "run": sw.Run(budget=two),
        "persona": sw.persona("captain", budget=two),
        "step": sw.step("out", budget=two),
    }

    @sw.step(budget=two, error_boundary="continue")
    def plan():
        for _ in range(3):
            rack.calls["function"]()

    with sw.Run(), pytest.raises(sw.BudgetExceededError) as caught, around[where]:
        plan()
    assert caught.value.scope_kind == where
    assert len(rack.ran) == 2


def test_its_own_limit_is_the_steps_own_exhaustion():
    """`continue` absorbs the refusal of the step's own `max_tool_calls`."""
    rack = Rack()

    @sw.step(budget=sw.Budget(max_tool_calls=1), error_boundary="continue", fallback="enough")
    def plan():
        while True:
            rack.calls["function"]()

    with sw.Run():
        assert plan() == "enough"
    assert len(rack.ran) == 1


@pytest.mark.parametrize("kind", ["threads", "tasks", "mixed shapes"])
@pytest.mark.parametrize("limit", [0, 7])
def test_a_parallel_batch_never_lets_one_more_through(kind, limit):
    """Of 50 calls at once exactly as many run as the limit allows, each admitted one counted once."""
    rack, refused = Rack(), []
    shapes = SHAPES if kind == "mixed shapes" else ["function"]

    def call(number):
        try:
            rack.calls[shapes[number % len(shapes)]]()
        except sw.BudgetExceededError as error:
            refused.append(error)

    async def in_tasks():
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(asyncio.to_thread(call, number))

    with sw.Run(budget=sw.Budget(max_tool_calls=limit)) as run, sw.step("plan"):
        if kind == "tasks":
            asyncio.run(in_tasks())
        else:
            with ThreadPoolExecutor(50) as pool:
                list(pool.map(sw.propagate(call), range(50)))
    assert (len(rack.ran), len(refused)) == (limit, 50 - limit)
    assert run.total.tool_calls == limit
    assert outcomes(run).count(("use", "completed")) == limit


def test_on_tool_denied_is_told_of_denials_only():
    """OnToolDenied gets the error and where it was, for each denied call, and nothing for failed or refused ones."""
    told = []
    sw.hooks.on("OnToolDenied", persona="cap*", step="plan")(told.append)
    rack, budget = Rack(), sw.Budget(max_tool_calls=0)
    with sw.Run(), sw.persona("captain"), sw.step("plan", tools=["other"]):
        with pytest.raises(sw.ToolDeniedError) as caught:
            rack.calls["function"]()
        with sw.step("unheard"), pytest.raises(sw.ToolDeniedError):
            rack.calls["function"]()
    with sw.Run(), sw.persona("captain"), sw.step("plan", budget=budget), pytest.raises(sw.BudgetExceededError):
        rack.calls["function"]()
    (event,) = told
    assert event.error is caught.value
    assert (event.event, event.target, event.persona, event.step) == (
        "OnToolDenied", "captain.plan", "captain", "plan",
    )  # fmt: skip


def elsewhere(function):
    """Call a function in a context without any scope."""
    return contextvars.Context().run(function)


@every_shape
def test_outside_every_scope_a_tool_runs(shape):
    """With no run open anywhere a tool runs in silence; while one is open elsewhere, a warning names `propagate`."""
    rack = Rack()
    assert rack.calls[shape]() == "ran"
    with sw.Run() as run, pytest.warns(sw.UnscopedCallWarning, match="propagate"):
        assert elsewhere(rack.calls[shape]) == "ran"
    assert run.total.tool_calls == 0


@every_shape
def test_outside_every_scope_a_tool_may_be_refused(shape):
    """With `unscoped_calls="refuse"` a tool outside every scope does not run, with "pass" it does, without a warning."""
    rack = Rack()
    sw.configure(unscoped_calls="refuse")
    with pytest.raises(sw.PolicyViolationError, match="propagate"):
        rack.calls[shape]()
    assert rack.ran == []
    sw.configure(unscoped_calls="pass")
    with sw.Run(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert elsewhere(rack.calls[shape]) == "ran"


@every_shape
def test_under_a_closed_run_a_tool_is_refused(shape):
    """Work that has outlived its run cannot call tools: RunClosedError, and the body does not run."""
    rack = Rack()
    with sw.Run() as run, sw.step("plan"):
        later = sw.propagate(rack.calls[shape])
    with pytest.raises(sw.RunClosedError):
        later()
    assert rack.ran == []
    assert run.total.tool_calls == 0


def test_a_tool_inside_a_tool_is_asked_and_counted_too():
    """A tool that calls another counts both, and the inner is denied on its own account."""

    @sw.tool
    def outer(inner):
        return inner()

    with sw.Run(budget=sw.Budget(max_tool_calls=3)) as run, sw.step("plan", tools=["outer", "use"]):
        assert outer(Rack().calls["function"]) == "ran"
        with pytest.raises(sw.ToolDeniedError):
            outer(Rack("secret").calls["function"])
    assert sorted(outcomes(run)) == [
        ("outer", "completed"), ("outer", "failed"), ("secret", "denied"), ("use", "completed"),
    ]  # fmt: skip
    assert run.total.tool_calls == 3


def test_decorators_between_keep_their_place():
    """A step around a wrapper around a step, and a tool likewise, lose nothing that stands between."""
    rack = Rack()

    def work():
        rack.ran.append(1)

    guarded = sw.step(name="again")(sw.tool(name="use")(sw.step(work)))
    with sw.Run(policy=sw.Policy([])) as run, pytest.raises(sw.ToolDeniedError):
        guarded()
    assert rack.ran == []
    assert outcomes(run, "again") == [("use", "denied")]
