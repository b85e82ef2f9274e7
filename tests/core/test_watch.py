"""Watchers hear of every activation under a watched run; listeners of refusals and waits under every run."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
import time

import pytest

import stepwarden as sw
from stepwarden.core._settings import settings
from stepwarden.host import StepHost

SAFETY = 30


class Diary:
    """Write down what is heard, as a watcher and as a listener, and that the tree's lock was free."""

    def __init__(self):
        self.lines = []
        self.watched = []

    def watch(self, run):
        self.watched.append(run.name)
        return self

    def note(self, what, scope):
        assert not scope.tree.lock.__enter__.__self__._is_owned(), f"{what} was told under the lock"
        self.lines.append(f"{what} {scope.name}")

    def opened(self, scope):
        assert scope.status is None
        self.note("opened", scope)

    def suspended(self, scope):
        self.note("suspended", scope)

    def resumed(self, scope):
        self.note("resumed", scope)

    def closed(self, scope):
        assert scope.status is not None
        self.note(f"closed {scope.status}", scope)

    def refused(self, scope, error):
        self.note(f"refused {type(error).__name__} in", scope)

    def waited(self, scope, limit, seconds):
        assert seconds >= 0
        self.note(f"waited for {limit} in", scope)

    @property
    def closings(self):
        """What was closed, in order."""
        return [line.removeprefix("closed ") for line in self.lines if line.startswith("closed")]


@pytest.fixture
def diary(monkeypatch):
    kept = Diary()
    monkeypatch.setattr(settings, "watches", (lambda run: None, kept.watch))
    return kept


@pytest.fixture
def heard(monkeypatch):
    kept = Diary()
    monkeypatch.setattr(settings, "watches", ())
    monkeypatch.setattr(settings, "listeners", (kept,))
    return kept.lines


def until(condition):
    """Return when the condition holds; give up when something is wrong."""
    give_up = time.monotonic() + SAFETY
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


@pytest.mark.parametrize("shape", ["function", "coroutine", "block", "async block"])
def test_a_watcher_hears_of_every_activation_and_of_the_run(diary, shape):
    """Each step, persona and run is told once when it opens and once when it has closed, inner before outer."""
    make = {"function": lambda: "made", "coroutine": lambda: asyncio.sleep(0, "made")}.get(shape)

    async def in_blocks():
        async with sw.persona("captain"), sw.step("plan"):
            pass

    with sw.Run(name="voyage"):
        if shape == "block":
            with sw.persona("captain"), sw.step("plan"):
                pass
        elif shape == "async block":
            asyncio.run(in_blocks())
        elif shape == "function":
            assert sw.persona(name="captain")(sw.step(name="plan")(make))() == "made"
        else:

            async def plan():
                return await make()

            step = sw.step(plan)

            async def captain():
                return await step()

            assert asyncio.run(sw.persona(captain)()) == "made"
    assert diary.watched == ["voyage"]
    assert diary.lines == [
        "opened captain", "opened plan",
        "closed completed plan", "suspended plan", "closed completed captain", "suspended captain",
        "closed completed voyage", "suspended voyage",
    ]  # fmt: skip


def test_who_watches_is_asked_once_when_a_run_opens(monkeypatch):
    """A run that opens unwatched stays so, and costs no more than before; one that opens later is asked anew."""
    diary = Diary()
    monkeypatch.setattr(settings, "watches", ())
    with sw.Run(name="early") as early:
        monkeypatch.setattr(settings, "watches", (diary.watch,))
        sw.step(name="unseen")(lambda: None)()
        assert early.audience is early.hooks
        with sw.Run(name="inner"):
            sw.step(name="seen")(lambda: None)()
    assert diary.watched == ["inner"]
    assert diary.closings == ["completed seen", "completed inner"]


def test_an_implicit_run_is_watched_too(diary):
    """A step outside every run is heard of, and so is the end of the run that was opened for it alone."""
    sw.step(name="alone")(lambda: None)()
    assert diary.lines == ["opened alone", "closed completed alone", "suspended alone", "closed completed run"]


@pytest.mark.parametrize(
    ("boundary", "status"), [("fail", "failed"), ("continue", "skipped"), ("escalate", "escalated")]
)
def test_a_watcher_reads_how_an_activation_ended(diary, boundary, status):
    """When a watcher hears of the end, the status, the error and the numbers are those of the receipt."""
    seen = []
    diary.closed = lambda scope: seen.append((scope.status, scope.error, scope.total, scope.receipt))

    @sw.step(budget=sw.Budget(max_tokens=5), error_boundary=boundary)
    def plan():
        sw.record_usage(input_tokens=10)

    with sw.Run() as run:
        with contextlib.suppress(sw.BudgetExceededError, sw.EscalationError):
            plan()
    (receipt,) = run.receipts
    assert seen[0] == (status, receipt.error, receipt.total, receipt)
    assert receipt.total.input_tokens == 10
    assert receipt.error.type == "BudgetExceededError"


