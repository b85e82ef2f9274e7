"""A clock that moves only when a test says so."""

from __future__ import annotations

import math
import threading

_NS_PER_SECOND = 1_000_000_000
# The two readings start far apart, so that code which confuses them fails at once.
_START_TIME_NS = 1_767_225_600 * _NS_PER_SECOND  # 2026-01-01T00:00:00Z
_START_MONOTONIC_NS = 1_000 * _NS_PER_SECOND


class FakeClock:
    """Stand in for the system's clocks; time stands still until `advance` is called.

    Every clock starts at 2026-01-01T00:00:00Z. It may be read and advanced from any thread.

    Example:
        >>> clock = FakeClock()
        >>> before = clock.monotonic_ns()
        >>> clock.advance(1.5)
        >>> clock.monotonic_ns() - before
        1500000000
    """

    __slots__ = ("_elapsed_ns", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._elapsed_ns = 0

    def monotonic_ns(self) -> int:
        """Read the monotonic clock, as `time.monotonic_ns` does.

        Returns:
            Nanoseconds from an arbitrary origin; only differences mean anything.
        """
        return _START_MONOTONIC_NS + self._elapsed_ns

    def time_ns(self) -> int:
        """Read the wall clock, as `time.time_ns` does.

        Returns:
            Nanoseconds since 1970-01-01T00:00:00Z.
        """
        return _START_TIME_NS + self._elapsed_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks forward.

        Args:
            seconds: How far, in seconds, rounded to the nearest nanosecond; 0 or more and finite.

        Raises:
            TypeError: *seconds* is not a number.
            ValueError: *seconds* is negative, infinite or NaN.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"seconds: {seconds!r} is not a number; give int or float seconds")
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"seconds: {seconds!r} cannot pass; give a finite number, 0 or more")
        step_ns = round(seconds * _NS_PER_SECOND)
        with self._lock:
            self._elapsed_ns += step_ns
