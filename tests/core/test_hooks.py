"""Hooks: which events reach them, in which order, and what their answers do."""

import asyncio
import functools
import warnings

import pytest

import stepwarden as sw


@pytest.fixture(autouse=True)
def _no_hooks_left():
    sw.hooks.clear()
    yield
    sw.hooks.clear()


SHAPES = ["function", "coroutine", "generator", "async generator"]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def call(shape, decorate, body, *args, **kwargs):
    """Decorate a function of this shape around *body*, call it, and run it to its end; return what it returns."""
    if shape == "function":

        def plan(*a, **k):
            return body(*a, **k)

        return decorate(plan)(*args, **kwargs)
    if shape == "generator":

        def plan(*a, **k):
            yield "item"
            return body(*a, **k)

        def drive():
            return (yield from decorate(plan)(*args, **kwargs))

        running = drive()
        while True:
            try:
                next(running)
            except StopIteration as stop:
                return stop.value

    async def plan(*a, **k):
        await asyncio.sleep(0)
        return body(*a, **k)

    async def items(*a, **k):
        yield "item"
        body(*a, **k)

    async def drive_async():
        if shape == "coroutine":
            return await decorate(plan)(*args, **kwargs)
        async for _ in decorate(items)(*args, **kwargs):
            pass
        return None

    return asyncio.run(drive_async())


def log(event, into, **match):
    """Register a hook that only appends what it is told."""
    return sw.hooks.on(event, **match)(into.append)


def statuses(run):
    """Return how each step and persona ended, in order."""
    return [(one.name, str(one.status)) for one in run.receipts]


@every_shape
def test_events_of_a_normal_activation_come_in_order(shape):
    """PersonaStart, PreStep, PostStep and PersonaEnd come once each, in this order, in every shape."""
    seen = []
    for event in ("PersonaEnd", "PostStep", "PreStep", "PersonaStart", "OnStepFailed", "OnEscalation"):
        log(event, seen)

    with sw.Run():
        call(shape, sw.persona(name="captain"), lambda: call("function", sw.step(name="plan"), lambda: 1))
    assert [(one.event, one.target) for one in seen] == [
        ("PersonaStart", "captain"), ("PreStep", "captain.plan"),
        ("PostStep", "captain.plan"), ("PersonaEnd", "captain"),
    ]  # fmt: skip


@every_shape
def test_pre_step_payload_names_the_step_and_its_arguments(shape):
    """PreStep tells the event, target, persona, step, function, args and kwargs, and nothing of an outcome."""
    seen = []
    log("PreStep", seen)
    with sw.Run(), sw.persona("captain"):
        call(shape, sw.step(name="plan it"), lambda *a, **k: None, 1, "two", three=3)
    (told,) = seen
    assert (told.event, told.target, told.persona, told.step) == ("PreStep", "captain.plan it", "captain", "plan it")
    assert (told.args, dict(told.kwargs)) == ((1, "two"), {"three": 3})
    assert told.function in {"plan", "items"}
    assert (told.output, told.error, told.pct, told.limit, told.receipt) == (None, None, None, None, None)


@pytest.mark.parametrize("shape", ["function", "coroutine", "generator"])
def test_post_step_payload_has_the_output(shape):
    """PostStep tells what the step returned, beside its arguments."""
    seen = []
    log("PostStep", seen)
    with sw.Run():
        assert call(shape, sw.step(name="plan"), lambda x: x + 1, 41) == 42
    (told,) = seen
    assert (told.output, told.args, told.error, told.persona, told.target) == (42, (41,), None, None, "plan")


@every_shape
@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)])
def test_on_step_failed_sees_any_exception_that_leaves(shape, error):
    """OnStepFailed observes whatever exception leaves the step, with the receipt, and PostStep is not told."""
    seen, post = [], []
    log("OnStepFailed", seen)
    log("PostStep", post)

    def body(_):
        raise error

    with sw.Run(), pytest.raises(type(error)):
        call(shape, sw.step(name="plan"), body, "arg")
    (told,) = seen
    assert type(told.error) is type(error)
    assert told.args == ("arg",)
    assert told.receipt.name == "plan"
    assert told.receipt.status in {sw.Status.FAILED, sw.Status.CANCELLED}
    assert post == []


