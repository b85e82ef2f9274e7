"""An application that does not use OpenTelemetry pays nothing for it, and one that has not set it up hardly anything."""

import subprocess
import sys
import textwrap

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import stepwarden as sw
from tests.telemetry.conftest import current


def run_script(script, **environment):
    """Run a program in an interpreter of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, timeout=60, env=environment or None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


STEPS = """
    import asyncio, sys
    import stepwarden as sw

    @sw.step(budget=sw.Budget(max_tokens=100))
    def plan():
        sw.record_usage(input_tokens=1)

    @sw.step(budget=sw.Budget(max_tokens=0), error_boundary="continue")
    def refused():
        sw.reserve(input_tokens=1).acquire()

    @sw.step
    async def wait():
        await asyncio.sleep(0)

    @sw.step
    def stream():
        yield 1
"""


def test_1000_steps_do_not_import_opentelemetry():
    """In an application that did not import it, nothing of OpenTelemetry is loaded after 1,000 steps."""
    script = STEPS + """
    with sw.Run():
        for _ in range(250):
            plan(), refused(), asyncio.run(wait()), list(stream())
    print(len(sw.current_run().receipts) if sw.current_run() else "done")
    print([name for name in sys.modules if name.startswith("opentelemetry")])
    """  # fmt: skip
    assert run_script(script) == ["done", "[]"]


def test_a_run_without_a_provider_is_not_watched():
    """Where the API is imported and no SDK is set up, no span is made, and steps take the short way."""
    script = STEPS + """
    from opentelemetry import metrics, trace

    with sw.Run() as run:
        plan(), refused()
        print(run.watchers, run.audience is run.hooks)
    print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
    """  # fmt: skip
    assert run_script(script) == ["()", "True", "[]"]


def test_an_sdk_that_is_switched_off_is_not_used():
    """With `OTEL_SDK_DISABLED`, runs are not watched though the application sets up its providers."""
    script = STEPS + """
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    metrics.set_meter_provider(MeterProvider())
    with sw.Run() as run:
        plan(), refused()
        print(run.watchers)
    """  # fmt: skip
    assert run_script(script, OTEL_SDK_DISABLED="true") == ["()"]


@pytest.mark.parametrize("stand_in", [trace.NoOpTracerProvider, trace.ProxyTracerProvider])
def test_what_stands_in_for_a_provider_is_none(application, stand_in):
    """A provider of the API's own makes no run watched, and no span of ours is in force."""
    application.trace(stand_in())
    with sw.Run() as run, sw.step("plan"):
        assert current() is None
        assert run.watchers == ()


def test_a_run_is_looked_at_when_it_opens(application):
    """A provider that is set up later counts for the runs that open then, and one that goes for none of those."""
    with sw.Run() as early:
        application.trace()
        sw.step(name="unseen")(lambda: None)()
        with sw.Run():
            sw.step(name="seen")(lambda: None)()
    assert early.watchers == ()
    assert [span.name for span in application.spans] == ["step seen"]


def test_a_watched_run_inside_an_unwatched_one_begins_a_trace(application):
    """Under a step that has no span, the next span hangs under what the application has in force, or begins a trace."""
    with sw.Run(), sw.step("unseen"):
        application.trace()
        with sw.Run(), sw.step("first"):
            pass
        with trace.get_tracer("application").start_as_current_span("request"), sw.Run(), sw.step("second"):
            pass
    assert application.parent("step first") is None
    assert application.parent("step second") == "request"


def test_each_provider_has_a_tracer_of_its_own(application):
    """Spans go to the provider that is set up when the run opens, though an earlier one had a tracer."""
    application.trace()
    with sw.Run(), sw.step("first"):
        pass
    other = TracerProvider(shutdown_on_exit=False)
    application.trace(other)
    with sw.Run(), sw.step("second"):
        assert trace.get_current_span().resource is other.resource
    assert [span.name for span in application.spans] == ["step first", "step second"]
