"""Generator steps that the garbage collector ends, in the middle of whatever allocated."""

import gc
import subprocess
import sys
import textwrap
import threading

import pytest

import stepwarden as sw
from stepwarden.core._collector import is_collecting


class Cycle:
    """Hold a generator that stands at its first `yield`, until the collector comes."""

    def __init__(self, items):
        self.items = items
        self.itself = self
        next(items)


@pytest.fixture
def unraisable(monkeypatch):
    """Give the errors that finalisers could not raise."""
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: caught.append(unraisable.exc_value))
    return caught


def test_collecting_in_the_middle_of_anything_is_safe():
    """Steps that are opened while abandoned ones are collected, at every other allocation, end as they should."""
    script = """
    import gc
    import stepwarden as sw

    @sw.step(budget=sw.Budget(max_calls=5))
    def stream():
        sw.record_usage(input_tokens=1)
        yield

    class Cycle:
        def __init__(self):
            self.items, self.itself = stream(), self
            next(self.items)

    for threshold in (1, 2, 3, 5, 700):
        gc.set_threshold(threshold, 1, 1)
        with sw.Run() as run:
            for _ in range(1_500):
                Cycle()
            gc.collect()
            assert sw.current_step() is None
        assert [str(one.status) for one in run.receipts] == ["cancelled"] * 1_500
        assert run.total.input_tokens == 1_500
    print("safe")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "safe\n", "")


def test_a_propagated_finaliser_in_the_middle_of_anything_is_safe():
    """A propagated function that a finaliser calls charges its own scope, in a small heap that is collected often."""
    script = """
    import gc
    import stepwarden as sw

    @sw.step
    def work():
        with sw.reserve(input_tokens=1) as hold:
            hold.settle(input_tokens=1)

    class Spending:
        def __init__(self):
            self.itself, self.act = self, sw.propagate(work)

        def __del__(self):
            self.act()

    gc.collect()
    gc.freeze()
    gc.set_threshold(1, 1, 1)
    with sw.Run(max_receipts=10_000) as run, sw.step("around") as around:
        for _ in range(1_000):
            Spending()
            work()
            assert sw.current_step() is around
        gc.collect()
    assert run.total.input_tokens == 2_000
    assert len(run.receipts) == 2_001
    print("safe")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "safe\n", "")


def test_what_a_collected_body_still_does_is_its_own(unraisable):
    """The end of a collected body runs inside its step, and the context of whoever was interrupted stays as it is."""
    seen = []

    @sw.step
    def stream():
        try:
            yield
        finally:
            seen.append(sw.current_step().name)
            sw.record_usage(input_tokens=3)

    with sw.Run() as run, sw.step("interrupted") as interrupted:
        Cycle(stream())
        gc.collect()
        assert sw.current_step() is interrupted
    assert seen == ["stream"]
    assert [(one.name, one.status, one.own.input_tokens) for one in run.receipts] == [
        ("stream", "cancelled", 3), ("interrupted", "completed", 0),
    ]  # fmt: skip
    assert unraisable == []


def after(end):
    """Make a body that ends in a way of its own when it is closed."""

    def body():
        try:
            yield
        except GeneratorExit:
            if end == "returns":
                return
            if end == "yields":
                yield
            if end == "fails":
                raise KeyError(end) from None
            sw.record_usage()

    return body


@pytest.mark.parametrize(
    ("end", "boundary", "status", "raised"),
    [
        ("returns", "fail", "cancelled", None),
        ("yields", "fail", "failed", RuntimeError),
        ("fails", "continue", "failed", KeyError),
        ("spends", "fail", "failed", sw.BudgetExceededError),
        ("spends", "continue", "skipped", None),
        ("spends", "escalate", "escalated", sw.EscalationError),
    ],
)
def test_a_collected_generator_ends_as_it_does(unraisable, end, boundary, status, raised):
    """However its body answers, a collected generator leaves one receipt, hears its boundary and tells its hooks once."""
    hooks, told = sw.Hooks(), []
    hooks.on("OnStepFailed")(lambda event: told.append(event.step))
    step = sw.step(name="stream", budget=sw.Budget(max_calls=0), error_boundary=boundary)(after(end))
    with sw.Run(hooks=hooks) as run:
        Cycle(step())
        gc.collect()
    assert [str(receipt.status) for receipt in run.receipts] == [status]
    assert [type(error) for error in unraisable] == ([] if raised is None else [raised])
    assert told == ([] if raised is None else ["stream"])


def test_nothing_of_ours_that_the_collector_calls_is_python():
    """A collection runs no bytecode of ours, so that no signal handler gets in where it interrupted a C function."""
    script = "import gc, stepwarden; print([one for one in gc.callbacks if hasattr(one, '__code__')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the collector interrupts no C function any more")
def test_only_the_thread_that_collects_is_collecting():
    """While one thread collects, its finalisers know it, and other threads do not mind."""
    seen = []

    class Watching:
        def __init__(self):
            self.itself = self

        def __del__(self):
            seen.append(is_collecting())
            other = threading.Thread(target=lambda: seen.append(is_collecting()))
            other.start()
            other.join(30)

    Watching()
    gc.collect()
    assert seen == [True, False]
    assert not is_collecting()
