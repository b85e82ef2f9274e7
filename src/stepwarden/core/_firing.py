"""Calling hooks: each inside a scope that stands in for the step's parent, in sync and in async code alike."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ._budget import in_units
from ._hooks import THRESHOLD, Deny, Hook, HookEvent, ReplaceArgs, ReplaceOutput
from ._kinds import HookScope
from ._leaf import restore, set_leaf
from ._ledger import Ticket
from ._tree import chain, runs_event_loop
from .errors import Amount, HookDeniedError

if TYPE_CHECKING:
    from ._plan import Plan
    from ._scope import Scope

R = TypeVar("R")
Pending = Generator[Awaitable[Any], Any, R]
"""The one state machine: it yields what must be awaited, and is driven by `run_sync` or `run_async`."""
Args = tuple[tuple[Any, ...], dict[str, Any]]


def run_sync(pending: Pending[R], *, blocks: bool = False) -> R:
    """Run a state machine where nothing can be awaited.

    Args:
        pending: The state machine.
        blocks: Whether it waits for the ledger even on a thread that runs an event loop.

    Raises:
        TypeError: If it has something to await: a coroutine hook on a sync step.
    """
    try:
        awaitable = next(pending)
        while True:
            if isinstance(awaitable, Ticket):
                awaitable = _wait_for(awaitable, pending) if blocks or not runs_event_loop() else next(pending)
            else:
                if inspect.iscoroutine(awaitable):
                    awaitable.close()
                awaitable = pending.throw(
                    TypeError("a coroutine hook serves coroutine steps only, and this step, block or persona is sync")
                )
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def _wait_for(ticket: Ticket, pending: Pending[Any]) -> Awaitable[Any]:
    try:
        ticket.wait()
    except BaseException as error:  # noqa: BLE001 - it goes on inside the machine
        return pending.throw(error)
    return next(pending)


async def run_async(pending: Pending[R]) -> R:
    """Run a state machine, awaiting what it yields."""
    try:
        awaitable = next(pending)
        while True:
            try:
                value = await awaitable
            except BaseException as error:  # noqa: BLE001 - it goes on inside the machine
                awaitable = pending.throw(error)
            else:
                awaitable = pending.send(value)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def call_hook(hook: Hook[Any, Any], event: HookEvent, parent: Scope) -> Pending[Any]:
    """Call one hook; what it spends is the parent's, never the step's."""
    token = set_leaf(HookScope(parent))
    try:
        result = hook.function(event)
        if inspect.isawaitable(result):
            result = yield result
    finally:
        restore(token)  # a coroutine hook may be collected in another context
    return result


def event_of(
    name: str, plan: Plan, persona: str | None, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None,
    **more: Any,
) -> HookEvent:  # fmt: skip
    """Make the event for something that happens to a step or persona."""
    step = plan.name if plan.kind == "step" else None
    persona = plan.name if plan.kind == "persona" else persona
    return HookEvent(
        name,
        ".".join(part for part in (persona, step) if part is not None) or plan.name,
        persona=persona,
        step=step,
        function=plan.function,
        args=args,
        kwargs=dict(kwargs or {}),
        **more,
    )


def before_step(plan: Plan, parent: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pending[Args]:
    """Ask the hooks that come before a step or persona.

    Returns:
        The arguments as the last hook left them.

    Raises:
        HookDeniedError: If a hook refused the step.
        TypeError: If a hook returned anything else.
    """
    name = "PreStep" if plan.kind == "step" else "PersonaStart"
    persona = plan.name if plan.kind == "persona" else parent.persona
    for hook in parent.run.hooks.matching(name, persona, plan.name if plan.kind == "step" else None):
        answer = yield from call_hook(hook, event_of(name, plan, persona, args, kwargs), parent)
        if answer is None:
            continue
        if name == "PreStep" and isinstance(answer, Deny):
            raise HookDeniedError(
                f"step `{plan.name}` was denied by a {name} hook: {answer.reason}",
                event=name,
                reason=answer.reason,
                step=plan.name,
            )
        if name == "PreStep" and isinstance(answer, ReplaceArgs):
            args, kwargs = tuple(answer.args), dict(answer.kwargs or {})
            continue
        raise bad_answer(hook, answer, "None, Deny or ReplaceArgs" if name == "PreStep" else "None")
    return args, kwargs


def hooks_for(name: str, scope: Scope, pct: float | None = None) -> list[Hook[Any, Any]]:
    """Return the hooks that want to hear of an event in a scope."""
    return scope.run.hooks.matching(name, scope.persona, scope.name if scope.kind == "step" else None, pct)


def after_step(scope: Scope, output: R, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pending[R]:
    """Tell the PostStep hooks what a step returned; return it as the last of them left it."""
    if scope.kind != "step" or scope.parent is None:
        return output
    for hook in hooks_for("PostStep", scope):
        event = event_of("PostStep", scope.plan, scope.persona, args, kwargs, output=output)
        answer = yield from call_hook(hook, event, scope.parent)
        if isinstance(answer, ReplaceOutput):
            output = answer.output
        elif answer is not None:
            raise bad_answer(hook, answer, "None or ReplaceOutput")
    return output


def observe(
    names: tuple[str, ...], scope: Scope, args: tuple[Any, ...], kwargs: Mapping[str, Any], **more: Any
) -> Pending[None]:
    """Tell the hooks of events that they can only observe; all of them, and then raise the first failure."""
    yield from _tell_all(
        (hook, event_of(name, scope.plan, scope.persona, args, kwargs, receipt=scope.receipt, **more), scope)
        for name in names
        for hook in hooks_for(name, scope)
    )


def observe_now(told: Iterable[tuple[Hook[Any, Any], HookEvent, Scope]], error: Exception | None) -> None:
    """Tell hooks of what nothing can await; all of them, and then raise the first failure, from *error*.

    Args:
        told: Each hook, what it is told, and the scope that this happened to.
        error: What is raised after them, or None.
    """
    run_sync(_tell_all(told, error))


def _tell_all(told: Iterable[tuple[Hook[Any, Any], HookEvent, Scope]], error: Exception | None = None) -> Pending[None]:
    failure: Exception | None = None
    for hook, event, scope in told:
        try:
            answer = yield from call_hook(hook, event, scope.parent or scope)
            if answer is not None:
                raise bad_answer(hook, answer, "None")  # noqa: TRY301 - a failure like any other
        except Exception as late:  # noqa: BLE001 - raised below: one that fails must not keep others from being told
            failure = failure or late
    if failure is not None:
        raise failure from (failure.__cause__ if error is None else error)


def fire_thresholds(scope: Scope | None, error: Exception | None = None) -> None:
    """Fire the thresholds that the spending on a chain has reached, outermost scope first; outside the lock.

    Args:
        scope: The innermost scope of the chain that was charged.
        error: What is raised after them, and what a failure of theirs is raised from.
    """
    scopes = [one for one in chain(scope) if one.status is None and one.limits is not None]
    limited = [one for one in reversed(scopes) if one.run.hooks.has_thresholds]
    observe_now(((hook, event, one) for one in limited for hook, event in _reached(one)), error)


def _reached(scope: Scope) -> list[tuple[Hook[Any, Any], HookEvent]]:
    with scope.tree.lock:
        pct, limit, value, consumed = _utilization(scope)
        hooks = hooks_for(THRESHOLD, scope, pct)
        if not hooks:
            return []
        detail = scope.make_detail()
        fired = detail.fired = detail.fired or set()
        first = [hook for hook in hooks if hook not in fired]
        fired.update(first)
    numbers: dict[str, Any] = {"pct": pct, "limit": limit, "limit_value": value, "consumed": consumed}
    return [(hook, event_of(THRESHOLD, scope.plan, scope.persona, **numbers)) for hook in first]


def _utilization(scope: Scope) -> tuple[float, str | None, Amount, Amount]:
    best: tuple[float, str | None, Amount, Amount] = (-1.0, None, 0, 0)
    for limit, value in () if scope.limits is None else scope.limits.items():
        if value is None:
            continue
        spent = scope.spent(limit)
        pct = 100 * spent / value if value else (math.inf if spent else 0.0)
        if pct > best[0]:
            best = (pct, limit, in_units(limit, value), in_units(limit, spent))
    return best


def bad_answer(hook: Hook[Any, Any], answer: object, wanted: str) -> TypeError:
    name = getattr(hook.function, "__name__", repr(hook.function))
    return TypeError(f"the {hook.event} hook {name} must return {wanted}, not {answer!r}")
