"""How an activation begins and ends: one state machine, around which the sync and async shells are thin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ._boundary import ErrorBoundary, Raised, outcome_of, own_exhaustion
from ._durable import until_durable
from ._firing import Args, Pending, after_step, before_step, observe
from ._kinds import HookScope, PersonaScope, StepScope
from ._leaf import end_implicit_run, get_leaf, leave, resolve, set_leaf, step_out
from ._receipt import ReceiptError, Status
from ._run import Run, status_of
from ._settings import meet_lost_context
from ._watch import close_scope, tell_refused, tell_suspended
from .errors import HookDeniedError, RunClosedError

if TYPE_CHECKING:
    from ._plan import Plan
    from ._scope import Scope

R = TypeVar("R")
Activation = StepScope | PersonaScope
_COMPLETED = Status.COMPLETED  # looking a member up takes as long as a look at the clock


def scope_class(plan: Plan) -> type[StepScope | PersonaScope]:
    """Return the class of the scopes that a plan opens."""
    return StepScope if plan.kind == "step" else PersonaScope


def enter(
    plan: Plan, current: Scope | None, args: tuple[Any, ...], kwargs: dict[str, Any], *, called_before: bool = False
) -> Pending[tuple[Activation, tuple[Any, ...], dict[str, Any]]]:
    """Begin an activation where there is more to do than to open a scope: hooks, an implicit run, a closed leaf.

    Args:
        plan: What is opened.
        current: The leaf of the caller's context.
        args: The arguments of the step.
        kwargs: The arguments of the step.
        called_before: Whether it is a generator, whose parent is the scope that *current* was when it was called.

    Returns:
        The open scope, which is the context's leaf now, and the arguments as the hooks left them.

    Raises:
        HookDeniedError: If a hook refused the step; its receipt is left as denied.
        RunClosedError: If the run around has ended.
    """
    parent = current if called_before and not isinstance(current, HookScope) else resolve(current)
    outer = current if isinstance(current, HookScope) else parent
    if parent is None:
        if not called_before or resolve(get_leaf()) is None:  # who iterates it inside a run has lost nothing
            meet_lost_context(f"{plan.kind} `{plan.name}`")
        run = Run()
        run.open_implicitly()
        parent = run
    elif parent.status is not None and parent.run.status is not None:
        raise RunClosedError(f"run `{parent.run.name}` has ended; no {plan.kind} `{plan.name}` opens under it")
    try:
        if parent.run.hooks.registered:
            given: Args = yield from before_step(plan, parent, args, kwargs)
            args, kwargs = given
    except BaseException as error:
        # Never the leaf: no body runs in it, and a hook that is collected may be so in another context.
        refused = scope_class(plan)().open_under(plan, parent, outer)
        status = Status.DENIED if isinstance(error, HookDeniedError) else status_of(error)
        for watcher in refused.run.watchers:
            watcher.opened(refused)
        close_scope(refused, status, None if status is Status.CANCELLED else describe(error))
        tell_suspended(refused)
        if status is Status.DENIED:
            tell_refused(refused, error)
        yield from _last_hooks(refused, error, _tell_failure(refused, error, args, kwargs))
        raise
    return open_scope(plan, parent, outer, current), args, kwargs


def open_scope(plan: Plan, parent: Scope, outer: Scope | None, current: Scope | None) -> Activation:
    """Open a scope under *parent* where *current* is the leaf; *outer* is the leaf again when it is left."""
    scope = scope_class(plan)().open_under(plan, parent, outer)
    if isinstance(current, HookScope):
        scope._model = plan.model  # a hook has no default model to pass on
    try:
        set_leaf(scope)
        for watcher in scope.run.watchers:
            watcher.opened(scope)
    except BaseException as error:
        ensure_left(scope, error)
        raise
    return scope


def conclude(scope: Activation, output: R, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pending[R]:
    """End an activation that returned, where hooks want to hear of it.

    Returns:
        The output as the hooks left it, or the fallback.
    """
    try:
        output = yield from after_step(scope, output, args, kwargs)
    except BaseException as error:  # noqa: BLE001 - the boundary decides what leaves
        raised, value = yield from abort(scope, error, args, kwargs)
        if raised is None:
            return value  # type: ignore[no-any-return]
        raise raised  # noqa: B904 - its cause is set
    stray = leave(scope, Status.COMPLETED)
    told = observe(("PersonaEnd",), scope, args, kwargs, output=output) if scope.kind == "persona" else None
    yield from _last_hooks(scope, stray, told)
    if stray is not None:
        raise stray
    return output


def close_early(scope: Activation, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pending[None]:
    """End a generator's activation that its consumer closed before the body was through."""
    leave(scope, Status.CANCELLED)
    yield from _last_hooks(scope, None, _tell_failure(scope, GeneratorExit(), args, kwargs))


