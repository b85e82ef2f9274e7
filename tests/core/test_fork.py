"""A forked child: what it inherited refuses and stays silent, and what it opens is its own."""

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest

import stepwarden as sw

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
LOOK_UP = sw.tool(name="look_up", side_effect="none")(lambda: "found")


def in_child(function):
    """Call a function in a forked child; return what it returned, or the name of the error that it raised."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                answer = function()
            except BaseException as error:
                answer = type(error).__name__
            os.write(writing, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else "no answer"


@sw.step
def small():
    """Spend something in a step."""
    sw.record_usage(input_tokens=1)


@sw.step
def streaming():
    """Spend something at each item."""
    for _ in range(3):
        sw.record_usage(input_tokens=1)
        yield


def open_block():
    """Open a step as a block."""
    with sw.step("block"):
        pass


def use_persona():
    """Open a persona."""
    sw.persona(name="p")(lambda: None)()


def take_hold():
    """Take a hold."""
    sw.reserve(input_tokens=1).acquire()


REFUSED = [small, open_block, use_persona, take_hold, lambda: sw.record_usage(input_tokens=1), LOOK_UP]
NAMES = ["step", "block", "persona", "reserve", "record", "tool"]


@pytest.mark.parametrize("act", REFUSED, ids=NAMES)
def test_an_inherited_run_refuses(act):
    """Whatever a forked child starts under a scope that it inherited is a `ForkedRunError`, and reaches nobody."""
    with sw.Run() as run, sw.step("s") as scope:
        assert in_child(act) == "ForkedRunError"
        assert (run.total, run.held, run.receipts) == (sw.Usage(), sw.Usage(), ())
        act()
        assert scope.status is None


def test_inherited_holds_runs_and_generators_refuse():
    """A child cannot settle or release an inherited hold, attach to the run, or go on in a generator that spends."""
    with sw.Run() as run:
        generator = streaming()
        next(generator)
        with sw.reserve(input_tokens=5) as hold:
            assert in_child(lambda: hold.settle(output_tokens=0, input_tokens=1)) == "ForkedRunError"
            assert in_child(hold.release) == "ForkedRunError"
            assert in_child(lambda: run.attach().__enter__()) == "ForkedRunError"
            assert in_child(lambda: next(generator)) == "ForkedRunError"
            assert in_child(lambda: next(streaming())) == "ForkedRunError"
            hold.settle(output_tokens=0, input_tokens=2)
        next(generator)
        assert (run.total.input_tokens, run.held) == (4, sw.Usage())
        generator.close()


def new_run():
    """Spend in a run of the child's own."""
    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        small()
        LOOK_UP()
        with sw.reserve(input_tokens=2) as hold:
            hold.settle(output_tokens=0, input_tokens=2)
        assert run.held == sw.Usage()
    return [run.parent is None, run.total.input_tokens, [receipt.name for receipt in run.receipts], run.id]


@pytest.mark.parametrize("inside", [True, False], ids=["inside a run", "outside"])
def test_a_new_run_in_the_child_is_a_root_of_its_own(inside):
    """A new run in the child works, has no parent, and charges nothing to the one that the child inherited."""
    if inside:
        with sw.Run(budget=sw.Budget(max_tokens=0)) as run, sw.step("s", tools=[]):
            answers = [in_child(new_run) for _ in range(2)]
        assert run.total == sw.Usage()
        assert len(run.receipts) == 1
    else:
        answers = [in_child(new_run) for _ in range(2)]
    assert [answer[:3] for answer in answers] == [[True, 3, ["small"]]] * 2
    assert answers[0][3] != answers[1][3]


def test_after_a_new_run_the_inherited_scope_still_refuses():
    """When the child has left a run of its own, it is back in the inherited scope, which refuses as before."""

    def act():
        new_run()
        small()

    with sw.Run():
        assert in_child(act) == "ForkedRunError"


def test_a_step_outside_every_run_works_in_the_child():
    """A child forked outside every run opens implicit runs as any process does, and can read their receipts."""
    sw.configure(ledger=sw.MemoryLedger())
    small()

    def act():
        small()
        return [receipt.name for receipt in sw.receipts()][-1:]

    assert in_child(act) == ["small"]
    assert len(sw.receipts()) == 1
    sw.configure(ledger=sw.MemoryLedger())


def test_the_receipts_of_before_the_fork_stay_readable():
    """What had finished before the fork can be read in the child as in the parent: it refuses only new work."""
    with sw.Run() as run:
        small()
        assert in_child(lambda: [receipt.own.input_tokens for receipt in run.receipts]) == [1]


def test_a_record_outside_every_scope_is_no_lost_context_in_the_child():
    """An inherited run that nobody can use is not open in the child: a record outside of it passes silently."""

    def act():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            threads = [threading.Thread(target=sw.record_usage)]
            errors = []
            threading.excepthook = lambda args: errors.append(args.exc_type.__name__)
            threads[0].start()
            threads[0].join(30)
        return errors

    with sw.Run():
        assert in_child(act) == []


