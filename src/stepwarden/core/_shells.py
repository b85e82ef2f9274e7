"""The four shells around an activation: functions, coroutines, generators and async generators."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import Token, copy_context
from typing import TYPE_CHECKING, Any

from ._activation import abort, close_early, conclude, ensure_left, enter, finish, is_innermost, scope_class
from ._callable import LAZY, Kind, decorated, first_resumption, kind_of, refuse_lazy
from ._collector import is_collecting
from ._deadline import within_deadline
from ._durable import until_durable
from ._firing import run_async, run_sync
from ._kinds import HookScope
from ._leaf import get_leaf, resolve, restore, set_leaf
from ._tree import current_flow
from ._watch import tell_resumed, tell_suspended

if TYPE_CHECKING:
    from ._plan import Plan
    from ._scope import Scope

Function = Callable[..., Any]
_NO_OUTPUT: Any = None


def wrap(function: Function, plan: Plan) -> Function:
    """Put the fitting shell around a function.

    Args:
        function: A function, coroutine function, generator function or async generator function.
        plan: What each call of it opens.

    Returns:
        The wrapper, with the function's name, documentation and signature.
    """
    shells = {
        Kind.FUNCTION: _function_shell,
        Kind.COROUTINE: _coroutine_shell,
        Kind.GENERATOR: _generator_shell,
        Kind.ASYNC_GENERATOR: _async_generator_shell,
    }
    return decorated(shells[kind_of(function)](function, plan), function, plan.definition)  # type: ignore[no-any-return]


def _function_shell(function: Function, plan: Plan) -> Function:
    scope_type = scope_class(plan)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        scope = None
        try:
            current = get_leaf()
            if current is None or current.status is not None or current.run.audience.is_heard:
                scope, args, kwargs = run_sync(enter(plan, current, args, kwargs))
            else:
                scope = scope_type().open_under(plan, current, current)
                set_leaf(scope)
            try:
                result = function(*args, **kwargs)
                if result.__class__ in LAZY and not _is_step(result):
                    raise refuse_lazy(result, plan.kind, plan.name)  # noqa: TRY301 - it leaves the step like any other
            except BaseException as error:
                raised, fallback = run_sync(abort(scope, error, args, kwargs))
                if raised is None:
                    return fallback
                if raised is error:
                    raise
                raise raised  # noqa: B904 - its cause is set
            audience = scope.run.audience
            if audience.hears_ends:
                if audience.is_heard or not is_innermost(scope):
                    return run_sync(conclude(scope, result, args, kwargs))
                finish(scope)
                run_sync(until_durable(scope, None))
                return result
            finish(scope)
        except BaseException as error:
            ensure_left(scope, error)
            raise
        return result

    return wrapper


def _coroutine_shell(function: Function, plan: Plan) -> Function:
    scope_type = scope_class(plan)
    is_timed = plan.limits is not None and plan.limits.nanoseconds is not None

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        scope = None
        try:
            current = get_leaf()
            if current is None or current.status is not None or current.run.audience.is_heard:
                scope, args, kwargs = await run_async(enter(plan, current, args, kwargs))
            else:
                scope = scope_type().open_under(plan, current, current)
                set_leaf(scope)
            scope.flow = current_flow()
            try:
                running = function(*args, **kwargs)
                result = await (within_deadline(scope, running) if is_timed else running)
                if result.__class__ in LAZY and not _is_step(result):
                    raise refuse_lazy(result, plan.kind, plan.name)  # noqa: TRY301 - it leaves the step like any other
            except BaseException as error:
                raised, fallback = await run_async(abort(scope, error, args, kwargs))
                if raised is None:
                    return fallback
                if raised is error:
                    raise
                raise raised  # noqa: B904 - its cause is set
            audience = scope.run.audience
            if audience.hears_ends:
                if audience.is_heard or not is_innermost(scope):
                    return await run_async(conclude(scope, result, args, kwargs))
                finish(scope)
                if scope.run.journal is not None and not scope.tree.is_forked:
                    await scope.run.journal.ticket()
                return result
            finish(scope)
        except BaseException as error:
            ensure_left(scope, error)
            raise
        return result

    return wrapper


def _generator_shell(function: Function, plan: Plan) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return _generate(function, plan, scope_of_call(), args, kwargs)

    return wrapper


def _generate(function: Function, plan: Plan, caller: Scope | None, args: Any, kwargs: Any) -> Generator[Any, Any, Any]:
    token = set_leaf(get_leaf())  # to give back the consumer's leaf, in the consumer's own context only
    scope = None
    try:
        scope, args, kwargs = run_sync(enter(plan, caller, args, kwargs, called_before=True))
        result: Any = None
        closes_early = False
        collected: BaseException | None = None
        try:
            body = function(*args, **kwargs)
            advance = functools.partial(next, body)
            while True:
                try:
                    item = advance()
                except StopIteration as stop:
                    result = stop.value
                    break
                inside = set_outside(scope, token)
                # Whoever resumes or collects it next may be another context, with another leaf to give back.
                try:
                    sent = yield item
                except BaseException as thrown:  # noqa: BLE001 - it goes on inside the body
                    if is_collecting():
                        collected = thrown
                        break
                    token = set_inside(scope, inside)
                    closes_early = isinstance(thrown, GeneratorExit)
                    advance = functools.partial(body.throw, thrown)
                else:
                    token = set_inside(scope, inside)
                    advance = functools.partial(body.send, sent)
        except BaseException as error:
            raised, fallback = run_sync(abort(scope, error, args, kwargs))
            if raised is None:
                return fallback
            if raised is error:
                raise
            raise raised  # noqa: B904 - its cause is set
        if collected is not None:
            copy_context().run(_close_collected, scope, inside, body, collected, args, kwargs)
            return None
        if closes_early:
            run_sync(close_early(scope, args, kwargs))
            return result
        return run_sync(conclude(scope, result, args, kwargs))
    except BaseException as error:
        ensure_left(scope, error)
        raise
    finally:
        restore(token)


def _close_collected(
    scope: Any, inside: Scope | None, body: Generator[Any, Any, Any], thrown: BaseException, args: Any, kwargs: Any
) -> None:
    """Close a generator that the garbage collector ends, in a context of its own: see `is_collecting`."""
    set_inside(scope, inside)
    try:
        try:
            body.throw(thrown)
        except StopIteration:
            pass
        else:
            raise RuntimeError("generator ignored GeneratorExit")
    except BaseException as error:  # noqa: BLE001 - the boundary decides what leaves
        raised, _ = run_sync(abort(scope, error, args, kwargs))
        if raised is not None and raised is not thrown:
            raise raised  # noqa: B904 - its cause is set
    else:
        run_sync(close_early(scope, args, kwargs))


def scope_of_call() -> Scope | None:
    """Return the scope in which a generator step is called, which may have ended when it is first resumed."""
    current = get_leaf()
    return current if isinstance(current, HookScope) else resolve(current)


def set_outside(scope: Scope, token: Token[Scope | None]) -> Scope | None:
    """Put the leaf of a generator's consumer in force; return the generator's own."""
    inside = get_leaf()
    restore(token)
    tell_suspended(scope)
    return inside


def set_inside(scope: Scope, inside: Scope | None) -> Token[Scope | None]:
    """Put a generator's own leaf in force; return what puts back that of whoever resumed it."""
    token = set_leaf(inside)
    tell_resumed(scope)
    return token


