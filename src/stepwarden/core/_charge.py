"""Adding to what is spent, and finding the outermost limit that this passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._budget import in_units
from ._money import format_usd
from ._tally import Extra
from .errors import BudgetExceededError, ReserveTimeoutError

if TYPE_CHECKING:
    from ._hold import Hold
    from ._meter import Meter
    from ._scope import Scope


Amounts = tuple[int, int, int, int]
"""Input tokens, output tokens, picodollars and calls."""
_NOTHING: Amounts = (0, 0, 0, 0)


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
    tokens = input_tokens + output_tokens
    held_tokens = held_output = held_cost = 0
    if hold is not None:
        held_output, held_cost = hold.output_tokens, hold.cost
        held_tokens = hold.input_tokens + held_output
        hold.state = "closed"
    marked = None if extra is None else owner
    try:
        if marked is not None and extra is not None:
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
                    owner.own_tokens = owner.own_tokens + tokens
                    owner.own_output = owner.own_output + output_tokens
                    owner.own_cost = owner.own_cost + cost
                    owner.own_calls = owner.own_calls + calls
                    if tools:
                        owner.own_tools += tools
                owner = None
            here.total_tokens = total_tokens = here.total_tokens + tokens
            here.total_output = here.total_output + output_tokens
            here.total_cost = total_cost = here.total_cost + cost
            here.total_calls = here.total_calls + calls
            if tools:
                here.total_tools += tools
            if hold is None:
                here.taken_calls = here.taken_calls + calls
            else:
                here.aside_tokens = here.aside_tokens - held_tokens
                here.aside_output = here.aside_output - held_output
                here.aside_cost = here.aside_cost - held_cost
            meter = here.parent
            if (total_tokens > here.most_tokens or total_cost > here.most_cost) and _is_passed(here):
                passed = here
    except BaseException:
        # A signal handler raised between two scopes: the rest of the chain must not miss the usage.
        freed = _NOTHING if hold is None else (hold.input_tokens, held_output, held_cost, 1)
        _make_up(meter, owner, marked, (input_tokens, output_tokens, cost, calls), tools, freed, extra)
        raise
    return passed


def _make_up(
    meter: Meter | None,
    owner: Meter | None,
    marked: Meter | None,
    spent: Amounts,
    tools: int,
    freed: Amounts,
    extra: Extra | None,
) -> None:
    if marked is not None and extra is not None:
        marked.scope.make_detail().made("own", Extra).add(extra)
    while meter is not None:
        _apply(meter, owner, spent, freed, extra)
        meter.total_tools += tools
        if meter is owner and meter.is_shared:
            meter.own_tools += tools
        meter = meter.parent


def _is_passed(meter: Meter) -> bool:
    limits = meter.scope.limits
    return limits is not None and any(
        value is not None and meter.scope.spent(limit) > value for limit, value in limits.items()
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
    tokens = input_tokens + output_tokens
    try:
        while at is not None:
            here = at
            here.aside_tokens = aside_tokens = here.aside_tokens + tokens
            here.aside_output = here.aside_output + output_tokens
            here.aside_cost = aside_cost = here.aside_cost + cost
            here.taken_calls = here.taken_calls + 1
            at = here.parent
            if (
                here.total_tokens + aside_tokens > here.most_tokens or here.total_cost + aside_cost > here.most_cost
            ) and _lacks_room(here):
                while back is not at and back is not None:
                    _apply(back, None, _NOTHING, (input_tokens, output_tokens, cost, 1), None)
                    back = back.parent
                return here
    except BaseException:
        while back is not at and back is not None:
            _apply(back, None, _NOTHING, (input_tokens, output_tokens, cost, 1), None)
            back = back.parent
        raise
    hold.output_tokens = output_tokens
    hold.cost = cost
    hold.state = "open"
    return None


def _lacks_room(meter: Meter) -> bool:
    limits = meter.scope.limits
    return limits is not None and any(
        value is not None and limit != "max_tool_calls" and meter.scope.spent(limit) + meter.aside(limit) > value
        for limit, value in limits.items()
    )


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
    marked = owner
    try:
        if marked is not None and extra is not None:
            marked.scope.make_detail().made("own", Extra).add(extra)
            marked = None
        while at is not None:
            _apply(at, owner, spent, freed, extra)
            at = at.parent
    except BaseException:
        if marked is not None and extra is not None:
            marked.scope.make_detail().made("own", Extra).add(extra)
        while at is not None:
            _apply(at, owner, spent, freed, extra)
            at = at.parent
        raise
    passed = None
    while meter is not None:
        if _is_passed(meter):
            passed = meter
        meter = meter.parent
    return passed


def _apply(meter: Meter, owner: Meter | None, spent: Amounts, freed: Amounts, extra: Extra | None) -> None:
    # All or nothing, since nothing is called after the first change.
    if meter.is_late and meter is not owner:
        meter.scope.freeze()
    if extra is not None:
        meter.scope.make_detail().made("total", Extra).add(extra)
    tokens = spent[0] + spent[1]
    if meter is owner and meter.is_shared:
        meter.own_tokens += tokens
        meter.own_output += spent[1]
        meter.own_cost += spent[2]
        meter.own_calls += spent[3]
    meter.total_tokens += tokens
    meter.total_output += spent[1]
    meter.total_cost += spent[2]
    meter.total_calls += spent[3]
    meter.taken_calls += spent[3] - freed[3]
    meter.aside_tokens -= freed[0] + freed[1]
    meter.aside_output -= freed[1]
    meter.aside_cost -= freed[2]


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