@every_shape
def test_a_skipped_step_neither_fails_nor_returns(shape):
    """Where `continue` absorbs the exhaustion, neither OnStepFailed, OnEscalation nor PostStep is told."""
    seen = []
    for event in ("OnStepFailed", "OnEscalation", "PostStep"):
        log(event, seen)
    with sw.Run() as run:
        step = sw.step(name="plan", budget=sw.Budget(max_calls=0), error_boundary="continue")
        call(shape, step, sw.record_usage)
    assert seen == []
    assert statuses(run) == [("plan", "skipped")]


@every_shape
def test_an_escalation_is_told_and_has_left_the_step(shape):
    """OnEscalation tells the error and the receipt, and OnStepFailed is told too, since the error leaves the step."""
    escalated, failed = [], []
    log("OnEscalation", escalated)
    log("OnStepFailed", failed)
    step = sw.step(name="plan", budget=sw.Budget(max_calls=0), error_boundary="escalate")
    with sw.Run(), pytest.raises(sw.EscalationError) as caught:
        call(shape, step, sw.record_usage)
    assert [one.error for one in escalated] == [caught.value]
    assert [one.error for one in failed] == [caught.value]
    assert escalated[0].receipt.status is sw.Status.ESCALATED


@every_shape
def test_deny_stops_the_step_before_its_body(shape):
    """A Deny raises HookDeniedError, the body does not run, and one receipt is left, denied, with the reason."""
    ran = []
    sw.hooks.on("PreStep", step="plan")(lambda event: sw.Deny("not on Fridays"))
    with sw.Run() as run, pytest.raises(sw.HookDeniedError) as caught:
        call(shape, sw.step(name="plan", error_boundary="continue"), lambda: ran.append(1))
    assert ran == []
    assert (caught.value.event, caught.value.reason, caught.value.step) == ("PreStep", "not on Fridays", "plan")
    assert statuses(run) == [("plan", "denied")]
    receipt = run.receipts[0]
    assert receipt.error.type == "HookDeniedError"
    assert "not on Fridays" in receipt.error.message


@pytest.mark.parametrize("is_async", [False, True])
def test_deny_stops_a_block(is_async):
    """A Deny keeps the body of a `with` or `async with` block from running, and closes its scope as denied."""
    sw.hooks.on("PreStep")(lambda event: sw.Deny("no"))

    async def in_async_block():
        async with sw.step("plan"):
            raise AssertionError("the body ran")

    def in_block():
        if is_async:
            asyncio.run(in_async_block())
        with sw.step("plan"):
            raise AssertionError("the body ran")

    with sw.Run() as run:
        with pytest.raises(sw.HookDeniedError):
            in_block()
        assert sw.current_step() is None
    assert statuses(run) == [("plan", "denied")]


def test_the_first_deny_ends_it():
    """Hooks run in registration order, and none after the first Deny is asked."""
    asked = []

    def hook(name, answer):
        sw.hooks.on("PreStep")(lambda event: asked.append(name) or answer)

    hook("a", None)
    hook("b", sw.Deny("b said no"))
    hook("c", sw.Deny("c said no"))
    with sw.Run(), pytest.raises(sw.HookDeniedError, match="b said no"):
        call("function", sw.step(name="plan"), lambda: None)
    assert asked == ["a", "b"]


@every_shape
def test_each_pre_step_hook_sees_the_arguments_as_the_one_before_left_them(shape):
    """ReplaceArgs replaces positional and keyword arguments for the next hook, the body and PostStep alike."""
    seen, got = [], []

    @sw.hooks.on("PreStep")
    def add(event):
        seen.append((event.args, dict(event.kwargs)))
        return sw.ReplaceArgs((*event.args, len(event.args)), {**event.kwargs, f"k{len(event.kwargs)}": True})

    sw.hooks.on("PreStep")(add.function)
    sw.hooks.on("PreStep")(lambda event: seen.append((event.args, dict(event.kwargs))))
    sw.hooks.on("PostStep")(lambda event: seen.append((event.args, dict(event.kwargs))))
    with sw.Run():
        call(shape, sw.step(name="plan"), lambda *a, **k: got.append((a, k)), "x")
    assert got == [(("x", 1, 2), {"k0": True, "k1": True})]
    assert seen == [(("x",), {}), (("x", 1), {"k0": True}), *got, *got]


