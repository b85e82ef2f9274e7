"""Signal handlers and finalisers in the middle of our operations: nothing is lost, nothing hangs, sums are exact.

CPython runs a signal handler between two instructions: when a function begins, after a call returns, and where a
loop jumps back. `Instants` visits every such place inside the runtime one after the other, so that what a real signal
meets by chance is met here for certain.
"""

import contextlib
import dis
import functools
import gc
import signal
import sys
import threading
from decimal import Decimal
from pathlib import Path

import pytest

import stepwarden as sw

RUNTIME = str(Path(sw.__file__).parent)
CENT = Decimal("0.01")
LOOK_UP = sw.tool(name="look_up", side_effect="none")(lambda: None)


@pytest.fixture(autouse=True)
def _collections_run_no_other_python():
    """Take out what other libraries have the collector call, such as hypothesis' function that measures its time.

    What earlier tests have left is collected before, since finalisers and callbacks of weak references are Python too.
    On CPython 3.11 a function of Python there lets a signal handler run in the middle of the setting of a context
    variable, which then goes on with memory that is no longer its own: with us as with anybody.
    """
    before = gc.callbacks[:]
    gc.callbacks[:] = [one for one in before if not hasattr(one, "__code__")]
    gc.collect()
    yield
    gc.callbacks[:] = before


@functools.cache
def places(code):
    """Return the name of every instruction of a function, and the exception handler that covers it."""
    covered = dis.Bytecode(code).exception_entries

    def handler(offset):
        return next((entry.target for entry in covered if entry.start <= offset < entry.end), None)

    return {one.offset: (one.opname, handler(one.offset)) for one in dis.get_instructions(code)}


