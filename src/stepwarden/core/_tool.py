"""Tools: functions that the policy in force is asked about, and that are counted, before they run."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from ._accounting import late_owner
from ._amount import TOOL
from ._callable import Kind, check_decorated, decorated, first_resumption, kind_of, refuse_lazy, undecorated
from ._charge import budget_error, charge, exceeded_limit
from ._declare import function_and_name
from ._firing import event_of, fire_thresholds, hooks_for, observe_now
from ._hooks import armed
from ._leaf import get_leaf, resolve
from ._meter import meter_of
from ._policy import SideEffect, SideEffectLike, parse_side_effect
from ._receipt import Status, ToolRecord
from ._run import status_of
from ._scope import Scope
from ._settings import meet_unscoped
from ._tally import keep
from ._tree import chain
from ._watch import tell_refused
from .errors import BudgetExceededError, RunClosedError, ToolDeniedError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """Declare one tool.

    Args:
        name: What policies call it.
        function: ``__name__`` of its function.
        side_effect: What it may do; one that declares nothing counts as the network.
    """

    name: str
    function: str
    side_effect: SideEffect


class ToolDecorator(Protocol):
    """Decorate a function as a tool, keeping its type."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def tool(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def tool(name: str | None = None, *, side_effect: SideEffectLike = SideEffect.NETWORK) -> ToolDecorator: ...
def tool(function: Any = None, /, *, name: str | None = None, side_effect: SideEffectLike = SideEffect.NETWORK) -> Any:
    """Make a function a tool: before its body runs, the policy in force is asked and the call is counted.

    Example:
        >>> import stepwarden as sw
        >>> @sw.tool(side_effect="workspace_write")
        ... def write_file(path):
        ...     return "written"
        >>> with sw.step("draft", side_effect_level="read_only"):
        ...     write_file("reply.txt")
        Traceback (most recent call last):
            ...
        stepwarden.core.errors.ToolDeniedError: ...

    Args:
        function: The function, where the decorator is bare; or the name.
        name: What policies call it; by default the function's name.
        side_effect: What it may do, a `SideEffect` or its name in lower case; the network by default.

    Returns:
        The decorated function. A call raises `ToolDeniedError` where the policy refuses it, and
        `BudgetExceededError` where it would pass `max_tool_calls` or comes after `max_seconds`.

    Raises:
        DefinitionError: If an argument cannot be right, or the function cannot be decorated.
    """
    function, name = function_and_name(function, name, "tool")
    level = parse_side_effect(side_effect, "tool.side_effect")

    def decorate(target: Any) -> Any:
        check_decorated(target, "tool", named=name is not None)
        target = undecorated(target, ToolDefinition)
        called: Any = getattr(target, "__name__", name)
        return _wrap(target, ToolDefinition(called if name is None else name, called, level))

    return decorate if function is None else decorate(function)


def _wrap(function: Callable[..., Any], definition: ToolDefinition) -> Callable[..., Any]:
    wrapper: Callable[..., Any]
    kind = kind_of(function)
    if kind is Kind.ASYNC_GENERATOR:

        async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            with tool_call(definition.name, definition.side_effect):
                body = function(*args, **kwargs)
                advance: Callable[..., Any] = functools.partial(first_resumption, body)
                while True:
                    try:
                        item = await advance()
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield item
                    except BaseException as thrown:  # noqa: BLE001 - it goes on inside the body
                        advance = functools.partial(body.athrow, thrown)
                    else:
                        advance = functools.partial(body.asend, sent)

    elif kind is Kind.GENERATOR:

        def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with tool_call(definition.name, definition.side_effect):
                return (yield from function(*args, **kwargs))

    elif kind is Kind.COROUTINE:

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with tool_call(definition.name, definition.side_effect):
                return await function(*args, **kwargs)

    else:

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with tool_call(definition.name, definition.side_effect):
                result = function(*args, **kwargs)
                if result.__class__ is CoroutineType:
                    raise refuse_lazy(result, "tool", definition.name)
                return result

    return decorated(wrapper, function, definition)  # type: ignore[no-any-return]


