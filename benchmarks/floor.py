"""The floor: the least that any wrapper could do which knows where it is, keeps time and is safe under threads.

One `ContextVar` set and reset, one slotted object, two looks at the clock, one free lock. Ratios to it travel between
machines; nanoseconds do not.
"""

import functools
import threading
from collections.abc import Callable
from contextvars import ContextVar
from itertools import repeat
from time import perf_counter_ns
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Mark:
    """What the floor leaves behind of one call."""

    __slots__ = ("ended_at", "parent", "started_at")

    def __init__(self, parent: "Mark | None", started_at: int) -> None:
        self.parent = parent
        self.started_at = started_at
        self.ended_at = 0


innermost: ContextVar[Mark | None] = ContextVar("innermost", default=None)
lock = threading.Lock()


def floored(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap *function* in the floor."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        mark = Mark(innermost.get(), perf_counter_ns())
        token = innermost.set(mark)
        try:
            return function(*args, **kwargs)
        finally:
            innermost.reset(token)
            with lock:
                mark.ended_at = perf_counter_ns()

    return wrapper


@floored
def body(number: int) -> int:
    """Do nothing, as the body of every step that is measured does."""
    return number


def run_floor(repetitions: int) -> None:
    """Call the wrapped body *repetitions* times."""
    for _ in repeat(None, repetitions):
        body(1)
