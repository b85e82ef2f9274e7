"""Spans: one for each activation, parents and children as in the tree, in force exactly while the body runs."""

import asyncio
import contextvars
import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context, trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

import stepwarden as sw
from stepwarden.host import StepHost
from tests.telemetry.conftest import Application, current


def run_nested(shape, seen):
    """Open step `inner` in persona `outer` in one of the shapes that both may have; note the span in force."""

    def sync_body(then=None):
        def body():
            seen.append(current())
            if then is not None:
                then()
            seen.append(current())

        return body

    def generator_body(then=None):
        def body():
            seen.append(current())
            if then is not None:
                list(then())
            yield
            seen.append(current())

        return body

    def coroutine_body(then=None):
        async def body():
            seen.append(current())
            if then is not None:
                await then()
            await asyncio.sleep(0)
            seen.append(current())

        return body

    def async_generator_body(then=None):
        async def body():
            seen.append(current())
            if then is not None:
                assert [item async for item in then()] == [None]
            yield
            seen.append(current())

        return body

    make, run = {
        "function": (sync_body, lambda outer: outer()),
        "generator": (generator_body, lambda outer: list(outer())),
        "coroutine": (coroutine_body, lambda outer: asyncio.run(outer())),
        "async generator": (async_generator_body, lambda outer: asyncio.run(consume(outer()))),
    }[shape]
    inner = sw.step(name="inner")(make())
    run(sw.persona(name="outer")(make(inner)))


async def consume(items):
    return [item async for item in items]


SHAPES = ["function", "generator", "coroutine", "async generator"]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_activation_has_a_span_under_the_one_around(traced, shape):
    """A persona's span holds its step's, and in each body its own span is in force."""
    seen = []
    with sw.Run():
        run_nested(shape, seen)
        assert current() is None
    assert [span.name for span in traced.spans] == ["step inner", "invoke_agent outer"]
    assert traced.parent("step inner") == "invoke_agent outer"
    assert traced.parent("invoke_agent outer") is None
    assert seen == ["invoke_agent outer", "step inner", "step inner", "invoke_agent outer"]


def test_blocks_have_spans(traced):
    """`with` and `async with` blocks have spans as functions have."""

    async def in_blocks():
        async with sw.persona("outer"), sw.step("inner"):
            return current()

    with sw.Run():
        assert asyncio.run(in_blocks()) == "step inner"
        with sw.step("alone"):
            assert current() == "step alone"
    assert traced.parent("step inner") == "invoke_agent outer"
    assert traced.parent("step alone") is None


def test_spans_of_the_application_keep_their_place(traced):
    """A span that the application opens around a step, or between two, is the parent of what is inside it."""
    tracer = trace.get_tracer("application")
    with tracer.start_as_current_span("request"), sw.Run(), sw.step("outer"):
        with tracer.start_as_current_span("phase"), sw.step("inner"):
            with tracer.start_as_current_span("chat model"):
                pass
    assert traced.parent("chat model") == "step inner"
    assert traced.parent("step inner") == "phase"
    assert traced.parent("phase") == "step outer"
    assert traced.parent("step outer") == "request"


def test_a_step_outside_every_run_has_a_span(traced):
    """The run that is opened for a step alone is looked at as any other."""
    assert sw.step(name="alone")(current)() == "step alone"
    assert traced.parent("step alone") is None


def test_a_run_inside_a_step_hangs_under_its_span(traced):
    """Steps of an inner run are children of the step around it, though the run itself has no span."""
    with sw.Run(), sw.step("outer"), sw.Run(), sw.step("inner"):
        pass
    assert traced.parent("step inner") == "step outer"


def test_interleaved_generators_keep_their_spans(traced):
    """Two generators that are consumed in turns each see their own span, and between them nobody's is in force."""
    seen = []

    def body(name):
        for _ in range(3):
            seen.append((name, current()))
            yield

    with sw.Run():
        one, other = (sw.step(name=name)(body)(name) for name in ("one", "other"))
        for _ in range(3):
            next(one)
            assert current() is None
            next(other)
            assert current() is None
        assert list(one) + list(other) == []
    assert seen == [("one", "step one"), ("other", "step other")] * 3
    assert traced.parent("step one") is traced.parent("step other") is None


def test_a_generator_hangs_under_the_scope_that_called_it(traced):
    """The parent of a generator's span is that of its scope: where it was called, not where it is consumed."""

    @sw.step
    def stream():
        yield current()

    with sw.Run(), sw.step("caller"):
        items = stream()
        with sw.step("consumer"):
            assert list(items) == ["step stream"]
            assert current() == "step consumer"
    assert traced.parent("step stream") == "step caller"


