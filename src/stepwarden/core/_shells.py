"""The four shells around an activation: functions, coroutines, generators and async generators."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from ._activation import abort, conclude, enter, finish, refuse_coroutine, scope_class
from ._deadline import within_deadline
from ._firing import run_async, run_sync
from ._leaf import get_leaf, set_leaf
from ._tree import current_flow
from .errors import DefinitionError

if TYPE_CHECKING:
    from ._plan import Plan
    from ._scope import Scope

Function = Callable[..., Any]


def wrap(function: Function, plan: Plan) -> Function:
    """Put the fitting shell around a function.

    Args:
        function: A function, coroutine function, generator function or async generator function.
        plan: What each call of it opens.

    Returns:
        The wrapper, with the function's name, documentation and signature.
    """
    # A callable object or a partial is what its `__call__` or its function is.
    called: Any = function
    while isinstance(called, functools.partial):
        called = called.func
    if not inspect.isroutine(called) and not inspect.isclass(called):
        called = type(called).__call__
    if inspect.isasyncgenfunction(called):
        wrapper = _async_generator_shell(function, plan)
    elif inspect.isgeneratorfunction(called):
        wrapper = _generator_shell(function, plan)
    elif inspect.iscoroutinefunction(called):
        wrapper = _coroutine_shell(function, plan)
    else:
        wrapper = _function_shell(function, plan)
    functools.update_wrapper(wrapper, function)
    wrapper.plan = plan  # type: ignore[attr-defined]
    wrapper.definition = plan.definition  # type: ignore[attr-defined]
    return wrapper


def unwrap(function: object, kind: str) -> Any:
    """Return the function inside a wrapper of the same kind, so that decorating again replaces."""
    plan = getattr(function, "plan", None)
    if plan is not None and getattr(plan, "kind", None) == kind:
        return function.__wrapped__  # type: ignore[attr-defined]
    return function


def check_decorated(function: object, kind: str, named: bool) -> None:
    """Refuse what cannot be decorated, with what to do instead.

    Args:
        function: What the decorator was put on.
        kind: ``"step"``, ``"persona"`` or ``"tool"``.
        named: Whether a name was given.

    Raises:
        DefinitionError: If it is a class method or static method object, no callable, or has no name.
    """
    if isinstance(function, classmethod | staticmethod):
        what = type(function).__name__
        raise DefinitionError(f"@{kind} must stand below @{what}, next to the function: swap the two lines")
    if isinstance(function, property):
        raise DefinitionError(f"@{kind} must stand below @property, next to the function: swap the two lines")
    if inspect.isclass(function) or not callable(function):
        raise DefinitionError(f"@{kind} goes on a function or method, not on {function!r}")
    if not named and getattr(function, "__name__", None) is None:
        raise DefinitionError(f"{function!r} has no __name__: give the {kind} one, as @{kind}(name=...)")


def _function_shell(function: Function, plan: Plan) -> Function:
    scope_type = scope_class(plan)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        current = get_leaf()
        if current is None or current.status is not None or current.run.hooks.registered:
            scope, args, kwargs = run_sync(enter(plan, current, args, kwargs))
        else:
            scope = scope_type(plan, current, current)
            set_leaf(scope)
        try:
            result = function(*args, **kwargs)
            if result.__class__ is CoroutineType:
                raise refuse_coroutine(plan, result)
        except BaseException as error:
            raised, fallback = run_sync(abort(scope, error, args, kwargs))
            if raised is None:
                return fallback
            if raised is error:
                raise
            raise raised  # noqa: B904 - its cause is set
        if scope.run.hooks.registered:
            return run_sync(conclude(scope, result, args, kwargs))
        finish(scope)
        return result

    return wrapper


def _coroutine_shell(function: Function, plan: Plan) -> Function:
    scope_type = scope_class(plan)
    is_timed = plan.limits is not None and plan.limits.nanoseconds is not None

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        current = get_leaf()
        if current is None or current.status is not None or current.run.hooks.registered:
            scope, args, kwargs = await run_async(enter(plan, current, args, kwargs))
        else:
            scope = scope_type(plan, current, current)
            set_leaf(scope)
        scope.flow = current_flow()
        try:
            running = function(*args, **kwargs)
            result = await (within_deadline(scope, running) if is_timed else running)
        except BaseException as error:
            raised, fallback = await run_async(abort(scope, error, args, kwargs))
            if raised is None:
                return fallback
            if raised is error:
                raise
            raise raised  # noqa: B904 - its cause is set
        if scope.run.hooks.registered:
            return await run_async(conclude(scope, result, args, kwargs))
        finish(scope)
        return result

    return wrapper


def _generator_shell(function: Function, plan: Plan) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return _generate(function, plan, get_leaf(), args, kwargs)

    return wrapper


def _generate(
    function: Function, plan: Plan, caller: Scope | None, args: Any, kwargs: Any
) -> Generator[Any, Any, Any]:
    consumer = get_leaf()
    try:
        scope, args, kwargs = run_sync(enter(plan, caller, args, kwargs))
        result: Any = None
        try:
            body = function(*args, **kwargs)
            advance = functools.partial(next, body)
            while True:
                try:
                    item = advance()
                except StopIteration as stop:
                    result = stop.value
                    break
                inside = get_leaf()
                set_leaf(consumer)
                # Whoever resumes or collects it next may be another context, with another leaf to give back.
                try:
                    sent = yield item
                except GeneratorExit:
                    consumer = set_inside(inside)
                    body.close()
                    raise
                except BaseException as thrown:
                    consumer = set_inside(inside)
                    advance = functools.partial(body.throw, thrown)
                else:
                    consumer = set_inside(inside)
                    advance = functools.partial(body.send, sent)
        except BaseException as error:
            raised, fallback = run_sync(abort(scope, error, args, kwargs))
            if raised is None:
                return fallback
            if raised is error:
                raise
            raise raised  # noqa: B904 - its cause is set
        return run_sync(conclude(scope, result, args, kwargs))
    finally:
        set_leaf(consumer)


def set_inside(inside: Scope | None) -> Scope | None:
    """Put a generator's own leaf in force; return the leaf of whoever resumed it."""
    consumer = get_leaf()
    set_leaf(inside)
    return consumer


def _async_generator_shell(function: Function, plan: Plan) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        return _generate_async(function, plan, get_leaf(), args, kwargs)

    return wrapper


async def _generate_async(
    function: Function, plan: Plan, caller: Scope | None, args: Any, kwargs: Any
) -> AsyncGenerator[Any, Any]:
    consumer = get_leaf()
    try:
        scope, args, kwargs = await run_async(enter(plan, caller, args, kwargs))
        try:
            body = function(*args, **kwargs)
            advance = body.__anext__
            while True:
                try:
                    item = await within_deadline(scope, advance())
                except StopAsyncIteration:
                    break
                inside = get_leaf()
                set_leaf(consumer)
                try:
                    sent = yield item
                except GeneratorExit:
                    consumer = set_inside(inside)
                    await body.aclose()
                    raise
                except BaseException as thrown:
                    consumer = set_inside(inside)
                    advance = functools.partial(body.athrow, thrown)
                else:
                    consumer = set_inside(inside)
                    advance = functools.partial(body.asend, sent)
        except BaseException as error:
            raised, _ = await run_async(abort(scope, error, args, kwargs))
            if raised is None:
                return
            if raised is error:
                raise
            raise raised  # noqa: B904 - its cause is set
        await run_async(conclude(scope, None, args, kwargs))
    finally:
        set_leaf(consumer)
