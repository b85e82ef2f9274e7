"""`max_seconds` of coroutines: the event loop's own timeout, told as a budget error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from ._charge import budget_error, show
from ._watch import tell_refused
from .errors import BudgetExceededError

if TYPE_CHECKING:
    import asyncio

    from ._scope import Scope

R = TypeVar("R")


async def open_deadline(scope: Scope) -> None:
    """Start the timeout of a scope, where it has `max_seconds` and a task runs that can be cancelled."""
    limits = scope.limits
    if limits is None or limits.nanoseconds is None:
        return
    import asyncio

    try:
        task = asyncio.current_task()
    except RuntimeError:  # some other library's loop runs it, and its checks at each call are what there is
        task = None
    if task is None:
        return
    # Divided as integers, since the nanoseconds of what a float can say may be more than one can.
    deadline = asyncio.timeout((limits.nanoseconds - scope.elapsed_ns()) / 1_000_000_000)
    await deadline.__aenter__()
    loop = asyncio.get_running_loop()

    def follow() -> None:
        if not deadline.expired() and scope.status is None and scope.limits is not None:
            left = (scope.limits.nanoseconds or 0) - scope.elapsed_ns()
            deadline.reschedule(loop.time() + left / 1_000_000_000)

    detail = scope.make_detail()
    detail.deadline = deadline
    # An extension may come from any thread.
    detail.reschedule = lambda: _call_soon(loop, follow)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)


async def close_deadline(
    scope: Scope, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> BaseException | None:
    """Stop the timeout of a scope, if one was started.

    Returns:
        What leaves the scope: the budget error where the timeout cancelled it, else *error*.
    """
    deadline = None if scope.detail is None else scope.detail.deadline
    if scope.detail is None or deadline is None:
        return error
    scope.detail.deadline = scope.detail.reschedule = None  # they keep the loop, and a receipt outlives that
    try:
        await deadline.__aexit__(kind, error, trace)
    except TimeoutError as timeout:
        passed = deadline_error(scope)
        passed.__cause__ = timeout
        # A guarded stream that was read when the timeout came has left here what it had received.
        passed.partial = scope.detail.partial
        tell_refused(scope, passed)
        return passed
    return error


async def within_deadline(scope: Scope, awaitable: Awaitable[R]) -> R:
    """Await something inside the timeout of a scope.

    Raises:
        BudgetExceededError: With phase ``"deadline"``, if the timeout cancelled it.
    """
    await open_deadline(scope)
    try:
        result = await awaitable
    except BaseException as error:
        raised = await close_deadline(scope, type(error), error, error.__traceback__)
        if raised is not None and raised is not error:
            raise raised from raised.__cause__
        raise
    await close_deadline(scope, None, None, None)  # what returned in spite of its cancellation has returned
    return result


def deadline_error(scope: Scope) -> BudgetExceededError:
    """Make the error for a scope whose time is over."""
    assert scope.limits is not None
    assert scope.limits.nanoseconds is not None
    # The loop's timer and our clock may differ by a hair; what is told must not contradict itself.
    consumed = max(scope.spent("max_seconds"), scope.limits.nanoseconds)
    return budget_error(
        scope, "max_seconds",
        f"exceeded max_seconds budget ({show('max_seconds', consumed)} of "
        f"{show('max_seconds', scope.limits.nanoseconds)})",
        phase="deadline", reason="deadline", consumed=consumed,
    )  # fmt: skip
