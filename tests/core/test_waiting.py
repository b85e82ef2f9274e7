"""Waiting for other calls' holds, in threads, and between threads and event loops."""

import asyncio
import contextvars
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepwarden as sw

NOTHING = sw.Usage()
SAFETY = 30
"""Seconds after which a test gives up; nothing waits that long unless something is wrong."""


def elsewhere(reservation):
    """Take a hold in a context of its own, so that neither this context nor those copied from it hold anything."""
    return contextvars.copy_context().run(reservation.acquire)


def in_thread(function, *args, **kwargs) -> Future:
    """Call a function in a thread of its own under the scope of the caller, and give its result."""
    result: Future = Future()

    @sw.propagate
    def call() -> None:
        try:
            result.set_result(function(*args, **kwargs))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return result


def take(**ask):
    """Take a hold, and wait for it where it must."""
    return sw.reserve(**ask).acquire()


def until_waiting(run, callers) -> None:
    """Return when so many callers wait; there is no public count of them."""
    give_up = time.monotonic() + SAFETY
    while len(run.tree.waiting) != callers:
        assert time.monotonic() < give_up, f"{len(run.tree.waiting)} callers wait, not {callers}"
        time.sleep(0.001)


@pytest.mark.parametrize("change", ["settle", "release", "extend"])
def test_a_thread_waits_until_its_call_fits_now(change):
    """A thread whose call only holds keep out sleeps until a settle, a release or an extension makes room."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold = elsewhere(sw.reserve(input_tokens=60))
        result = in_thread(take, input_tokens=50)
        until_waiting(run, 1)
        assert not result.done()
        if change == "settle":
            hold.settle(input_tokens=50, output_tokens=0)
        elif change == "release":
            hold.release()
        else:
            run.extend(sw.Budget(max_tokens=110))
        result.result(SAFETY).release()
        if change == "extend":
            hold.release()
        assert run.held == NOTHING


@pytest.mark.parametrize(
    ("limit", "ask"),
    [
        ({"max_input_tokens": 10}, {"input_tokens": 6}),
        ({"max_output_tokens": 10}, {"output_tokens": 6, "min_output_tokens": 6}),
        ({"max_usd": 1}, {"cost_usd": "0.6"}),
        ({"max_calls": 1}, {}),
    ],
)
def test_every_limit_that_is_held_can_be_waited_for(limit, ask):
    """A call waits for room in any limit that holds count toward, and is refused when that is spent instead."""
    with sw.Run(budget=sw.Budget(**limit)) as run:
        hold = elsewhere(sw.reserve(**ask))
        granted, refused = in_thread(take, **ask), None
        until_waiting(run, 1)
        hold.release()
        hold = granted.result(SAFETY)
        refused = in_thread(take, **ask)
        until_waiting(run, 1)
        hold.settle(input_tokens=6, output_tokens=6, cost_usd="0.6")
        assert refused.exception(SAFETY).reason == "no_room"
        assert refused.exception().limit in limit
        assert run.held == NOTHING


def test_threads_are_served_in_the_order_in_which_they_came():
    """Threads that contend for one scope are granted first come, first served."""
    served = []

    def caller(number, size) -> None:
        with sw.reserve(input_tokens=size) as hold:
            served.append(number)
            hold.release()

    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        hold = elsewhere(sw.reserve(input_tokens=10))
        results = []
        for number, size in enumerate([10, 1, 9, 10, 10]):
            results.append(in_thread(caller, number, size))
            until_waiting(run, number + 1)
        hold.release()
        for result in results:
            result.result(SAFETY)
    # Those that fit together may report in either order, so only each waiter's turn is certain.
    assert (served[0], set(served[1:3]), served[3:]) == (0, {1, 2}, [3, 4])


@pytest.mark.parametrize("loop_thread", [False, True])
def test_a_timed_out_thread_leaves_nothing_behind(loop_thread):
    """A thread whose wait ends by `timeout` is out of the queue: those behind it move."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold = elsewhere(sw.reserve(input_tokens=60))
        call = (asyncio.run, coroutine(0.2)) if loop_thread else (take_50, 0.2)
        gives_up = in_thread(*call)
        until_waiting(run, 1)
        behind = in_thread(take, input_tokens=40)
        assert isinstance(gives_up.exception(SAFETY), sw.ReserveTimeoutError)
        behind.result(SAFETY).release()
        hold.release()
        assert run.held == NOTHING


def take_50(timeout):
    """Take 50 tokens."""
    return take(input_tokens=50, timeout=timeout)


async def coroutine(timeout):  # noqa: ASYNC109 - it is the reservation's own
    """Take 50 tokens as a coroutine."""
    return await sw.reserve(input_tokens=50, timeout=timeout)


def test_max_wait_ends_every_wait():
    """`configure(max_wait=...)` is the longest that any call waits, also where its own `timeout` is longer."""
    sw.configure(max_wait=0.02)
    try:
        with sw.Run(budget=sw.Budget(max_calls=1)):
            hold = elsewhere(sw.reserve())
            for ask in ({}, {"timeout": 600}, {"timeout": float("inf")}):
                with pytest.raises(sw.ReserveTimeoutError) as caught:
                    take(**ask)
                assert 0.01 < caught.value.waited < SAFETY
            hold.release()
    finally:
        sw.configure(max_wait=600)