@given(order=st.lists(st.integers(0, 2), max_size=12), shape=st.sampled_from(["generator", "async generator"]))
def test_any_order_of_resumptions_keeps_the_spans(order, shape):
    """Whatever order generators are resumed in, each body sees its own span, and the consumer always its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        traced = Application(monkeypatch)
        traced.trace()

        def body(name):
            while True:
                assert current() == f"step {name}"
                with sw.step("inside"):
                    yield
                    assert current() == "step inside"

        async def async_body(name):
            while True:
                assert current() == f"step {name}"
                with sw.step("inside"):
                    yield
                    assert current() == "step inside"

        async def drive():
            make = body if shape == "generator" else async_body
            steps = [sw.step(name=str(number))(make)(str(number)) for number in range(3)]
            for number in order:
                await anext(steps[number]) if shape == "async generator" else next(steps[number])
                assert current() == "step consumer"
            for step in steps:
                await step.aclose() if shape == "async generator" else step.close()
                assert current() == "step consumer"

        with sw.Run(), sw.step("consumer"):
            asyncio.run(drive())
        assert current() is None
        assert {traced.parent(f"step {number}") for number in set(order)} <= {"step consumer"}
        traced.shut_down()


@pytest.mark.parametrize("end", ["closed", "collected", "exhausted", "failed"])
def test_a_generator_that_ends_in_another_context_leaks_nothing(traced, caplog, end):
    """Ended elsewhere than it began, a generator's span ends, and neither context keeps it or hears an error."""

    @sw.step
    def stream():
        yield 1

    begun = contextvars.copy_context()
    with sw.Run():
        items = stream()
        begun.run(next, items)
        with sw.step("elsewhere"):
            if end == "closed":
                items.close()
            elif end == "exhausted":
                assert list(items) == []
            elif end == "failed":
                with pytest.raises(KeyError):
                    items.throw(KeyError())
            del items
            gc.collect()
            assert current() == "step elsewhere"
    assert begun.run(current) is None
    assert [span.name for span in traced.spans] == ["step stream", "step elsewhere"]
    assert caplog.records == []


def test_a_collected_async_generator_leaks_nothing(traced, caplog):
    """An async generator that is dropped half-way ends its span in the task that the loop closes it in."""

    @sw.step
    async def stream():
        yield 1

    async def drop():
        items = stream()
        await anext(items)
        del items
        gc.collect()
        await asyncio.sleep(0)
        return current()

    with sw.Run():
        assert asyncio.run(drop()) is None
    assert traced.span("step stream").attributes["stepwarden.status"] == "cancelled"
    assert caplog.records == []


def test_what_is_left_open_ends_with_what_is_around(traced):
    """A span that nobody ended is ended as abandoned, and its context gives way to that of the scope that is left."""
    with sw.Run(), pytest.raises(sw.ScopeOrderError), sw.step("around"):
        sw.step("left").__enter__()
        assert current() == "step left"
    assert current() is None
    assert traced.span("step left").attributes["stepwarden.status"] == "abandoned"
    with pytest.raises(sw.ScopeOrderError), sw.Run():
        sw.step("lost").__enter__()
    assert current() is None
    assert traced.span("step lost").attributes["stepwarden.status"] == "abandoned"


def test_a_run_that_ends_elsewhere_ends_the_spans_under_it(traced):
    """When a run ends in another thread, its spans end, and the thread that they were in force in loses them at leaving."""
    opened, ended = threading.Event(), threading.Event()
    after = []
    run = sw.Run().__enter__()

    @sw.propagate
    def work():
        with sw.step("outliving"):
            opened.set()
            assert ended.wait(30)
        after.append(current())

    worker = threading.Thread(target=work)
    worker.start()
    assert opened.wait(30)
    run.__exit__(None, None, None)
    assert traced.span("step outliving").attributes["stepwarden.status"] == "abandoned"
    ended.set()
    worker.join(30)
    assert after == [None]


def test_what_a_run_loses_elsewhere_is_not_in_force(traced):
    """A run that ended in another thread gives its own thread back what was in force, once that leaves it, too."""
    with sw.Run() as run:
        sw.step("lost").__enter__()
        ending = threading.Thread(target=contextvars.Context().run, args=(run.__exit__, None, None, None))
        ending.start()
        ending.join(30)
        assert traced.span("step lost").attributes["stepwarden.status"] == "abandoned"
    assert current() is None


def test_a_closed_generator_that_runs_on_leaks_nothing(traced):
    """A generator that its run abandoned may still be resumed, and gives back the context of whoever resumes it."""

    @sw.step
    def stream():
        yield 1
        yield 2

    with sw.Run():
        items = stream()
        next(items)
    with sw.Run(), sw.step("later"):
        assert next(items) == 2
        assert current() == "step later"
        items.close()
        assert current() == "step later"
    assert traced.span("step stream").attributes["stepwarden.status"] == "abandoned"