@contextmanager
def tool_call(name: str, side_effect: SideEffect) -> Iterator[None]:
    """Admit one tool call, and put its outcome on the receipt; what `tool` and the integrations share.

    Args:
        name: What policies call the tool.
        side_effect: What it may do.

    Raises:
        ToolDeniedError: If the policy in force refuses it; it does not count.
        BudgetExceededError: If it would pass `max_tool_calls`, or comes after `max_seconds`; it does not count.
        RunClosedError: If the run around has ended.
        PolicyViolationError: If there is no scope, and such calls are refused.
    """
    scope = resolve(get_leaf())
    if scope is None:
        meet_unscoped(f"a call of tool `{name}`")
        yield
        return
    owner = _admit(scope, name, side_effect)
    try:
        yield
    except BaseException as error:
        status = status_of(error)
        how = None if status is Status.CANCELLED else type(error).__name__
        _note(owner, ToolRecord(name, str(status), how))
        raise
    _note(owner, ToolRecord(name, "completed", None))


def _note(scope: Scope, record: ToolRecord) -> None:
    """Put an outcome on the receipt of the scope that was charged, or of the nearest open one where that has ended."""
    owner = scope if scope.status is None else scope.nearest_open_around()
    keep(owner.make_detail().made("tools", list[ToolRecord]), record)
    if owner.run.journal is not None:
        owner.run.journal.called(owner, record)


def _admit(scope: Scope, name: str, side_effect: SideEffect) -> Scope:
    if scope.status is not None and scope.run.status is not None:
        raise RunClosedError(f"run `{scope.run.name}` has ended, and tool `{name}` cannot be called under it")
    reason = scope.policy.refusal(name, side_effect)
    if reason is not None:
        message = f"{scope.kind} `{scope.name}` denied: {reason}, by {_ceiling(scope, name, side_effect)}"
        denied = ToolDeniedError(message, tool=name, reason=reason, policy=scope.policy)
        _note(scope, ToolRecord(name, "denied", reason))
        tell_refused(scope, denied)
        _tell_denied(scope, denied)
        raise denied
    refused = None
    with scope.tree.lock:
        owner = scope if scope.status is None else late_owner(scope, TOOL)
        # Counted first and checked then: a finaliser between the two cannot let one more through.
        charge(meter_of(owner), meter_of(scope), TOOL)
        full = _full(scope)
        if full is not None:
            charge(owner.meter, scope.meter, -TOOL)
            if owner is not scope:
                owner.make_detail().late -= TOOL
            refused = _refusal(*full)
    if refused is not None:
        _note(owner, ToolRecord(name, "refused", str(refused)))
        tell_refused(scope, refused)
        raise refused
    if armed.thresholds:
        fire_thresholds(scope)
    return owner


def _ceiling(scope: Scope, name: str, side_effect: SideEffect) -> str:
    """Name the declaration that refuses a tool, the outermost if there are several: where to change it."""
    while scope.parent is not None and scope.parent.policy.refusal(name, side_effect) is not None:
        scope = scope.parent
    of, axis = f"{scope.kind} `{scope.name}`", "tools" if not scope.policy.allows_tool(name) else "side_effect_level"
    if scope.kind == "run":
        return f"the policy of {of}"
    persona = scope.persona_scope
    stage = None if persona is None or persona is scope else persona.plan.stages.get(scope.name)
    if persona is None or stage is None or stage.policy.refusal(name, side_effect) is None:
        return f"{axis} of {of}"
    return f"{axis.replace('tools', 'allowed_tools')} of the stage for {of} in persona `{persona.plan.name}`"


def _full(innermost: Scope) -> tuple[Scope, str] | None:
    """Return the outermost scope that the call just counted has passed, and its limit, or None."""
    full: tuple[Scope, str] | None = None
    for scope in chain(innermost):
        limits = scope.limits
        if limits is not None and limits.tools is not None and scope.spent("max_tool_calls") > limits.tools:
            full = scope, "max_tool_calls"
        elif limits is not None and limits.nanoseconds is not None and scope.spent("max_seconds") > limits.nanoseconds:
            full = scope, "max_seconds"
    return full


def _refusal(scope: Scope, limit: str) -> BudgetExceededError:
    if limit == "max_seconds":
        return exceeded_limit(scope, limit, "tool")
    assert scope.limits is not None
    message = f"has no room in {limit} ({scope.spent(limit)} of {scope.limits.tools} spent, 0 held, 1 needed)"
    return budget_error(scope, limit, message, phase="tool", reason="no_room", requested=1)


def _tell_denied(scope: Scope, denied: ToolDeniedError) -> None:
    event = event_of("OnToolDenied", scope.plan, scope.persona, error=denied)
    observe_now(((hook, event, scope) for hook in hooks_for("OnToolDenied", scope)), denied)