def test_a_denied_step_opens_and_closes(diary):
    """A step that a hook refused was an activation without a body: it is told as opened and as closed."""
    hooks = sw.Hooks()
    hooks.on("PreStep")(lambda event: sw.Deny("not today"))
    with sw.Run(hooks=hooks), pytest.raises(sw.HookDeniedError):
        sw.step(name="plan")(lambda: None)()
    assert diary.lines[:3] == ["opened plan", "closed denied plan", "suspended plan"]


def test_a_watched_generator_is_suspended_at_each_yield(diary):
    """Between two yields its body runs here, and a watcher hears whenever that begins and ends."""

    @sw.step
    def stream():
        yield 1
        yield 2

    with sw.Run():
        assert list(stream()) == [1, 2]
    assert diary.lines[:-2] == [
        "opened stream", "suspended stream", "resumed stream", "suspended stream", "resumed stream",
        "closed completed stream", "suspended stream",
    ]  # fmt: skip


def test_a_watched_async_generator_is_suspended_at_each_yield(diary):
    """Async generators are told of as generators are, thrown exceptions included."""

    @sw.step
    async def stream():
        try:
            yield 1
        except ValueError:
            yield 2

    async def consume():
        body = stream()
        got = [await anext(body), await body.athrow(ValueError())]
        await body.aclose()
        return got

    with sw.Run():
        assert asyncio.run(consume()) == [1, 2]
    assert diary.lines[:-2] == [
        "opened stream", "suspended stream", "resumed stream", "suspended stream", "resumed stream",
        "closed cancelled stream", "suspended stream",
    ]  # fmt: skip


def test_a_generator_collected_elsewhere_is_told_there(diary):
    """A generator that is collected in another context is resumed, closed and suspended there."""

    @sw.step
    def stream():
        yield 1

    with sw.Run():
        body = stream()
        contextvars.copy_context().run(next, body)
        diary.lines.clear()
        del body
        gc.collect()
        assert diary.lines == ["resumed stream", "closed cancelled stream", "suspended stream"]


def test_what_is_abandoned_is_told(diary):
    """A scope that is left open is told as abandoned, by its parent's end and by its run's."""

    @sw.step
    def stream():
        yield 1

    with pytest.raises(sw.ScopeOrderError), sw.Run(name="voyage"):
        with pytest.raises(sw.ScopeOrderError), sw.step("outer"):
            sw.step("inner").__enter__()
        body = stream()
        contextvars.copy_context().run(next, body)
        sw.step("lost").__enter__()
    assert diary.closings == [
        "abandoned inner", "failed outer", "abandoned lost", "abandoned stream", "failed voyage",
    ]  # fmt: skip
    before = len(diary.lines)
    body.close()
    assert diary.lines[before:] == ["resumed stream", "suspended stream"]


def test_hooks_are_heard_beside_watchers(diary):
    """A run keeps its hooks when it is watched: they can be registered, asked and removed while it is open."""
    hooks, told = sw.Hooks(), []
    with sw.Run(hooks=hooks) as run:
        assert run.hooks is hooks
        handle = hooks.on("PreStep")(lambda event: told.append(event.step))
        sw.step(name="first")(lambda: None)()
        handle.remove()
        sw.step(name="second")(lambda: None)()
    assert told == ["first"]
    assert diary.closings == ["completed first", "completed second", "completed run"]


# What listeners hear.


def refuse_reserve():
    with sw.reserve(input_tokens=100):
        raise AssertionError("it was granted")


def refuse_deadlock():
    with sw.reserve(input_tokens=60), sw.reserve(input_tokens=60):
        raise AssertionError("it was granted")


def refuse_at_once():
    hold = contextvars.copy_context().run(sw.reserve(input_tokens=60).acquire)
    try:
        sw.reserve(input_tokens=60, wait=False).acquire()
    finally:
        hold.release()


def refuse_after_waiting():
    hold = contextvars.copy_context().run(sw.reserve(input_tokens=60).acquire)
    try:
        sw.reserve(input_tokens=60, timeout=0.001).acquire()
    finally:
        hold.release()


def refuse_settling():
    with sw.reserve(input_tokens=10) as hold:
        hold.settle(input_tokens=100, output_tokens=0)


@sw.tool
def forbidden():
    raise AssertionError("it ran")


@sw.tool(side_effect="none")
def counted():
    raise AssertionError("it ran")


