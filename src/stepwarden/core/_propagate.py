"""Carrying a caller's scope to where context variables do not reach: bare threads and callbacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from ._callable import Kind, is_decorated, kind_of
from ._collector import is_collecting
from ._hold import context_hold, get_hold, offered, set_hold
from ._kinds import HookScope
from ._leaf import carried, get_leaf, resolve, restore, set_leaf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._hold import Hold
    from ._scope import Scope

P = ParamSpec("P")
R = TypeVar("R")


def propagate(function: Callable[P, R]) -> Callable[P, R]:
    """Carry the caller's scope into another thread or a callback.

    asyncio tasks and `asyncio.to_thread` do this by themselves; bare threads and thread pools do not.

    Example:
        >>> import threading
        >>> import stepwarden as sw
        >>> with sw.Run() as run:
        ...     thread = threading.Thread(target=sw.propagate(sw.record_usage), kwargs={"input_tokens": 5})
        ...     thread.start()
        ...     thread.join()
        >>> run.total.input_tokens
        5

    Args:
        function: What is called there: a function or coroutine function.

    Returns:
        A function that runs *function* under the scope, and with the open hold, of the caller of `propagate`. It may
        be called more than once, also concurrently.

    Raises:
        TypeError: If *function* is not callable, or a generator function.
    """
    if not callable(function):
        raise TypeError(f"propagate takes a callable, not {function!r}")
    kind = Kind.FUNCTION if is_decorated(function) else kind_of(function)
    if kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
        raise TypeError(
            f"propagate takes no generator function, whose body runs between other people's code, and {function!r} is "
            "one; make it a step (a generator step keeps the scope in which it was called), or propagate its consumer"
        )
    scope, hold, offer = get_leaf(), context_hold(), offered.get()
    if scope is not None and scope.status is not None and not isinstance(scope, HookScope):
        scope = resolve(scope)
    wrapper: Callable[..., Any]
    running: Callable[..., Any] = function
    if inspect.iscoroutinefunction(function) or kind is Kind.COROUTINE:

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _under(scope, hold, offer):
                return await running(*args, **kwargs)

    else:

        def carried_along(*args: Any, **kwargs: Any) -> Any:
            with _under(scope, hold, offer):
                return function(*args, **kwargs)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if is_collecting():
                return copy_context().run(carried_along, *args, **kwargs)
            return carried_along(*args, **kwargs)

    # What a callable object or a partial lacks, update_wrapper leaves out.
    return cast("Callable[P, R]", functools.update_wrapper(wrapper, function))


@contextmanager
def _under(scope: Scope | None, hold: Hold | None, offer: list[Hold] | None) -> Iterator[None]:
    outer_hold = get_hold()
    token = set_leaf(scope)
    outer_carried = carried.get()
    carried.set(scope)
    set_hold(hold)
    outer_offer = offered.get()
    offered.set(offer)
    try:
        yield
    finally:
        if get_hold() is hold:
            set_hold(outer_hold)
        offered.set(outer_offer)
        if carried.get() is scope:
            carried.set(outer_carried)
        restore(token)