@pytest.mark.parametrize("shape", ["function", "coroutine", "generator"])
def test_each_post_step_hook_sees_the_output_as_the_one_before_left_it(shape):
    """ReplaceOutput replaces what the next hook sees and what the caller gets, and None is an output too."""
    seen = []
    sw.hooks.on("PostStep")(lambda event: seen.append(event.output) or sw.ReplaceOutput(event.output * 2))
    sw.hooks.on("PostStep")(lambda event: seen.append(event.output))
    sw.hooks.on("PostStep", step="last")(lambda event: sw.ReplaceOutput(None))
    with sw.Run():
        assert call(shape, sw.step(name="plan"), lambda: 21) == 42
        assert call(shape, sw.step(name="last"), lambda: 1) is None
    assert seen == [21, 42, 1, 2]


def test_output_of_an_async_generator_cannot_be_replaced_in_silence():
    """A ReplaceOutput for an async generator step, which has no output, is a TypeError as for a block."""
    sw.hooks.on("PostStep")(lambda event: sw.ReplaceOutput("lost"))
    with sw.Run(), pytest.raises(TypeError):
        call("async generator", sw.step(name="plan"), lambda: None)
    with sw.Run(), pytest.raises(TypeError), sw.step("plan"):
        pass


BAD = [
    ("PreStep", True), ("PreStep", "deny"), ("PreStep", sw.ReplaceOutput(1)), ("PreStep", sw.Deny), ("PostStep", 0),
    ("PostStep", sw.Deny("too late")), ("PostStep", sw.ReplaceArgs(())), ("OnStepFailed", sw.ReplaceOutput(1)),
    ("OnEscalation", False), ("PersonaStart", 1), ("PersonaEnd", sw.ReplaceOutput(1)), ("OnToolDenied", sw.Deny("x")),
    ("OnBudgetThreshold(1)", sw.Deny("x")),
]  # fmt: skip


@pytest.mark.parametrize(("event", "answer"), BAD)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_other_answer_is_a_type_error(event, answer, shape):
    """A hook that returns anything which its event does not know causes a TypeError that names the event."""
    sw.hooks.on(event)(lambda told: answer)

    @sw.tool
    def forbidden():
        raise AssertionError("it ran")

    def body():
        if event == "OnEscalation":
            sw.record_usage()
        if event == "OnStepFailed":
            raise ValueError
        if event == "OnToolDenied":
            forbidden()
        if event.startswith("OnBudget"):
            sw.record_usage(input_tokens=5)

    budget = sw.Budget(max_calls=0) if event == "OnEscalation" else sw.Budget(max_tokens=10)
    step = sw.step(name="plan", budget=budget, error_boundary="escalate", tools=[])
    with sw.Run(), pytest.raises(TypeError, match=event.partition("(")[0]), sw.persona("captain"):
        call(shape, step, body)


AWAITED = ["PreStep", "PostStep", "OnStepFailed", "OnEscalation", "PersonaStart", "PersonaEnd"]


@pytest.mark.parametrize("event", AWAITED)
def test_coroutine_hooks_of_coroutine_steps_are_awaited(event):
    """Coroutine hooks serve the six events of coroutine steps and personas, and are awaited to their end."""
    seen = []

    @sw.hooks.on(event)
    async def hook(told):
        await asyncio.sleep(0)
        seen.append(told.event)

    def body():
        if event == "OnEscalation":
            sw.record_usage()
        if event == "OnStepFailed":
            raise sw.PolicyViolationError("broken")

    @sw.persona
    async def captain():
        step = sw.step(name="plan", budget=sw.Budget(max_calls=0), error_boundary="escalate")

        @step
        async def plan():
            body()

        await plan()

    with sw.Run():
        try:
            asyncio.run(captain())
        except sw.StepwardenError as error:
            assert event in {"OnEscalation", "OnStepFailed"}, error  # noqa: PT017 - the other events raise nothing
    assert seen == [event]