def _async_generator_shell(function: Function, plan: Plan) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        return _generate_async(function, plan, scope_of_call(), args, kwargs)

    return wrapper


async def _generate_async(
    function: Function, plan: Plan, caller: Scope | None, args: Any, kwargs: Any
) -> AsyncGenerator[Any, Any]:
    token = set_leaf(get_leaf())  # to give back the consumer's leaf, in the consumer's own context only
    scope = None
    try:
        scope, args, kwargs = await run_async(enter(plan, caller, args, kwargs, called_before=True))
        closes_early = False
        try:
            body = function(*args, **kwargs)
            advance: Function = functools.partial(first_resumption, body)
            while True:
                try:
                    item = await within_deadline(scope, advance())
                except StopAsyncIteration:
                    break
                inside = set_outside(scope, token)
                try:
                    sent = yield item
                except BaseException as thrown:  # noqa: BLE001 - it goes on inside the body
                    token = set_inside(scope, inside)
                    closes_early = isinstance(thrown, GeneratorExit)
                    advance = functools.partial(body.athrow, thrown)
                else:
                    token = set_inside(scope, inside)
                    advance = functools.partial(body.asend, sent)
        except BaseException as error:
            raised, _ = await run_async(abort(scope, error, args, kwargs))
            if raised is None:
                return
            if raised is error:
                raise
            raise raised  # noqa: B904 - its cause is set
        if closes_early:
            await run_async(close_early(scope, args, kwargs))
        elif (await run_async(conclude(scope, _NO_OUTPUT, args, kwargs))) is not _NO_OUTPUT:
            raise TypeError(  # noqa: TRY301 - the step has ended: nobody handles it here
                f"a PostStep hook replaced the output of async generator `{scope.name}`, which has none"
            )
    except BaseException as error:
        ensure_left(scope, error)
        raise
    finally:
        restore(token)


_STEP_BODIES = (_generate.__code__, _generate_async.__code__)


def _is_step(result: Any) -> bool:
    """Tell whether what a function returned is a generator step, which stays under the scope of its call."""
    return getattr(result, "gi_code", None) in _STEP_BODIES or getattr(result, "ag_code", None) in _STEP_BODIES