def is_innermost(scope: Activation) -> bool:
    """Tell whether nothing inside an activation is open in this context, and no run was opened for it alone."""
    return get_leaf() is scope and scope.outer is not None


def finish(scope: Activation) -> None:
    """End an activation that returned, where no hook wants to hear of it.

    Raises:
        ScopeOrderError: If scopes inside it were still open.
    """
    if get_leaf() is scope and scope.outer is not None:
        set_leaf(scope.outer)
        scope.close(_COMPLETED)
        return
    stray = leave(scope, _COMPLETED)
    end_implicit_run(scope)
    if stray is not None:
        raise stray


def abort(
    scope: Activation, error: BaseException, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Pending[tuple[BaseException | None, Any]]:
    """End an activation that an error leaves, as its boundary says.

    What is to be raised is returned, so that a shell can let *error* itself go on with its traceback as it was.

    Returns:
        What leaves the activation, and None; or None and the fallback, where the boundary absorbed it.
    """
    status = status_of(error)
    raised: BaseException | None = error
    stray = step_out(scope)
    own = None if scope.plan.boundary is ErrorBoundary.FAIL else own_exhaustion(error, scope.id)
    if stray is not None and isinstance(error, Exception):  # an interrupt or a cancellation must not be lost in it
        stray.__cause__ = error
        raised = stray
    elif own is not None:
        status, outcome = outcome_of(scope.plan, error, own)
        raised = None
        if isinstance(outcome, Raised):
            raised = outcome.error
            tell_refused(scope, raised)
    close_scope(scope, status, None if status is Status.CANCELLED else describe(own or error))
    tell_suspended(scope)
    told = None if raised is None else _tell_failure(scope, raised, args, kwargs)
    yield from _last_hooks(scope, error, told)
    return raised, scope.plan.fallback


def ensure_left(scope: Activation | None, error: BaseException) -> None:
    """Leave an activation that was not, since a signal handler raised *error* while it was opened or left."""
    if scope is not None and (scope.status is None or scope.is_half_closed or get_leaf() is scope):
        status = status_of(error)
        leave(scope, status, None if status is Status.CANCELLED else describe(error))
        end_implicit_run(scope)


def _tell_failure(
    scope: Activation, error: BaseException, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Pending[None]:
    if not scope.run.hooks.registered:
        return
    if scope.kind == "persona":
        yield from observe(("PersonaEnd",), scope, args, kwargs, error=error)
        return
    if not isinstance(error, GeneratorExit):  # being closed early is no failure
        names = ("OnEscalation", "OnStepFailed") if scope.status is Status.ESCALATED else ("OnStepFailed",)
        yield from observe(names, scope, args, kwargs, error=error)


def _last_hooks(scope: Activation, error: BaseException | None, hooks: Pending[None] | None) -> Pending[None]:
    """Run what comes after an activation, and then close the run that was opened for it alone."""
    try:
        if hooks is not None:
            yield from hooks
    except BaseException as late:
        if error is None or late is error:
            raise
        raise late from error
    finally:
        end_implicit_run(scope)
        yield from until_durable(scope, error)


def describe(error: BaseException) -> ReceiptError:
    """Name an error for the receipt."""
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - an error that cannot be printed must not cost the step its receipt
        message = f"(its message could not be made: {type(broken).__name__})"
    return ReceiptError(type(error).__name__, message)