PROGRAM = """
import os, sys
import stepwarden as sw

@sw.step
def around():
    {inside}

try:
    with sw.Run() as run:
        around()
except SystemExit as leaving:
    print("parent" if os.getpid() == parent else "child", leaving.code, sw.current_run(), flush=True)
    raise
print("parent", [(receipt.name, str(receipt.status)) for receipt in run.receipts], flush=True)
"""
LEAVING = {
    "step": "if os.fork() == 0: sys.exit(3)\n    os.wait()",
    "block": "with sw.step('block'):\n        if os.fork() == 0: sys.exit(3)\n        os.wait()",
    "hold": "with sw.reserve(input_tokens=1) as hold:\n        if os.fork() == 0: sys.exit(3)\n        os.wait()\n"
    "        hold.settle(output_tokens=0, input_tokens=1)",
    "generator": "generator = stream(); next(generator)\n    if os.fork() == 0: sys.exit(3)\n    os.wait()",
}


@pytest.mark.parametrize("inside", list(LEAVING))
def test_leaving_what_was_inherited_is_quiet(inside):
    """A child that unwinds through inherited scopes and holds says nothing, keeps its exit, and doubles no receipt."""
    program = PROGRAM.replace("{inside}", LEAVING[inside]).replace("import stepwarden as sw\n", STREAM)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    child, parent = done.stdout.splitlines()
    assert child == "child 3 None"
    assert parent.startswith("parent [(")
    assert parent.count("'around'") == 1
    assert "failed" not in parent


STREAM = textwrap.dedent(
    """
    import stepwarden as sw
    parent = os.getpid()

    @sw.step
    def stream():
        yield
    """
)


def test_a_child_ends_nothing_that_it_inherited():
    """In a child, an inherited step does not end, so that nobody is told of an end that is the parent's to tell."""
    with sw.Run(), sw.step("s") as step:
        assert in_child(lambda: (step.close(sw.Status.COMPLETED), step.status)) == [False, None]
        assert step.close(sw.Status.COMPLETED) is True
        assert step.close(sw.Status.FAILED) is False
        assert step.status == "completed"


def test_the_parent_goes_on_after_the_fork():
    """Forking changes nothing for the parent: its run counts, holds and ends as before."""
    with sw.Run() as run, sw.step("s"):
        with sw.reserve(input_tokens=5) as hold:
            in_child(lambda: None)
            hold.settle(output_tokens=0, input_tokens=3)
        in_child(lambda: None)
        sw.record_usage(input_tokens=1)
    assert (run.total.input_tokens, run.held) == (4, sw.Usage())
    assert [str(receipt.status) for receipt in run.receipts] == ["completed"]


def report(queue):
    """Say in a child process what an inherited scope and a run of its own do."""
    try:
        small()
        queue.put("went through")
    except sw.ForkedRunError:
        queue.put(new_run()[:3])


def test_a_multiprocessing_child_is_a_forked_child():
    """A process that `multiprocessing` forks meets the same rules."""
    with sw.Run() as run:
        queue = FORK.SimpleQueue()
        process = FORK.Process(target=report, args=(queue,))
        process.start()
        process.join(60)
        assert (process.exitcode, queue.get()) == (0, [True, 3, ["small"]])
    assert run.total == sw.Usage()


def work(number):
    """Spend in a pool's process."""
    sw.record_usage(input_tokens=number)


def test_a_process_pool_does_not_grant_the_budget_again():
    """Work in a forked process pool is refused, and the error arrives in the parent as what it is."""
    with sw.Run(budget=sw.Budget(max_tokens=5)) as run, ProcessPoolExecutor(1, mp_context=FORK) as pool:
        with pytest.raises(sw.ForkedRunError, match="fork"):
            pool.submit(work, 3).result(60)
        assert run.total == sw.Usage()


def test_a_fork_while_other_threads_are_at_work_does_not_hang_the_child():
    """A child forked while another thread is inside the runtime's locks can open a run, and a step outside of one."""
    if sys.gettrace() is not None:  # coverage has a lock of its own, which a child forked from a thread finds held
        name = "test_a_fork_while_other_threads_are_at_work_does_not_hang_the_child"
        command = [sys.executable, "-m", "pytest", "-q", "--no-cov", "-p", "no:cacheprovider", f"{__file__}::{name}"]
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("COV", "PYTEST"))}
        done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False, timeout=90)
        assert done.returncode == 0, done.stdout
        return
    sw.configure(ledger=sw.MemoryLedger(10))
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            small()

    def act():
        small()
        return new_run()[:3]

    threads = [threading.Thread(target=busy) for _ in range(2)]
    threads.append(threading.Thread(target=sw.propagate(busy)))
    for thread in threads:
        thread.start()
    try:
        for _ in range(25):
            assert in_child(act) == [True, 3, ["small"]]
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        sw.configure(ledger=sw.MemoryLedger())