def test_a_bare_thread_hangs_under_the_scope_that_was_carried(traced):
    """In a thread that has no trace of its own, a step is the child of the step around it, across threads and runs."""
    names = ["step one", "step two", "step three"]

    def work(name):
        return sw.step(name=name)(current)()

    with sw.Run(), sw.step("outer"), sw.Run(), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(sw.propagate(work), ["one", "two", "three"])) == names
    assert {traced.parent(name) for name in names} == {"step outer"}


def test_tasks_of_one_step_are_its_children(traced):
    """Steps in parallel tasks hang under the step that started them, each with its own span in force."""

    async def work(name):
        await asyncio.sleep(0)
        return current()

    @sw.step
    async def fan_out():
        steps = [sw.step(name=f"task{number}")(work) for number in range(5)]
        return await asyncio.gather(*(step(None) for step in steps), asyncio.to_thread(sw.step(name="thread")(current)))

    with sw.Run():
        assert asyncio.run(fan_out()) == [*(f"step task{number}" for number in range(5)), "step thread"]
    assert {traced.parent(span.name) for span in traced.spans[:-1]} == {"step fan_out"}


def test_a_task_that_outlives_its_step_stays_in_its_trace(traced):
    """A step of a background task hangs under the step that the task was started in, though that has ended."""

    @sw.step
    async def start():
        return asyncio.create_task(later())

    async def later():
        await asyncio.sleep(0)
        return sw.step(name="late")(current)()

    async def main():
        return await (await start())

    with sw.Run():
        assert asyncio.run(main()) == "step late"
    assert traced.parent("step late") == "step start"


def test_a_step_of_a_hook_hangs_beside_the_step(traced):
    """What a hook runs is a child of the step's parent, since the parent pays for it."""
    hooks = sw.Hooks()
    checked = sw.step(name="check")(current)
    hooks.on("PostStep", step="plan")(lambda event: checked() and None)
    with sw.Run(hooks=hooks), sw.step("outer"):
        sw.step(name="plan")(lambda: None)()
    assert traced.parent("step check") == "step outer"


def test_who_attaches_a_run_elsewhere_hangs_under_its_surroundings(traced):
    """A step of a run that is attached in another thread hangs under the step around the run."""
    with sw.Run(), sw.step("outer"), sw.Run() as run:

        def work():
            with run.attach(), sw.step("attached"):
                pass

        worker = threading.Thread(target=contextvars.Context().run, args=(work,))
        worker.start()
        worker.join(30)
    assert traced.parent("step attached") == "step outer"


@pytest.fixture
def host(traced):
    with StepHost() as opened:
        for name in ("outer", "inner"):
            opened.register_step_from_dict(name, {"budget": {"max_calls": 0}, "error_boundary": "escalate"})
        yield opened


def test_steps_of_a_host_have_spans(host, traced):
    """What a host pushes has a span that is in force until it is popped, under the one around it."""
    host.push_step("outer", 1)
    host.push_step("inner", 2)
    assert current() == "step inner"
    with sw.step("of Python"):
        assert current() == "step of Python"
    host.pop_and_record(2, "completed")
    assert current() == "step outer"
    host.prune_below_frame(0)
    assert current() is None
    assert traced.parent("step of Python") == "step inner"
    assert traced.parent("step inner") == "step outer"


def test_a_step_that_a_host_took_is_not_in_force(host, traced):
    """A step that is taken gives way at once, and its span ends with the status that it is finished with."""
    host.push_step("outer", 1)
    host.push_step("inner", 2)
    taken = host.take_active_step(2)
    assert current() == "step outer"
    host.finish_active_step(taken, "failed", "it broke")
    assert traced.span("step inner").attributes["stepwarden.status"] == "failed"
    host.push_step("inner", 2)
    host.take_active_step(2)
    host.prune_below_frame(0)
    assert current() is None


def test_a_step_that_a_host_never_finished_is_abandoned(application):
    """What a host took and never finished ends with the host."""
    application.trace()
    with StepHost() as host:
        host.register_step_from_dict("lost", {})
        host.push_step("lost", 1)
        host.take_active_step(1)
    assert application.span("step lost").attributes["stepwarden.status"] == "abandoned"


def test_nothing_of_a_suspended_host_is_in_force(host, traced):
    """While a host is suspended, its spans are not in force, and afterwards they are again."""
    host.push_step("outer", 1)
    host.push_step("inner", 2)
    with host.suspend():
        assert current() is None
        host.push_step("inner", 1)
        assert current() == "step inner"
    assert current() == "step inner"
    host.prune_below_frame(0)
    assert current() is None
    assert [span.name for span in traced.spans] == ["step inner", "step inner", "step outer"]


