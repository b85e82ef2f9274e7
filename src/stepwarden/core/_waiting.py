"""How a caller sleeps while it waits for other calls' holds, in a thread or in a task, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._charge import budget_error, show
from ._queue import Waiter, withdraw
from ._scope import Scope
from ._settings import settings
from ._tree import chain
from ._watch import tell_refused, tell_waited
from .errors import BudgetExceededError


def arm_thread(waiter: Waiter) -> None:
    """Let a caller sleep in its thread."""
    waiter.gate = gate = threading.Lock()
    gate.acquire()

    def wake() -> None:
        if gate.locked():
            gate.release()

    waiter.wake = wake


def arm_task(waiter: Waiter) -> None:
    """Let a caller sleep in its task."""
    import asyncio

    loop = asyncio.get_running_loop()
    waiter.gate = woken = loop.create_future()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(finish, woken)
        except RuntimeError:  # the loop was closed while this one waited: nobody is there to take the grant
            take_out(waiter)

    waiter.wake = wake


def finish(woken: Any) -> None:
    """Wake who sleeps on a future."""
    if not woken.done():
        woken.set_result(None)


@contextmanager
def waiting(waiter: Waiter) -> Iterator[float]:
    """Give the time from which a caller waits, in seconds; take it out if an error ends that."""
    began = time.monotonic()
    try:
        yield began
    except BaseException as error:
        take_out(waiter)
        tell_refused(waiter.hold.scope, error)
        raise
    finally:
        tell_waited(waiter, time.monotonic() - began)


def take_out(waiter: Waiter) -> None:
    """Take out a caller that stopped waiting."""
    with waiter.hold.tree.lock:
        withdraw(waiter)


def longest_wait(timeout: float | None, scope: Scope | None, waited: float) -> tuple[float, Scope | None]:
    """Return how much longer may be waited, in seconds, and the scope whose `max_seconds` that is, if so."""
    longest = (settings.max_wait if timeout is None else min(timeout, settings.max_wait)) - waited
    hurried: Scope | None = None
    for one in chain(scope):
        if one.limits is not None and one.limits.nanoseconds is not None:
            left = max(0.0, (one.limits.nanoseconds - one.spent("max_seconds")) / 1_000_000_000)
            if left <= longest:
                longest, hurried = left, one
    return longest, hurried


def out_of_time(hurried: Scope) -> BudgetExceededError:
    """Make the error for a caller that the `max_seconds` of a scope lets wait no longer."""
    limits = hurried.limits
    limit = 0 if limits is None or limits.nanoseconds is None else limits.nanoseconds
    spent = show("max_seconds", hurried.spent("max_seconds"))
    return budget_error(
        hurried,
        "max_seconds",
        f"has no time left in max_seconds ({spent} of {show('max_seconds', limit)} spent) "
        "to wait for other calls' holds",
        phase="deadline",
        reason="deadline",
    )