def test_a_thread_never_waits_past_max_seconds():
    """Where `max_seconds` of a scope around is the least, the wait ends as a budget error in phase `deadline`."""
    with (
        sw.Run(budget=sw.Budget(max_calls=1)) as run,
        sw.persona("slow", budget=sw.Budget(max_seconds=0.05)) as slow,
        sw.step("s", budget=sw.Budget(max_seconds=60)),
    ):
        hold = elsewhere(sw.reserve())
        with pytest.raises(sw.BudgetExceededError) as caught:
            take(timeout=SAFETY)
        error = caught.value
        assert (error.limit, error.phase, error.reason, error.scope_id) == (
            "max_seconds", "deadline", "deadline", slow.id,
        )  # fmt: skip
        hold.release()
        assert run.held == NOTHING


def test_a_shorter_timeout_than_max_seconds_is_a_timeout():
    """Where `timeout` is the least, the wait ends as a ReserveTimeoutError, `max_seconds` or not."""
    with sw.Run(budget=sw.Budget(max_calls=1)), sw.step("s", budget=sw.Budget(max_seconds=60)):
        hold = elsewhere(sw.reserve())
        with pytest.raises(sw.ReserveTimeoutError):
            take(timeout=0.02)
        hold.release()


def test_more_seconds_make_a_threads_wait_longer():
    """A waiting thread whose scope is given more seconds goes on waiting."""
    with sw.Run(budget=sw.Budget(max_calls=1)) as run, sw.step("s", budget=sw.Budget(max_seconds=0.3)) as step:
        hold = elsewhere(sw.reserve())
        result = in_thread(take)
        until_waiting(run, 1)
        step.extend(sw.Budget(max_seconds=60))
        wait_for([result], timeout=0.6)
        assert not result.done()
        hold.release()
        result.result(SAFETY).release()


def test_a_sync_wait_on_a_loops_thread_is_an_error():
    """A sync acquire that would wait on a thread that runs a loop is a WouldBlockError, and leaves nothing behind."""

    async def main() -> None:
        with sw.Run(budget=sw.Budget(max_calls=1)) as run:
            hold = elsewhere(sw.reserve())
            for _ in range(2):
                with pytest.raises(sw.WouldBlockError):
                    sw.reserve().acquire()
                with pytest.raises(sw.WouldBlockError), sw.reserve(timeout=5):
                    pass
            with pytest.raises(sw.ReserveTimeoutError):
                sw.reserve(wait=False).acquire()
            waiting = asyncio.create_task(asyncio.to_thread(take))
            await asyncio.to_thread(until_waiting, run, 1)
            hold.release()
            (await waiting).release()
            assert run.held == NOTHING

    asyncio.run(main())


def test_an_end_of_the_run_ends_a_threads_wait():
    """A thread that waits in a run that ends is a RunClosedError, or refused for what the run left uncertain."""
    with sw.Run(budget=sw.Budget(max_calls=1)):
        hold = elsewhere(sw.reserve())
        with sw.Run() as inner:
            result = in_thread(take)
            until_waiting(inner, 1)
        assert isinstance(result.exception(SAFETY), sw.RunClosedError)
        hold.release()


def on_a_loop(function) -> Future:
    """Run a coroutine function on an event loop of its own, in a thread of its own."""
    return in_thread(lambda: asyncio.run(function()))


def test_waiters_on_two_loops_and_in_a_thread_are_woken_in_order():
    """Callers on two event loops and in a bare thread contend in one queue, and each is woken where it waits."""
    served = []

    def asynchronous(number):
        async def caller() -> None:
            async with sw.reserve(input_tokens=10) as hold:
                served.append(number)
                hold.release()

        return caller

    def synchronous(number) -> None:
        with sw.reserve(input_tokens=10) as hold:
            served.append(number)
            hold.release()

    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        hold = elsewhere(sw.reserve(input_tokens=1))
        results = []
        for number in range(6):
            start = on_a_loop if number % 3 else in_thread
            results.append(start(asynchronous(number)) if number % 3 else start(synchronous, number))
            until_waiting(run, number + 1)
        hold.release()
        for result in results:
            result.result(SAFETY)
        assert served == list(range(6))
        assert run.held == NOTHING


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("tab"), st.integers(1, 60), st.booleans()), min_size=2, max_size=10))
def test_nobody_is_forgotten_however_callers_are_mixed(callers):
    """Callers in threads and on two loops that come, cancel and go all end, and nothing stays held."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        hold = elsewhere(sw.reserve(input_tokens=50))

        def caller(size, impatient) -> None:
            try:
                with sw.reserve(input_tokens=size, timeout=0 if impatient else SAFETY) as granted:
                    granted.release()
            except sw.ReserveTimeoutError:
                assert impatient

        async def task(size) -> None:
            async with sw.reserve(input_tokens=size, timeout=SAFETY) as granted:
                granted.release()

        async def loop(name) -> None:
            mine = [(size, leaves) for where, size, leaves in callers if where == name]
            tasks = [(asyncio.create_task(task(size)), leaves) for size, leaves in mine]
            await asyncio.sleep(0)
            for one, leaves in tasks:
                if leaves:
                    one.cancel()
            for outcome in await asyncio.gather(*(one for one, _ in tasks), return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)

        with ThreadPoolExecutor(len(callers) + 2) as pool:
            ends = [pool.submit(sw.propagate(caller), size, leaves) for where, size, leaves in callers if where == "t"]
            ends += [pool.submit(sw.propagate(lambda name=name: asyncio.run(loop(name)))) for name in "ab"]
            hold.release()
            for end in ends:
                end.result(SAFETY)
        assert run.held == run.total == run.uncertain == NOTHING
