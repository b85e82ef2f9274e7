"""A guarded call inside a guarded call takes over what was reserved for the outer one, instead of reserving twice.

The outer call offers its hold to its own context while it is being made, and so to the tasks and threads that start
in it. Whoever takes the hold out of the offer, which is one atomic operation, is the one who settles it.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace

from stepwarden.core._accounting import has_usd_limit
from stepwarden.core._charge import turn
from stepwarden.core._hold import CLOSED, OPEN, PENDING, Hold, offered
from stepwarden.core._leaf import default_model, get_leaf, resolve
from stepwarden.core._queue import admit, look
from stepwarden.core._scope import Scope
from stepwarden.core.errors import StepwardenError


@dataclass(frozen=True, slots=True)
class WorstCase:
    """Describe what a call may cost at most.

    Args:
        model: The model that it names, or None.
        input_tokens: Its input as estimated.
        output_tokens: The most output that it asks for.
        min_output_tokens: The least output that is of use to it.
        is_stated: Whether the user said how its input is estimated.
    """

    model: str | None
    input_tokens: int
    output_tokens: int
    min_output_tokens: int
    is_stated: bool = False


stated: ContextVar[int | None] = ContextVar("stepwarden_stated", default=None)
"""The input of the call that is being made, where the user said how it is estimated: for a call inside that one."""


def taken_over(wanted: WorstCase) -> Hold | None:
    """Take over the hold of the call that this one is made in, changed to what this one asks for.

    The change is one operation, in which nobody else gets the room: a call that asks for more gets what is free now.
    Where that is not enough, or the two belong to different runs, the outer hold is given back and there is none to
    take over; then the caller reserves like any other, and may wait.

    Args:
        wanted: What this call asks for; its output is lowered to what the outer call was granted, unless that
            cannot serve it, and its input is the outer call's where only of that the user said how it is estimated.

    Returns:
        The open hold, which is the caller's to settle; or None.
    """
    offer = offered.get()
    if not offer:
        return None
    try:
        hold = offer.pop()
    except IndexError:  # another call was first
        return None
    outer_input = None if wanted.is_stated else stated.get()
    if outer_input is not None:
        wanted = replace(wanted, input_tokens=outer_input)
    outer, scope = hold.scope, resolve(get_leaf())
    if outer is None and scope is None:
        hold.input_tokens, hold.output_tokens = wanted.input_tokens, wanted.output_tokens
        return hold
    if outer is None or scope is None or scope.tree is not outer.tree:
        hold.release()
        return None
    return hold if _changed(hold, outer, scope, wanted) else None


def _changed(hold: Hold, outer: Scope, scope: Scope, wanted: WorstCase) -> bool:
    model = wanted.model or default_model() or hold.model
    # A cost that was stated stands; nobody inside knows better.
    rates = scope.run.rates(model) if hold.fixed_cost is None else None
    if rates is None and hold.fixed_cost is None and has_usd_limit(scope):
        hold.release()
        return False
    with outer.tree.lock:
        if hold.state is not OPEN:
            return False
        asked, granted, is_clamped = hold.asked_output, hold.output_tokens, hold.is_clamped
        turn(hold, PENDING, None, freed=hold.amount)
        hold.let_go()
        hold.scope = hold.keeper = scope
        hold.model, hold.rates = model, rates
        hold.input_tokens, hold.min_output = wanted.input_tokens, wanted.min_output_tokens
        serves = granted >= wanted.min_output_tokens
        hold.output_tokens = hold.asked_output = min(wanted.output_tokens, granted) if serves else wanted.output_tokens
        try:
            admit(hold, never_waits=True)
        except StepwardenError:
            hold.state = CLOSED
            look(outer)
            return False
        if is_clamped and hold.asked_output == granted:
            # What this call asks for is what the outer one had been granted of more.
            hold.asked_output = asked
        look(outer)
    return True