@pytest.mark.parametrize("pops", [False, True])
def test_a_host_that_is_attached_elsewhere_brings_its_spans(host, traced, pops):
    """In a thread that attaches a host, its innermost span is in force, and none is once it is left, popped or not."""
    host.push_step("outer", 1)
    host.push_step("inner", 2)
    seen = []

    def work():
        with host.attach():
            seen.append(current())
            if pops:
                host.prune_below_frame(1)
                seen.append(current())
        seen.append(current())

    worker = threading.Thread(target=contextvars.Context().run, args=(work,))
    worker.start()
    worker.join(30)
    assert seen == ["step inner", "step outer", None] if pops else ["step inner", None]
    host.prune_below_frame(0)
    assert current() is None
    assert [span.name for span in traced.spans] == ["step inner", "step outer"]


class Dropping(Sampler):
    """Keep the outermost spans and drop everything inside."""

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):
        keeps = not trace.get_current_span(parent_context).get_span_context().is_valid
        return SamplingResult(Decision.RECORD_AND_SAMPLE if keeps else Decision.DROP)

    def get_description(self):
        return "outermost only"


def test_a_sampler_that_drops_children_loses_no_totals(application):
    """A step's span says what everything under it spent, whether or not those have spans."""
    application.trace(sampler=Dropping())

    @sw.step
    def inner(depth):
        sw.record_usage(input_tokens=10, output_tokens=1, cost_usd="0.01")
        if depth:
            inner(depth - 1)

    with sw.Run(), sw.step("outer"):
        for _ in range(3):
            inner(4)
    (span,) = application.spans
    assert span.name == "step outer"
    assert span.attributes["stepwarden.total.input_tokens"] == 150
    assert span.attributes["gen_ai.usage.output_tokens"] == 15
    assert span.attributes["stepwarden.cost.usd"] == 0.15
    assert span.attributes["stepwarden.own.input_tokens"] == 0


def test_what_a_sampler_sees_is_known_at_the_start(application):
    """Names, limits and the model are on the span before it is sampled, so that a sampler can decide by them."""
    seen = []

    class Looking(Dropping):
        def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, *rest):
            seen.append(dict(attributes))
            return SamplingResult(Decision.DROP)

    application.trace(sampler=Looking())
    budget = sw.Budget(max_usd="0.5", max_calls=0)
    with sw.Run() as run, sw.step("plan", model="openai:gpt-5-mini", budget=budget) as step:
        pass
    assert seen == [{
        "stepwarden.kind": "step",
        "stepwarden.name": "plan",
        "stepwarden.run.id": run.id,
        "stepwarden.scope.id": step.id,
        "stepwarden.boundary": "fail",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "stepwarden.budget.max_usd": 0.5,
        "stepwarden.budget.max_calls": 0,
    }]  # fmt: skip


class Broken(SpanProcessor):
    """Fail at one of the two moments at which an SDK calls a processor."""

    def __init__(self, at):
        setattr(self, at, self.fail)

    def fail(self, *args, **kwargs):
        raise RuntimeError("the exporter is broken")


@pytest.mark.parametrize("at", ["on_start", "on_end"])
def test_a_broken_processor_costs_no_step(application, caplog, at):
    """What the application's own processor raises is logged with its traceback, and the step goes on."""
    application.trace(processor=Broken(at))
    with sw.Run() as run:
        assert sw.step(name="plan")(lambda: 7)() == 7
    assert [receipt.status for receipt in run.receipts] == ["completed"]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("stepwarden", logging.ERROR)
    assert record.exc_info[0] is RuntimeError
    assert current() is None


class Collecting(SpanProcessor):
    """Collect garbage while it holds a lock, which an SDK's processors may do at any allocation."""

    def __init__(self):
        self.lock = threading.Lock()
        self.ended = []

    def on_end(self, span):
        assert self.lock.acquire(blocking=False), "the thread that holds the lock wants it"
        gc.collect()
        self.ended.append(span.name)
        self.lock.release()


def test_a_finaliser_inside_the_sdk_waits_for_its_turn(application, caplog):
    """A generator step that is collected while the SDK ends a span ends its own right after, with its own time."""
    processor = Collecting()
    application.trace(processor=processor)

    @sw.step
    def stream():
        yield 1

    class Cycle:
        def __init__(self):
            self.items = stream()
            self.itself = self
            next(self.items)

    with sw.Run() as run:
        with sw.step("plan"):
            contextvars.copy_context().run(Cycle)
        assert processor.ended == ["step plan", "step stream"]
    assert [(one.name, one.status) for one in run.receipts] == [("plan", "completed"), ("stream", "cancelled")]
    assert caplog.records == []


def test_baggage_reaches_the_body_of_a_step(traced):
    """What else the application has in its context is there inside a step, and afterwards."""
    token = context.attach(context.set_value("tenant", "acme"))
    with sw.Run(), sw.step("plan"):
        assert context.get_value("tenant") == "acme"
    assert context.get_value("tenant") == "acme"
    context.detach(token)
