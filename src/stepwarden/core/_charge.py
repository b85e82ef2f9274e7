"""Adding to what is spent, and finding the outermost limit that this passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._amount import ALARMS, OUTPUT
from ._budget import in_units
from ._money import format_usd
from ._tally import Extra
from .errors import BudgetExceededError, ReserveTimeoutError

if TYPE_CHECKING:
    from ._hold import Hold
    from ._meter import Meter
    from ._scope import Scope


def charge(
    owner: Meter | None, meter: Meter | None, amount: int, extra: Extra | None = None, hold: Hold | None = None
) -> Meter | None:
    """Add an amount to one scope's own numbers and to the total of every scope on a chain; under the tree's lock.

    Args:
        owner: The meter whose `own` it is; None where that was counted before.
        meter: The innermost of the chain.
        amount: What is spent; parts may be negative, to correct what was charged before.
        extra: What most calls do not have, or None.
        hold: The hold that this replaces, which is no longer set aside then; or None.

    Returns:
        The meter of the outermost scope with a limit that is now passed, or None.
    """
    passed: Meter | None = None
    marked: Meter | None = None
    if hold is None:
        more = amount
    else:
        more = amount - hold.amount
        hold.state = "closed"
    try:
        if extra is not None and owner is not None:
            marked = owner
            marked.scope.make_detail().made("own", Extra).add(extra)
            marked = None
        while meter is not None:
            here = meter
            if here.is_late and here is not owner:  # the owner's own came before it closed, and is on its receipt
                here.scope.freeze()
            if extra is not None:
                here.scope.make_detail().made("total", Extra).add(extra)
            # Nothing is called from here to where the next scope is taken, so that no signal handler and no
            # finaliser can come between: a scope has been counted exactly when it is no longer the next.
            if owner is not None:
                if owner.is_shared:
                    owner.own = owner.own + amount
                owner = None
            here.total = here.total + amount
            here.taken = taken = here.taken + more
            meter = here.parent
            if taken & ALARMS and _is_passed(here):
                passed = here
    except BaseException:
        # A signal handler raised between two scopes: the rest of the chain must not miss the usage.
        _make_up(meter, owner, marked, amount, more, extra)
        raise
    return passed


def _make_up(
    meter: Meter | None, owner: Meter | None, marked: Meter | None, amount: int, more: int, extra: Extra | None
) -> None:
    if marked is not None and extra is not None:
        marked.scope.make_detail().made("own", Extra).add(extra)
    while meter is not None:
        _apply(meter, owner, amount, more, extra)
        meter = meter.parent


def _is_passed(meter: Meter) -> bool:
    scope = meter.scope
    for limit, value in () if scope.limits is None else scope.limits.items():
        if value is not None and scope.spent(limit) > value:
            return True
    return False


def set_aside(meter: Meter, hold: Hold, output_tokens: int, priced: int) -> Meter | None:
    """Set the worst case of one call aside on every scope of a chain, or on none; under the tree's lock.

    The hold is open from the moment on in which the last scope of the chain has it.

    It adds first and checks after, so that a nested operation (a finaliser, a signal handler) between two scopes
    finds at least what is promised: whichever of the two adds last has seen the other.

    Args:
        meter: The innermost of the chain.
        hold: What is set aside; its input is as it describes.
        output_tokens: The output that is granted.
        priced: The call with the cost that is granted, as an amount.

    Returns:
        None where it was set aside, else the meter of the innermost scope that has no room for it now.
    """
    at: Meter | None = meter
    back: Meter | None = meter
    amount = hold.input_tokens + output_tokens * OUTPUT + priced
    try:
        while at is not None:
            here = at
            here.taken = taken = here.taken + amount
            at = here.parent
            if taken & ALARMS and _lacks_room(here):
                while back is not at and back is not None:
                    back.taken = back.taken - amount
                    back = back.parent
                return here
    except BaseException:
        while back is not at and back is not None:
            back.taken = back.taken - amount
            back = back.parent
        raise
    hold.output_tokens = output_tokens
    hold.amount = amount
    hold.state = "open"
    return None


def _lacks_room(meter: Meter) -> bool:
    scope = meter.scope
    for limit, value in () if scope.limits is None else scope.limits.items():
        if value is not None and limit != "max_tool_calls" and scope.spent(limit) + meter.aside(limit) > value:
            return True
    return False


def turn(
    hold: Hold, state: str, owner: Meter | None, spent: int = 0, freed: int = 0, extra: Extra | None = None
) -> Meter | None:
    """Turn a hold into what becomes of it, on every scope of its chain, in one go; under the tree's lock.

    Args:
        hold: The hold, which is in *state* then.
        state: The state.
        owner: The meter whose `own` it changes, or None.
        spent: The amount that is charged; negative where it corrects what was charged before.
        freed: The amount that is no longer set aside.
        extra: What most calls do not have, or None.

    Returns:
        The meter of the outermost scope with a limit that is passed now, or None.
    """
    assert hold.scope is not None
    at = meter = hold.scope.meter
    # From here on nothing is called before `try`, so that a signal handler that raises finds it begun or not.
    hold.state = state
    marked = owner
    more = spent - freed
    try:
        if marked is not None and extra is not None:
            marked.scope.make_detail().made("own", Extra).add(extra)
            marked = None
        while at is not None:
            _apply(at, owner, spent, more, extra)
            at = at.parent
    except BaseException:
        _make_up(at, owner, marked, spent, more, extra)
        raise
    passed = None
    while meter is not None:
        if _is_passed(meter):
            passed = meter
        meter = meter.parent
    return passed


def _apply(meter: Meter, owner: Meter | None, amount: int, more: int, extra: Extra | None) -> None:
    # All or nothing, since nothing is called after the first change.
    if meter.is_late and meter is not owner:
        meter.scope.freeze()
    if extra is not None:
        meter.scope.make_detail().made("total", Extra).add(extra)
    if meter is owner and meter.is_shared:
        meter.own += amount
    meter.total += amount
    meter.taken += more


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


def timed_out(scope: Scope, limit: str, waited: float) -> ReserveTimeoutError:
    """Make the error for a call that waited for other calls' holds for as long as it may, *waited* in seconds."""
    return ReserveTimeoutError(
        f"{scope.kind} `{scope.name}` has no room in {limit} now: other calls hold it (waited {waited:.3g}s)",
        waited=waited,
        scope_kind=scope.kind,
        scope_name=scope.name,
        limit=limit,
    )
