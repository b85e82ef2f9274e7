"""`install("threading")`: threads and pools carry the scope, and `uninstall` restores exactly what was there."""

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import stepwarden as sw

START, SUBMIT = threading.Thread.start, ThreadPoolExecutor.submit


@pytest.fixture
def installed():
    """Install, and take it out again."""
    sw.install("threading")
    yield
    sw.uninstall("threading")
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == (START, SUBMIT)


def spend():
    """Spend one token."""
    sw.record_usage(input_tokens=1)


def started(thread):
    """Run a thread to its end."""
    thread.start()
    thread.join()


class Own(threading.Thread):
    """A thread with a `run` of its own."""

    def run(self):
        spend()


class OwnStart(threading.Thread):
    """A thread with a `start` of its own."""

    def start(self):
        super().start()


def with_pool():
    """Submit to a pool."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(spend).result()


def with_map():
    """Map over a pool."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: spend(), range(1)))


def with_executor():
    """Run in a loop's executor, and in a pool given to it."""

    async def scenario():
        await asyncio.get_running_loop().run_in_executor(None, spend)

    asyncio.run(scenario())


def with_to_thread():
    """Use `asyncio.to_thread`, which carries the scope by itself too."""
    asyncio.run(asyncio.to_thread(spend))


def with_own_instance_run():
    """Give one thread another `run`."""
    thread = threading.Thread()
    thread.run = spend
    started(thread)


WAYS = [
    lambda: started(threading.Thread(target=spend)),
    lambda: started(threading.Timer(0, spend)),
    lambda: started(Own()),
    lambda: started(OwnStart(target=spend)),
    with_own_instance_run,
    with_pool,
    with_map,
    with_executor,
    with_to_thread,
]


@pytest.mark.parametrize("way", WAYS, ids=range(len(WAYS)))
def test_every_kind_of_thread_carries_its_starters_scope(installed, way):
    """What a thread, a timer, a subclass or a pool's worker spends is its starter's."""
    with sw.Run() as run, sw.step("s") as step:
        way()
        assert (step.own.calls, step.own.input_tokens) == (1, 1)
    assert run.total.calls == 1


def test_it_goes_on_in_threads_of_threads(installed):
    """A thread that starts another one passes on the scope that it has itself."""
    with sw.Run(), sw.step("s") as step:

        def outer():
            with sw.step("inside"):
                started(threading.Thread(target=spend))

        started(threading.Thread(target=outer))
        assert (step.own.calls, step.total.calls) == (0, 1)


def test_an_open_hold_is_carried_too(installed):
    """A thread started inside a hold does not wait for it."""
    with sw.Run(budget=sw.Budget(max_tokens=10)), sw.reserve(output_tokens=10) as hold:
        caught = []

        def work():
            try:
                sw.reserve(output_tokens=1).acquire()
            except sw.BudgetExceededError as error:
                caught.append(error.reason)

        started(threading.Thread(target=work))
        hold.release()
    assert caught == ["would_deadlock"]


def test_a_worker_serves_each_caller_under_its_own_scope(installed):
    """A pool's worker outlives the scope it was started in, and works for others under theirs, or under none."""
    with ThreadPoolExecutor(1) as pool:
        with sw.Run() as first, sw.step("s"):
            pool.submit(spend).result()
        with sw.Run() as second:
            pool.submit(spend).result()
        assert pool.submit(sw.current_run).result() is None
    assert (first.total.calls, second.total.calls) == (1, 1)


def test_a_worker_that_was_started_while_installed_keeps_no_scope_after():
    """Uninstalled, a pool made meanwhile works outside every scope again."""
    with ThreadPoolExecutor(1) as pool:
        sw.install("threading")
        with sw.Run():
            assert pool.submit(sw.current_run).result() is not None
        sw.uninstall("threading")
        assert pool.submit(sw.current_run).result() is None


def test_a_pools_initializer_runs_outside_of_every_scope(installed):
    """A worker is set up for everybody, so its initializer is under nobody's scope."""
    seen = []
    with sw.Run(), ThreadPoolExecutor(1, initializer=lambda: seen.append(sw.current_run())) as pool:
        pool.submit(spend).result()
    assert seen == [None]


def test_pools_take_what_they_took_before(installed):
    """Generator functions, coroutine functions, keywords, errors and what cannot be called fare as without us."""

    def numbers(upto):
        yield from range(upto)

    async def answer():
        return 42

    with ThreadPoolExecutor(1) as pool:
        assert list(pool.submit(numbers, 3).result()) == [0, 1, 2]
        assert asyncio.run(pool.submit(answer).result()) == 42
        assert pool.submit(dict, self=1, function=2).result() == {"self": 1, "function": 2}
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result()
        with pytest.raises(TypeError, match="not callable"):
            pool.submit(None).result()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(spend)


def test_a_thread_cannot_be_started_twice_as_ever(installed):
    """A second start is the error that it always was, and the thread's own `run` stays."""
    thread = threading.Thread()
    thread.run = spend
    started(thread)
    before = thread.run
    with pytest.raises(RuntimeError, match="only be started once"):
        thread.start()
    assert thread.run is before


def test_a_thread_that_cannot_start_is_left_as_it_was(installed):
    """What was put on a thread is taken off when it does not start."""
    thread = threading.Thread(target=spend)
    thread._initialized = False
    with pytest.raises(RuntimeError):
        thread.start()
    assert "run" not in vars(thread)


def test_without_it_a_bare_thread_has_no_scope(installed):
    """Uninstalled, threads are what they were; installed again, they carry."""
    seen = []
    with sw.Run() as run:
        for change in (sw.uninstall, sw.install):
            change("threading")
            started(threading.Thread(target=lambda: seen.append(sw.current_run())))
        assert seen == [None, run]


def test_twice_is_as_good_as_once():
    """Installing and uninstalling twice is harmless, and what was there is back."""
    sw.install("threading")
    carrying = threading.Thread.start
    sw.install("threading", "threading")
    assert threading.Thread.start is carrying
    sw.uninstall("threading")
    sw.uninstall("threading")
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == (START, SUBMIT)


@pytest.mark.parametrize("copies_attributes", [False, True])
def test_somebody_elses_change_is_kept(monkeypatch, copies_attributes):
    """What another library has put around threads is neither lost nor undone, whoever came first."""

    def watched(original):
        def start(self):
            seen.append(self)
            original(self)

        return functools.wraps(original)(start) if copies_attributes else start

    seen = []
    theirs = watched(START)
    monkeypatch.setattr(threading.Thread, "start", theirs)
    sw.install("threading")
    with sw.Run() as run:
        started(threading.Thread(target=spend))
        outermost = watched(threading.Thread.start)
        threading.Thread.start = outermost
        sw.install("threading")
        started(threading.Thread(target=spend))
    assert (run.total.calls, len(seen)) == (2, 3)
    sw.uninstall("threading")
    assert threading.Thread.start is outermost
    sw.uninstall("threading")
    assert threading.Thread.start is outermost


def test_an_unknown_name_changes_nothing():
    """A name that cannot be installed is refused with those that can, before anything is changed."""
    for change in (sw.install, sw.uninstall):
        with pytest.raises(
            sw.DefinitionError,
            match=f"cannot {change.__name__} 'openia'; known: 'anthropic', 'openai', 'threading'",
        ):
            change("threading", "openia")
    assert threading.Thread.start is START