def test_coroutine_hooks_answer_too():
    """What a coroutine hook returns is its answer: it replaces arguments and output, and denies."""

    @sw.hooks.on("PreStep")
    async def double(event):
        await asyncio.sleep(0)
        return sw.Deny("odd") if event.args[0] % 2 else sw.ReplaceArgs((event.args[0] * 2,), {})

    @sw.hooks.on("PostStep")
    async def negate(event):
        return sw.ReplaceOutput(-event.output)

    with sw.Run():
        assert call("coroutine", sw.step(name="plan"), lambda x: x + 1, 2) == -5
        with pytest.raises(sw.HookDeniedError, match="odd"):
            call("coroutine", sw.step(name="plan"), lambda x: x, 3)


@pytest.mark.parametrize("event", ["OnBudgetThreshold(50)", "OnToolDenied"])
def test_a_coroutine_hook_where_nothing_awaits_is_refused(event):
    """A coroutine function for a threshold or a denied tool is a DefinitionError at registration."""

    async def hook(event):
        raise AssertionError

    with pytest.raises(sw.DefinitionError):
        sw.hooks.on(event)(hook)
    with pytest.raises(sw.DefinitionError):
        sw.hooks.on(event)(functools.partial(hook))


class Late:
    """A callable that is a coroutine function only when it is called."""

    async def __call__(self, event):
        raise AssertionError("it ran")


@pytest.mark.parametrize("event", [*AWAITED, "OnBudgetThreshold(50)", "OnToolDenied"])
@pytest.mark.parametrize("shape", ["function", "generator", "block"])
def test_a_coroutine_hook_on_a_sync_step_is_a_clear_type_error(event, shape):
    """At the first call on a sync step, a coroutine hook is a TypeError that says so, and nothing is left unawaited."""
    sw.hooks.on(event)(Late())

    @sw.tool
    def forbidden():
        raise AssertionError("it ran")

    def body():
        if event == "OnEscalation":
            sw.record_usage()
            sw.record_usage()
        if event.startswith("OnBudget"):
            sw.record_usage()
        if event == "OnStepFailed":
            raise ValueError
        if event == "OnToolDenied":
            forbidden()

    step = sw.step("plan", budget=sw.Budget(max_calls=1), error_boundary="escalate", tools=[])

    def captain():
        if shape == "block":
            with step:
                body()
        else:
            call(shape, step, body)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with sw.Run(), pytest.raises(TypeError, match="coroutine"):
            call("generator" if shape == "generator" else "function", sw.persona(name="captain"), captain)
    assert [str(one.message) for one in caught] == []


@pytest.mark.parametrize("shape", ["function", "coroutine", "generator"])
@pytest.mark.parametrize(("boundary", "status"), [("continue", "skipped"), ("escalate", "escalated")])
def test_a_post_step_hook_that_finds_the_step_over_its_budget_meets_its_boundary(shape, boundary, status):
    """A PostStep hook that raises the step's own budget error ends the step as its boundary says."""
    steps = []

    @sw.hooks.on("PostStep")
    def audit(event):
        steps[0].check()

    def overspend():
        steps.append(sw.current_step())
        sw.record_usage()
        with pytest.raises(sw.BudgetExceededError):
            sw.record_usage()
        return "output"

    terms = {"fallback": "fallback"} if boundary == "continue" else {}
    decorate = sw.step(name="s", budget=sw.Budget(max_calls=1), error_boundary=boundary, **terms)
    with sw.Run() as run:
        if boundary == "continue":
            assert call(shape, decorate, overspend) == "fallback"
        else:
            with pytest.raises(sw.EscalationError):
                call(shape, decorate, overspend)
    assert statuses(run) == [("s", status)]


def test_an_awaitable_that_a_hook_returns_to_a_sync_step_is_a_clear_type_error():
    """What a hook of a sync step returns to be awaited is refused, also where it is no coroutine."""

    class Later:
        def __await__(self):
            yield

    sw.hooks.on("PreStep")(lambda event: Later())
    with sw.Run() as run, pytest.raises(TypeError, match="coroutine steps only"), sw.step("s"):
        pass
    assert statuses(run) == [("s", "failed")]


@pytest.mark.parametrize("given", [("ab",), (3,), (None,), ((), 3), ((), "ab")])
def test_arguments_that_could_not_be_passed_are_refused(given):
    """ReplaceArgs takes a tuple or list and a mapping: a string would have been taken apart into its letters."""
    with pytest.raises(TypeError, match="ReplaceArgs takes a tuple and a mapping or None, not "):
        sw.ReplaceArgs(*given)
