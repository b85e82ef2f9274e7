"""Signal handlers that raise in the middle of our operations: nothing stays locked, open or held, and sums agree.

`Raises` visits, one after the other, every place at which CPython may run a handler: where a function begins, after
a call of something written in C, and where a loop jumps back. After a call of a Python function it never does.
"""

import contextlib
import contextvars
import functools
import gc
import inspect
import threading

import pytest

import stepwarden as sw
from stepwarden.accounts._book import Settle, Take
from stepwarden.accounts._memory_book import MemoryBook
from stepwarden.accounts._sheet import Booking, usage_of
from stepwarden.core._leaf import get_leaf
from tests.core.test_reentrancy import (
    LOOK_UP,
    Instants,
    assert_consistent,
    block,
    decorated,
    lose,
    places,
    record,
    release,
    settle,
    stream,
)


class Interrupted(BaseException):
    """Be what the signal handler raises."""


def interrupt():
    """Be the signal handler."""
    raise Interrupted


# What Python itself begins outside the `try` of a `with` statement: no library can come before that.
BEFORE_ANY_TRY = {"__exit__", "__aexit__"}


class Raises(Instants):
    """Raise at the instant with the given number of all at which a signal handler could."""

    def __init__(self, number):
        super().__init__(number, interrupt)
        self.into_python = set()
        self.where = None

    def __enter__(self):
        gc.disable()  # nobody hears what is raised in a finaliser, and one may run at any moment
        return super().__enter__()

    def __exit__(self, *exc_info):
        super().__exit__(*exc_info)
        gc.enable()

    def trace(self, frame, event, arg):
        if event == "call" and frame.f_code.co_name != "__init__" and not frame.f_code.co_flags & inspect.CO_GENERATOR:
            self.into_python.add(frame.f_back)
        if event == "opcode":
            last = self.before.get(frame)
            if last is not None and places(frame.f_code)[last][0].startswith("CALL") and frame in self.into_python:
                self.before[frame] = None
            self.into_python.discard(frame)
        self.where = frame.f_code.co_qualname, frame.f_lineno, event
        if event == "call" and frame.f_code.co_name in BEFORE_ANY_TRY:
            self.left += 1
        return super().trace(frame, event, arg)


def in_another_thread(function):
    """Call a function from another thread, and fail where it does not come back."""
    thread = threading.Thread(target=sw.propagate(function), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "another thread found the runtime locked"


OPERATIONS = {
    "record": record,
    "settle": settle,
    "release": release,
    "lose": lose,
    "step": decorated,
    "blocks": block,
    "generator": stream,
    "tool": LOOK_UP,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_an_interrupt_at_any_instant_leaves_the_runtime_as_it_was(operation):
    """A handler that raises at the k-th instant of an operation, for every k, leaves its scope in force and sums that agree."""
    number, was_there = 1, True
    while was_there:
        where = None
        with sw.Run(budget=sw.Budget(max_usd=1)) as run, sw.step("around") as around:
            operation()
            raises = Raises(number)
            with contextlib.suppress(Interrupted), raises:
                operation()
            was_there = raises.left <= 0
            where = number, raises.where
            assert get_leaf() is around, where
            in_another_thread(record)
            operation()
        assert around.status == "completed", where
        assert_consistent(run, (around,))
        number += 1
    assert number > 10, "no instants were visited"


@pytest.mark.parametrize("ending", ["settle", "release"])
def test_a_waiter_is_served_whatever_raises_in_the_one_that_makes_room(ending):
    """A caller that waits gets the room that another gives back, at whatever instant a handler raises in that."""
    number, was_there = 1, True
    while was_there:
        served = threading.Event()

        def wait_for_room(served=served):
            with sw.reserve(input_tokens=10, timeout=20) as hold:
                served.set()
                hold.settle(output_tokens=0, input_tokens=1)

        with sw.Run(budget=sw.Budget(max_input_tokens=30)) as run:
            # Taken where this context does not know of it, or the other thread would not wait for it.
            hold = contextvars.copy_context().run(sw.reserve(input_tokens=25).acquire)
            ends = functools.partial(hold.settle, input_tokens=5, output_tokens=0)
            if ending == "release":
                ends = hold.release
            thread = threading.Thread(target=sw.propagate(wait_for_room), daemon=True)
            thread.start()
            while not run.tree.waiting:
                thread.join(0.001)
            raises = Raises(number)
            with contextlib.suppress(Interrupted), raises:
                ends()
            was_there = raises.left <= 0
            with contextlib.suppress(sw.HoldClosedError):
                ends()
            assert served.wait(10), f"nobody was served after instant {number}, {raises.where}"
            thread.join(20)
        assert run.held == sw.Usage()
        number += 1
    assert number > 10, "no instants were visited"


# What is raised while a generator that was left early is finalised, nobody hears: Python says so, and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("outcome", ["taken", "spent"])
def test_an_interrupt_at_any_instant_makes_a_change_of_an_account_or_does_not(outcome):
    """A handler that raises at the k-th instant of a change in memory, for every k, leaves it made or not in each window."""
    number, was_there, met = 1, True, set()
    amounts = {"taken": (7, 3, 10**12, 1), "spent": (6, 2, 10**11, 1)}
    while was_there:
        book = MemoryBook()
        account = sw.Account("a", total=sw.Budget(max_usd=9), daily=sw.Budget(max_calls=5))
        with sw.Run() as run:
            hold = sw.reserve(input_tokens=7, output_tokens=3, cost_usd=1).acquire()
            entry = Booking((account,), 0)
            take = Take(entry, hold, never_waits=False, looks_only=False)
            if outcome == "taken":
                change = take
            else:
                book.put(take)
                change = Settle(entry, amounts["spent"])
            raises = Raises(number)
            with contextlib.suppress(Interrupted), raises:
                book.put(change)
            was_there = raises.left <= 0
            (state,) = book.states(0) or (None,)
            found = (
                {(one.held, one.spent) for one in state.windows} if state is not None else {(sw.Usage(), sw.Usage())}
            )
            assert len(found) == 1, (number, raises.where)
            ((held, spent),) = found
            assert (held, spent) == (usage_of(entry.held), usage_of(entry.spent)), (number, raises.where)
            met.add((held, spent))
            # What ended a call stands in the book with the next change at the latest, and what was asked for can be ended.
            book.put(Settle(entry, amounts["spent"]))
            assert {(one.held, one.spent) for one in book.states(0)[0].windows} == {
                (sw.Usage(), usage_of(amounts["spent"]))
            }
            hold.release()
        assert run.held == sw.Usage()
        number += 1
    before = sw.Usage() if outcome == "taken" else usage_of(amounts["taken"])
    after = usage_of(amounts["taken"]) if outcome == "taken" else sw.Usage()
    assert {held for held, _ in met} == {before, after}
    assert number > 10, "no instants were visited"
