"""The fake clock."""

import datetime as dt
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwarden.testing._clock import FakeClock


def test_starts_at_a_fixed_instant():
    """Every clock starts at the same instant of UTC, so what a test writes down is the same each time."""
    start = dt.datetime.fromtimestamp(FakeClock().time_ns() / 1e9, dt.UTC)

    assert start == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_stands_still_until_it_is_advanced():
    """Reading a clock does not move it."""
    clock = FakeClock()

    assert [clock.monotonic_ns(), clock.time_ns()] == [clock.monotonic_ns(), clock.time_ns()]


@given(st.lists(st.floats(0, 1e6) | st.integers(0, 10**6), max_size=20))
def test_both_readings_move_together(steps):
    """The two readings move by the same whole nanoseconds, each step rounded by itself."""
    clock = FakeClock()
    monotonic_ns, time_ns = clock.monotonic_ns(), clock.time_ns()

    for seconds in steps:
        clock.advance(seconds)

    expected = sum(round(seconds * 1_000_000_000) for seconds in steps)
    assert clock.monotonic_ns() - monotonic_ns == expected
    assert clock.time_ns() - time_ns == expected


@pytest.mark.parametrize("seconds", [-1, -0.001, math.inf, -math.inf, math.nan])
def test_time_that_cannot_pass_is_refused(seconds):
    """A clock moves forward by a finite time, or says that it cannot and stays where it is."""
    clock = FakeClock()
    before = clock.monotonic_ns()

    with pytest.raises(ValueError, match=r"seconds: .* cannot pass"):
        clock.advance(seconds)

    assert clock.monotonic_ns() == before


@pytest.mark.parametrize("seconds", [True, "1", None])
def test_what_is_not_a_number_is_refused(seconds):
    """Seconds are a number; True is none."""
    with pytest.raises(TypeError, match=r"seconds: .* is not a number"):
        FakeClock().advance(seconds)


def test_threads_lose_no_step():
    """Steps made by many threads at once all count."""
    clock = FakeClock()
    start_ns = clock.monotonic_ns()
    barrier = threading.Barrier(8)

    def advance_often():
        barrier.wait()
        for _ in range(500):
            clock.advance(0.001)

    threads = [threading.Thread(target=advance_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert clock.monotonic_ns() - start_ns == 8 * 500 * 1_000_000
