"""Adding to what is spent, and finding the outermost limit that this passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._budget import Limits, in_units
from ._money import format_usd
from ._tally import Extra
from .errors import BudgetExceededError

if TYPE_CHECKING:
    from ._hold import Hold
    from ._meter import Meter
    from ._scope import Scope


def charge(
    owner: Meter | None,
    meter: Meter | None,
    input_tokens: int,
    output_tokens: int,
    cost: int,
    calls: int,
    tools: int = 0,
    extra: Extra | None = None,
    hold: Hold | None = None,
) -> Meter | None:
    """Add a usage to one scope's own numbers and to the total of every scope on a chain; under the tree's lock.

    Args:
        owner: The meter whose `own` it is; None where that was counted before.
        meter: The innermost of the chain.
        input_tokens: Tokens to add; all amounts may be negative, to correct what was charged before.
        output_tokens: Tokens to add.
        cost: Picodollars to add.
        calls: Model calls to add.
        tools: Tool calls to add.
        extra: What most calls do not have, or None.
        hold: The hold that this replaces, which is no longer set aside then; or None.

    Returns:
        The meter of the outermost scope with a limit that is now passed, or None.
    """
    passed: Meter | None = None
    aside_input = aside_output = aside_cost = 0
    if hold is not None:
        aside_input, aside_output, aside_cost = hold.input_tokens, hold.output_tokens, hold.cost
        hold.state = "closed"
    if owner is not None:
        owner.own_input += input_tokens
        owner.own_output += output_tokens
        owner.own_cost += cost
        owner.own_calls += calls
        owner.own_tools += tools
    try:
        if owner is not None and extra is not None:
            owner.scope.make_detail().own.add(extra)
            owner = None
        while meter is not None:
            here = meter
            if here.is_late:
                here.scope.freeze()
            if extra is not None:
                here.scope.make_detail().total.add(extra)
            # Nothing is called from here to where the next scope is taken, so that no signal handler and no
            # finaliser can come between: a scope has been counted exactly when it is no longer the next.
            here.total_input += input_tokens
            here.total_output += output_tokens
            here.total_cost += cost
            here.total_calls += calls
            if tools:
                here.total_tools += tools
            if hold is not None:
                here.aside_input -= aside_input
                here.aside_output -= aside_output
                here.aside_cost -= aside_cost
                here.aside_calls -= 1
            meter = here.parent
            limits = here.limits
            if limits is not None and (
                (limits.tokens is not None and here.total_input + here.total_output > limits.tokens)
                or (limits.usd is not None and here.total_cost > limits.usd)
                or (limits.rare and _passes_rare(here, limits))
            ):
                passed = here
    except BaseException:
        # A signal handler raised between two scopes: the rest of the chain must not miss the usage.
        if owner is not None and extra is not None:
            owner.scope.make_detail().own.add(extra)
        charge(None, meter, input_tokens, output_tokens, cost, calls, tools, extra, hold)
        raise
    return passed


def _passes_rare(meter: Meter, limits: Limits) -> bool:
    return (
        (limits.input is not None and meter.total_input > limits.input)
        or (limits.output is not None and meter.total_output > limits.output)
        or (limits.calls is not None and meter.total_calls > limits.calls)
        or (limits.tools is not None and meter.total_tools > limits.tools)
        or (limits.nanoseconds is not None and meter.scope.spent("max_seconds") > limits.nanoseconds)
    )


def set_aside(meter: Meter, hold: Hold, output_tokens: int, cost: int) -> Meter | None:
    """Set the worst case of one call aside on every scope of a chain, or on none; under the tree's lock.

    The hold is open from the moment on in which the last scope of the chain has it.

    It adds first and checks after, so that a nested operation (a finaliser, a signal handler) between two scopes
    finds at least what is promised: whichever of the two adds last has seen the other.

    Args:
        meter: The innermost of the chain.
        hold: What is set aside; its input is as it describes.
        output_tokens: The output that is granted.
        cost: The cost that is granted, in picodollars.

    Returns:
        None where it was set aside, else the meter of the innermost scope that has no room for it now.
    """
    at: Meter | None = meter
    back: Meter | None = meter
    input_tokens = hold.input_tokens
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
                while back is not at and back is not None:
                    _apply(back, _NOTHING, (input_tokens, output_tokens, cost, 1), None)
                    back = back.parent
                return here
    except BaseException:
        while back is not at and back is not None:
            _apply(back, _NOTHING, (input_tokens, output_tokens, cost, 1), None)
            back = back.parent
        raise
    hold.output_tokens = output_tokens
    hold.cost = cost
    hold.state = "open"
    return None


def _lacks_rare(meter: Meter, limits: Limits) -> bool:
    return (
        (limits.input is not None and meter.total_input + meter.aside_input > limits.input)
        or (limits.output is not None and meter.total_output + meter.aside_output > limits.output)
        or (limits.calls is not None and meter.total_calls + meter.aside_calls > limits.calls)
        or (limits.nanoseconds is not None and meter.scope.spent("max_seconds") > limits.nanoseconds)
    )


Amounts = tuple[int, int, int, int]
"""Input tokens, output tokens, picodollars and calls."""
_NOTHING: Amounts = (0, 0, 0, 0)


def turn(
    hold: Hold,
    state: str,
    owner: Meter | None,
    spent: Amounts = _NOTHING,
    freed: Amounts = _NOTHING,
    extra: Extra | None = None,
) -> Meter | None:
    """Turn a hold into what becomes of it, on every scope of its chain, in one go; under the tree's lock.

    Args:
        hold: The hold, which is in *state* then.
        state: The state.
        owner: The meter whose `own` it changes, or None.
        spent: What is charged; negative where it corrects what was charged before.
        freed: What is no longer set aside.
        extra: What most calls do not have, or None.

    Returns:
        The meter of the outermost scope with a limit that is passed now, or None.
    """
    assert hold.scope is not None
    at = meter = hold.scope.meter
    # From here on nothing is called before `try`, so that a signal handler that raises finds it begun or not.
    hold.state = state
    if owner is not None:
        owner.own_input += spent[0]
        owner.own_output += spent[1]
        owner.own_cost += spent[2]
        owner.own_calls += spent[3]
    try:
        if owner is not None and extra is not None:
            owner.scope.make_detail().own.add(extra)
            owner = None
        while at is not None:
            _apply(at, spent, freed, extra)
            at = at.parent
    except BaseException:
        if owner is not None and extra is not None:
            owner.scope.make_detail().own.add(extra)
        while at is not None:
            _apply(at, spent, freed, extra)
            at = at.parent
        raise
    passed = None
    while meter is not None:
        limits = meter.scope.limits
        if limits is not None and any(v is not None and meter.scope.spent(limit) > v for limit, v in limits.items()):
            passed = meter
        meter = meter.parent
    return passed


def _apply(meter: Meter, spent: Amounts, freed: Amounts, extra: Extra | None) -> None:
    # All or nothing, since nothing is called after the first change.
    if meter.is_late:
        meter.scope.freeze()
    if extra is not None:
        meter.scope.make_detail().total.add(extra)
    meter.total_input += spent[0]
    meter.total_output += spent[1]
    meter.total_cost += spent[2]
    meter.total_calls += spent[3]
    meter.aside_input -= freed[0]
    meter.aside_output -= freed[1]
    meter.aside_cost -= freed[2]
    meter.aside_calls -= freed[3]


def show(limit: str, value: int) -> str:
    """Show an amount of *limit* in the unit that users see."""
    if limit == "max_usd":
        return format_usd(value)
    return f"{value / 1_000_000_000:g}s" if limit == "max_seconds" else str(value)


def exceeded(scope: Scope, phase: str) -> BudgetExceededError:
    """Make the error for a scope with a limit that is passed.

    Args:
        scope: The scope.
        phase: What met the limit: ``"settle"``, ``"record"``, ``"tool"``, ``"reserve"`` or ``"deadline"``.
    """
    assert scope.limits is not None
    limit = next(limit for limit, value in scope.limits.items() if value is not None and scope.spent(limit) > value)
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
    error = BudgetExceededError(
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
    choice = "give it another error_boundary" if scope.kind == "step" else "catch the error"
    error.add_note(f"to spend more, raise {limit} of {scope.kind} `{scope.name}`; to go on without, {choice}")
    return error
