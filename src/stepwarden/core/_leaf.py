"""The innermost scope of the current context: what is in force, how it is left, and what users ask of it."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar, Token

from ._kinds import HookScope, PersonaScope, StepScope
from ._policy import UNRESTRICTED, Policy
from ._receipt import ReceiptError, Status
from ._scope import Scope
from ._tree import current_flow
from ._watch import close_scope, tell_suspended
from .errors import ScopeOrderError

leaf: ContextVar[Scope | None] = ContextVar("stepwarden_leaf", default=None)
get_leaf = leaf.get
set_leaf = leaf.set
# A scope that was carried here on purpose: once closed it is outlived, even by the thread that opened it.
carried: ContextVar[Scope | None] = ContextVar("stepwarden_carried", default=None)


def resolve(scope: Scope | None) -> Scope | None:
    """Find the scope in force where *scope* is the context's leaf.

    Args:
        scope: The leaf, which may be closed or stand in for a hook.

    Returns:
        An open scope; or the closed one that this task or thread outlives, and stays under; or None.
    """
    while scope is not None and scope.status is not None:
        if isinstance(scope, HookScope):
            scope = scope.parent
        elif scope.flow is not None and carried.get() is not scope and scope.flow == current_flow():
            # It was closed from another context, which could not reset the leaf here. That is made up for now, or a
            # task that starts later would seem to outlive it.
            if get_leaf() is scope:
                set_leaf(scope.outer)
            scope = scope.outer
        else:
            return scope
    return scope


def leave(scope: Scope, status: Status, error: ReceiptError | None = None) -> ScopeOrderError | None:
    """Close a scope and give the context back the leaf that it had before.

    Args:
        scope: The scope that is left.
        status: How it ended.
        error: What ended it, for failed, skipped, escalated and denied.

    Returns:
        The error to raise where scopes inside it were still open, and are now abandoned; else None.
    """
    stray = step_out(scope)
    if stray is not None and status is Status.COMPLETED:
        status, error = Status.FAILED, ReceiptError(type(stray).__name__, str(stray))
    close_scope(scope, status, error)
    tell_suspended(scope)
    return stray


def step_out(scope: Scope) -> ScopeOrderError | None:
    """Give the context back the leaf that it had before a scope, and abandon what is still open inside that.

    Returns:
        The error to raise where something was, else None.
    """
    current = get_leaf()
    if current is scope:
        set_leaf(scope.outer)
        return None
    return None if current is None else _abandon_inside(scope, current)


def end_implicit_run(scope: Scope) -> None:
    """Close the run that was opened for this activation alone, if there is one; after its last hook."""
    parent = scope.parent
    if scope.outer is None and parent is not None and parent.run is parent and parent.run.is_implicit:
        close_scope(parent, scope.status or Status.COMPLETED)


def restore(token: Token[Scope | None]) -> None:
    """Give a context the leaf that it had before *token* was made, once; leave another context alone."""
    # ValueError: left in another context than it was entered in, and the leaf here is not ours. RuntimeError: given
    # back before.
    with contextlib.suppress(ValueError, RuntimeError):
        leaf.reset(token)


def _abandon_inside(scope: Scope, current: Scope) -> ScopeOrderError | None:
    inside: list[Scope] = []
    inner: Scope | None = current
    while inner is not None and inner is not scope:
        inside.append(inner)
        inner = inner.outer if inner.kind == "run" and inner.parent is None else inner.parent
    if inner is None:
        return None  # unrelated: another context, or a collected generator; the leaf there is not ours
    set_leaf(scope.outer)
    left_open = [one for one in inside if one.status is None]
    for one in left_open:
        close_scope(one, Status.ABANDONED)
    if not left_open:
        return None
    names = ", ".join(f"{one.kind} `{one.name}`" for one in left_open)
    return ScopeOrderError(f"{scope.kind} `{scope.name}` was left while {names} inside it was still open")


def current_step() -> StepScope | None:
    """Return the innermost step of this context, or None."""
    scope = resolve(get_leaf())
    while scope is not None and not isinstance(scope, StepScope):
        scope = scope.parent
    return scope


def current_persona() -> PersonaScope | None:
    """Return the innermost persona of this context, or None."""
    scope = resolve(get_leaf())
    return None if scope is None else scope.persona_scope


def current_policy() -> Policy:
    """Return the policy in force in this context; `Policy()` when nothing is open."""
    scope = resolve(get_leaf())
    return UNRESTRICTED if scope is None else scope.policy


def default_model(fallback: str | None = None) -> str | None:
    """Return the model to use where a call names none.

    Args:
        fallback: What to return where no scope around declares a model.

    Returns:
        The model of the nearest step around that declares one, else its persona's, else *fallback*.
    """
    current = get_leaf()
    if isinstance(current, HookScope):
        return fallback
    scope = resolve(current)
    return fallback if scope is None or scope.model is None else scope.model