REFUSALS = {
    "no room": (refuse_reserve, "BudgetExceededError"),
    "deadlock": (refuse_deadlock, "BudgetExceededError"),
    "at once": (refuse_at_once, "ReserveTimeoutError"),
    "after waiting": (refuse_after_waiting, "ReserveTimeoutError"),
    "recorded": (functools.partial(sw.record_usage, input_tokens=100), "BudgetExceededError"),
    "settled": (refuse_settling, "BudgetExceededError"),
    "unpriced": (functools.partial(sw.reserve(input_tokens=1, model="no-such").acquire), "UnpricedModelError"),
    "unpriced record": (functools.partial(sw.record_usage, "no-such", input_tokens=1), "UnpricedModelError"),
    "tool denied": (forbidden, "ToolDeniedError"),
    "tool over its limit": (counted, "BudgetExceededError"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_listener_hears_of_each_refusal_once(heard, case):
    """Whatever refuses a call, passes a limit or denies a tool is told once, outside the lock, and raised as ever."""
    refuse, error = REFUSALS[case]
    budget = sw.Budget(max_tokens=100, max_tool_calls=0, max_usd=1, max_input_tokens=99)
    step = sw.step("plan", model="free", budget=budget, side_effect_level="none")
    with sw.Run(prices={"free": {"input": 0, "output": 0}}), pytest.raises(getattr(sw, error)), step:
        refuse()
    told = [line for line in heard if line.startswith("refused")]
    assert told == [f"refused {error} in plan"]


def test_a_listener_hears_of_an_escalation_after_what_caused_it(heard):
    """An escalation is told beside the refusal that it comes from."""
    with sw.Run(), pytest.raises(sw.EscalationError):
        with sw.step("plan", budget=sw.Budget(max_calls=0), error_boundary="escalate"):
            sw.record_usage()
    assert heard == ["refused BudgetExceededError in plan", "refused EscalationError in plan"]


@pytest.mark.parametrize("boundary", sw.ErrorBoundary)
def test_a_listener_hears_of_an_escalation_in_a_host(heard, boundary):
    """A host's boundary is told of where it escalates, and only there."""
    with StepHost() as host:
        host.register_step_from_dict("plan", {"budget": {"max_calls": 0}, "error_boundary": boundary})
        host.push_step("plan", 1)
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.record_usage()
        heard.clear()
        host.apply_error_boundary(caught.value, 1)
        host.prune_below_frame(0)
    assert heard == (["refused EscalationError in plan"] if boundary == "escalate" else [])


def test_a_listener_hears_of_a_denied_step_and_not_of_a_broken_hook(heard):
    """A denial by a hook is told; an error of a hook's own is nobody's refusal."""
    hooks = sw.Hooks()
    handle = hooks.on("PreStep")(lambda event: sw.Deny("not today"))
    with sw.Run(hooks=hooks):
        with pytest.raises(sw.HookDeniedError):
            sw.step(name="plan")(lambda: None)()
        handle.remove()
        hooks.on("PreStep")(lambda event: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sw.step(name="plan")(lambda: None)()
    assert heard == ["refused HookDeniedError in plan"]


def test_a_listener_hears_of_a_deadline(heard):
    """A coroutine step that its `max_seconds` stopped is told as refused."""

    @sw.step(budget=sw.Budget(max_seconds=0.01))
    async def sleepy():
        await asyncio.sleep(SAFETY)

    with sw.Run(), pytest.raises(sw.BudgetExceededError):
        asyncio.run(sleepy())
    assert heard == ["refused BudgetExceededError in sleepy"]


@pytest.mark.parametrize("way", ["thread", "task"])
def test_a_listener_hears_of_a_wait_that_was_granted(heard, way):
    """A caller that waited for another call's hold is told with the limit that kept it, once it has its own."""

    async def wait_in_task():
        (await sw.reserve(input_tokens=60)).release()

    def wait():
        if way == "task":
            asyncio.run(wait_in_task())
        else:
            sw.reserve(input_tokens=60).acquire().release()

    with sw.Run(name="voyage", budget=sw.Budget(max_tokens=100)) as run, sw.step("plan"):
        hold = contextvars.copy_context().run(sw.reserve(input_tokens=60).acquire)
        waiter = threading.Thread(target=sw.propagate(wait))
        waiter.start()
        until(lambda: len(run.tree.waiting) == 1)
        hold.release()
        waiter.join(SAFETY)
    assert heard == ["waited for max_tokens in plan"]


def test_nobody_hears_of_a_call_outside_every_scope(heard):
    """What happens outside every scope has no scope to be told of."""
    with pytest.raises(sw.HoldClosedError):
        hold = sw.reserve(input_tokens=1).acquire()
        hold.release()
        hold.release()
    assert heard == []