class Instants:
    """Call *act* at the instant with the given number of all at which a signal handler could run in the runtime."""

    def __init__(self, number, act):
        self.left = number
        self.act = act
        self.before = {}

    def __enter__(self):
        self.outer = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(self.outer)

    def trace(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(RUNTIME):
            return None
        if event == "call":
            frame.f_trace_opcodes = True
            self.before.pop(frame, None)
            self.reach()
        elif event == "opcode":
            known = places(frame.f_code)
            name, handler = known.get(self.before.get(frame), ("", None))
            # Where the handler changes between two instructions, a trace function comes too late to be a signal.
            if name.startswith(("CALL", "JUMP_BACKWARD")) and known[frame.f_lasti][1] == handler:
                self.reach()
            self.before[frame] = frame.f_lasti
        elif event == "return":
            self.before.pop(frame, None)
        return self.trace

    def reach(self):
        self.left -= 1
        if self.left == 0:
            self.act()


@sw.step
def decorated():
    """Spend in a step that is a function."""
    sw.record_usage(input_tokens=1, cost_usd=CENT)


@sw.step
def streaming():
    """Spend in a step that is a generator."""
    sw.record_usage(input_tokens=1, cost_usd=CENT)
    yield


def record():
    """Record a call in the current scope."""
    sw.record_usage("m", input_tokens=1, cost_usd=CENT, cache_read_tokens=1)


def settle():
    """Take a hold and settle it."""
    with sw.reserve(input_tokens=2, output_tokens=3, cost_usd=2 * CENT) as hold:
        hold.settle(output_tokens=0, input_tokens=1, cost_usd=CENT)


def release():
    """Take a hold and give it back."""
    sw.reserve(input_tokens=2, cost_usd=CENT).acquire().release()


def lose():
    """Take a hold and leave it open."""
    with sw.reserve(input_tokens=2, output_tokens=3, cost_usd=CENT):
        pass


def block():
    """Open a step and a persona as blocks, spend in them and hold over the end of the inner one."""
    with sw.persona("p", stages=[sw.Stage("missed")]), sw.step("s"):
        record()
        sw.reserve(input_tokens=1, cost_usd=CENT).acquire()


def stream():
    """Go through a generator step."""
    for _ in streaming():
        record()


OPERATIONS = [record, settle, release, lose, decorated, block, stream, LOOK_UP]
NAMES = ["record", "settle", "release", "lose", "step", "blocks", "generator", "tool"]


def another_thread(function):
    """Call a function from another thread, and fail where it does not come back."""
    thread = threading.Thread(target=sw.propagate(function), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "another thread found the runtime locked"


def assert_consistent(run, scopes):
    """Check every sum of a run that has ended, from its receipts and from the scopes that could be kept."""
    receipts = run.receipts
    assert len({receipt.step_id for receipt in receipts}) == len(receipts)
    children = {}
    for receipt in receipts:
        children.setdefault(receipt.parent_id, []).append(receipt)
    for key, own, total in [(run.id, run.own, run.total), *((one.step_id, one.own, one.total) for one in receipts)]:
        inside = [receipt.total for receipt in children.get(key, [])]
        for field in ("input_tokens", "cost_usd", "calls", "tool_calls", "cache_read_tokens"):
            assert getattr(total, field) == getattr(own, field) + sum(getattr(usage, field) for usage in inside), field
    assert run.held == sw.Usage()
    assert {scope.id for scope in scopes} <= {receipt.step_id for receipt in receipts}


@pytest.mark.parametrize("inside", [record, settle, decorated, LOOK_UP], ids=["record", "settle", "step", "tool"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_an_operation_inside_an_operation_loses_neither(operation, inside):
    """An operation that a signal handler makes at the k-th instant of another, for every k, leaves exact sums."""
    number, was_there = 1, True
    with sw.Run() as once:
        operation()
        operation()
        inside()
    while was_there:
        with sw.Run(budget=sw.Budget(max_usd=1)) as run, sw.step("around") as around:
            operation()
            with Instants(number, inside) as instants:
                operation()
            was_there = instants.left <= 0
            if not was_there:
                inside()
        assert run.total == once.total
        assert run.uncertain == once.uncertain
        assert len(run.receipts) == len(once.receipts) + 1
        assert_consistent(run, (around,))
        number += 1


@pytest.mark.parametrize("operation", [settle, release, lose, record], ids=["settle", "release", "lose", "record"])
def test_nested_holds_never_pass_a_limit(operation):
    """Holds taken by a signal handler in the middle of others' are granted only where there is room for both."""
    number, was_there = 1, True
    while was_there:
        passed = []

        def nested(passed=passed):
            with contextlib.suppress(sw.ReserveTimeoutError, sw.BudgetExceededError):
                hold = sw.reserve(cost_usd=2 * CENT, wait=False).acquire()
                passed.append(run.total.cost_usd + run.held.cost_usd + run.uncertain.cost_usd > 3 * CENT)
                hold.settle(input_tokens=0, output_tokens=0, cost_usd=CENT)

        with sw.Run(budget=sw.Budget(max_usd=3 * CENT)) as run:
            with contextlib.suppress(sw.BudgetExceededError), Instants(number, nested) as instants:
                operation()
            was_there = instants.left <= 0
            assert passed in ([], [False])
            assert run.total.cost_usd + run.held.cost_usd + run.uncertain.cost_usd <= 3 * CENT
            assert run.held == sw.Usage()
        number += 1


def test_a_waiter_is_served_whatever_interrupts_the_one_that_makes_room():
    """A caller that waits gets the room that another gives back, at whatever instant a signal handler comes."""
    number, was_there = 1, True
    while was_there:
        served = threading.Event()

        def wait_for_room(served=served):
            with sw.reserve(input_tokens=10, timeout=20) as hold:
                served.set()
                hold.settle(output_tokens=0, input_tokens=1)

        with sw.Run(budget=sw.Budget(max_input_tokens=30)) as run:
            hold = sw.reserve(input_tokens=25).acquire()
            thread = threading.Thread(target=contextless(run, wait_for_room), daemon=True)
            thread.start()
            while not run.tree.waiting:
                thread.join(0.001)
            with Instants(number, record) as instants:
                hold.settle(output_tokens=0, input_tokens=5)
            was_there = instants.left <= 0
            with contextlib.suppress(sw.HoldClosedError):
                hold.settle(output_tokens=0, input_tokens=5)
            assert served.wait(10), f"nobody was served after instant {number}"
            thread.join(20)
            assert run.held == sw.Usage()
        number += 1


def contextless(run, function):
    """Return a function that works under a run, without the caller's open hold."""

    def work():
        with run.attach():
            function()

    return work


@contextlib.contextmanager
def signals(handler):
    """Let a handler be called by a real timer; the given function starts it."""
    before = signal.signal(signal.SIGVTALRM, handler)
    try:
        yield lambda first, again=0.0: signal.setitimer(signal.ITIMER_VIRTUAL, first, again)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_a_real_signal_handler_loses_nothing():
    """A timer's handler that records, opens a step and reserves while the main thread does the same: exact sums."""
    made = [0, 0]

    def handler(number, frame):
        for act in (record, settle, decorated):
            act()
            made[0] += 1

    with (
        sw.Run(budget=sw.Budget(max_usd=100_000), max_receipts=10**9) as run,
        sw.step("around"),
        signals(handler) as start,
    ):
        start(0.001, 0.001)
        while made[0] < 300:
            for act in (record, settle, decorated):
                act()
                made[1] += 1
    assert run.total.calls == run.total.input_tokens == sum(made)
    assert run.total.cost_usd == CENT * sum(made)
    assert_consistent(run, ())


class Finalised:
    """Be in a reference cycle, and spend when collected."""

    def __init__(self, act, count):
        self.itself = self
        self.act = sw.propagate(act)
        self.count = count

    def __del__(self):
        self.count.append(1)
        self.act()


@pytest.mark.parametrize("inside", [record, settle, decorated], ids=["record", "settle", "step"])
def test_a_finaliser_inside_the_lock_loses_nothing(inside):
    """Finalisers that spend, run by the collector at any allocation, also under our lock, neither hang nor lose."""
    collected, generators = [], 0
    before = gc.get_threshold()
    budget = sw.Budget(max_usd=1_000, max_tokens=100_000)
    with sw.Run(budget=budget) as run, sw.step("around", budget=budget):
        gc.collect()
        gc.set_threshold(1, 1, 1)
        try:
            for _ in range(60):
                Finalised(inside, collected)
                generator = streaming()
                next(generator)
                cycle = [generator]
                cycle.append(cycle)
                generators += 1
                del generator, cycle
                for act in (record, settle, decorated):
                    act()
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert len(collected) == 60
    assert run.total.calls == 60 * 3 + generators + len(collected)
    assert sum(receipt.name == "streaming" for receipt in run.receipts) == generators
    assert_consistent(run, ())


def test_finalisers_and_threads_do_not_deadlock():
    """Finalisers that spend inside the lock of one thread, while others want it, hang nobody and lose nothing."""
    collected = []
    before = gc.get_threshold()

    def work():
        for _ in range(60):
            Finalised(settle, collected)
            settle()
            decorated()

    with sw.Run() as run:
        gc.set_threshold(1, 1, 1)
        try:
            threads = [threading.Thread(target=sw.propagate(work), daemon=True) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert (run.total.calls, len(collected)) == (3 * 60 * 3, 180)
    assert_consistent(run, ())
