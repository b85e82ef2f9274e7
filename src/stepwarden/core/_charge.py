"""Adding to what is spent, and finding the outermost limit that this passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._budget import Limits, in_units
from ._money import format_usd
from ._tally import Extra
from .errors import BudgetExceededError

if TYPE_CHECKING:
    from ._scope import Scope


def charge(
    owner: Scope | None,
    scope: Scope | None,
    input_tokens: int,
    output_tokens: int,
    cost: int,
    calls: int,
    tools: int = 0,
    extra: Extra | None = None,
) -> Scope | None:
    """Add a usage to one scope's own numbers and to the total of every scope on a chain; under the tree's lock.

    Args:
        owner: The scope whose `own` it is; None where that was counted before.
        scope: The innermost scope of the chain.
        input_tokens: Tokens to add; all amounts may be negative, to correct what was charged before.
        output_tokens: Tokens to add.
        cost: Picodollars to add.
        calls: Model calls to add.
        tools: Tool calls to add.
        extra: What most calls do not have, or None.

    Returns:
        The outermost scope with a limit that is now passed, or None.
    """
    passed: Scope | None = None
    if owner is not None:
        detail = None if extra is None else owner.make_detail()
        owner.own_input += input_tokens
        owner.own_output += output_tokens
        owner.own_cost += cost
        owner.own_calls += calls
        owner.own_tools += tools
        if detail is not None and extra is not None:
            detail.own.add(extra)
    try:
        while scope is not None:
            here = scope
            if here.status is not None and here.kind != "run":
                here.freeze()
            detail = None if extra is None else here.make_detail()
            # Nothing is called from here to where the next scope is taken, so that no signal handler and no
            # finaliser can come between: a scope has been counted exactly when it is no longer the next.
            here.total_input += input_tokens
            here.total_output += output_tokens
            here.total_cost += cost
            here.total_calls += calls
            here.total_tools += tools
            scope = here.parent
            if detail is not None and extra is not None:
                detail.total.add(extra)
            limits = here.limits
            if limits is not None and (
                (limits.tokens is not None and here.total_input + here.total_output > limits.tokens)
                or (limits.usd is not None and here.total_cost > limits.usd)
                or (limits.rare and _passes_rare(here, limits))
            ):
                passed = here
    except BaseException:
        # A signal handler raised between two scopes: the rest of the chain must not miss the usage.
        charge(None, scope, input_tokens, output_tokens, cost, calls, tools, extra)
        raise
    return passed


def _passes_rare(scope: Scope, limits: Limits) -> bool:
    return (
        (limits.input is not None and scope.total_input > limits.input)
        or (limits.output is not None and scope.total_output > limits.output)
        or (limits.calls is not None and scope.total_calls > limits.calls)
        or (limits.tools is not None and scope.total_tools > limits.tools)
        or (limits.nanoseconds is not None and scope.tree.clock() - scope.opened_ns > limits.nanoseconds)
    )


def passed_scope(scope: Scope | None) -> Scope | None:
    """Return the outermost scope of a chain with a limit that is passed, or None; counts nothing."""
    return charge(None, scope, 0, 0, 0, 0)


def set_aside(scope: Scope, input_tokens: int, output_tokens: int, cost: int) -> Scope | None:
    """Set the worst case of one call aside on every scope of a chain, or on none; under the tree's lock.

    It adds first and checks after, so that a nested operation (a finaliser, a signal handler) between two scopes
    finds at least what is promised: whichever of the two adds last has seen the other.

    Args:
        scope: The innermost scope of the chain.
        input_tokens: Tokens.
        output_tokens: Tokens.
        cost: Picodollars.

    Returns:
        None where it was set aside, else the innermost scope that has no room for it now.
    """
    at: Scope | None = scope
    try:
        while at is not None:
            here = at
            here.aside_input += input_tokens
            here.aside_output += output_tokens
            here.aside_cost += cost
            here.aside_calls += 1
            at = here.parent
            limits = here.limits
            if limits is not None and (
                (
                    limits.tokens is not None
                    and here.total_input + here.total_output + here.aside_input + here.aside_output > limits.tokens
                )
                or (limits.usd is not None and here.total_cost + here.aside_cost > limits.usd)
                or (limits.rare and _lacks_rare(here, limits))
            ):
                put_back(scope, at, input_tokens, output_tokens, cost)
                return here
    except BaseException:
        put_back(scope, at, input_tokens, output_tokens, cost)
        raise
    return None


def _lacks_rare(scope: Scope, limits: Limits) -> bool:
    return (
        (limits.input is not None and scope.total_input + scope.aside_input > limits.input)
        or (limits.output is not None and scope.total_output + scope.aside_output > limits.output)
        or (limits.calls is not None and scope.total_calls + scope.aside_calls > limits.calls)
        or (limits.nanoseconds is not None and scope.tree.clock() - scope.opened_ns > limits.nanoseconds)
    )


def put_back(
    scope: Scope | None, end: Scope | None, input_tokens: int, output_tokens: int, cost: int, calls: int = 1
) -> None:
    """Take an amount off what is set aside, on every scope from *scope* up to *end*, which is not included."""
    try:
        while scope is not end and scope is not None:
            scope.aside_input -= input_tokens
            scope.aside_output -= output_tokens
            scope.aside_cost -= cost
            scope.aside_calls -= calls
            scope = scope.parent
    except BaseException:
        put_back(scope, end, input_tokens, output_tokens, cost, calls)
        raise


def show(limit: str, value: int) -> str:
    """Show an amount of *limit* in the unit that users see."""
    if limit == "max_usd":
        return format_usd(value)
    return f"{value / 1e9:g}s" if limit == "max_seconds" else str(value)


def exceeded(scope: Scope, phase: str) -> BudgetExceededError:
    """Make the error for a scope with a limit that is passed.

    Args:
        scope: The scope.
        phase: What met the limit: ``"settle"``, ``"record"``, ``"tool"``, ``"reserve"`` or ``"deadline"``.
    """
    assert scope.limits is not None
    limit = next(
        limit for limit, value in scope.limits.items() if value is not None and scope.spent(limit) > value
    )
    return exceeded_limit(scope, limit, phase)


def exceeded_limit(scope: Scope, limit: str, phase: str) -> BudgetExceededError:
    """Make the error for one limit that is passed; arguments as in `exceeded`."""
    assert scope.limits is not None
    value = dict(scope.limits.items())[limit] or 0
    consumed = scope.spent(limit)
    return budget_error(
        scope,
        limit,
        f"exceeded {limit} budget ({show(limit, consumed)} > {show(limit, value)})",
        phase=phase,
        reason="deadline" if limit == "max_seconds" else "exceeded",
        consumed=consumed,
    )


def budget_error(
    scope: Scope,
    limit: str,
    message: str,
    *,
    phase: str,
    reason: str,
    consumed: int | None = None,
    requested: int | None = None,
) -> BudgetExceededError:
    """Make a budget error with all that is known of the scope and the limit.

    Args:
        scope: The scope whose limit it is.
        limit: The name of the `Budget` field.
        message: What is said after the scope's kind and name.
        phase: When it was met.
        reason: Why it is one.
        consumed: What was spent, in internal units; None for what is spent now.
        requested: The least that would have been accepted, in internal units, or None.
    """
    assert scope.limits is not None
    value = dict(scope.limits.items())[limit] or 0
    uncertain = scope.uncertain_of(limit)
    return BudgetExceededError(
        f"{scope.kind} `{scope.name}` {message}",
        scope_kind=scope.kind,
        scope_name=scope.name,
        scope_id=scope.id,
        function=scope.function,
        limit=limit,
        limit_value=in_units(limit, value),
        consumed=in_units(limit, scope.spent(limit) if consumed is None else consumed),
        requested=None if requested is None else in_units(limit, requested),
        held=in_units(limit, scope.aside(limit) - uncertain),
        uncertain=in_units(limit, uncertain),
        reason=reason,
        phase=phase,
        usage=scope.total,
        error_boundary=str(scope.plan.boundary),
    )
