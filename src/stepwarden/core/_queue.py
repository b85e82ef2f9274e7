"""Who gets room, who waits for it and who is refused: one state machine without I/O, under the tree's lock.

A caller that does not fit because of other calls' holds is parked at the outermost scope of its chain that has no
room for it now. Whoever shares any scope that blocks it also shares that one, since chains are paths to one root:
so one place in one queue is enough to be first come, first served among those who contend, and a change looks only
at the queues of the scopes that it changed, and in each only as far as somebody can move.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ._amount import CALL, COST
from ._charge import budget_error, exceeded_limit, set_aside, show
from ._meter import meter_of
from ._tree import chain
from .errors import StepwardenError

if TYPE_CHECKING:
    from ._hold import Hold
    from ._scope import Scope


class Waiter:
    """Be one caller that waits for other calls' holds.

    Args:
        hold: What it asked for; becomes open when there is room.
    """

    __slots__ = ("error", "gate", "hold", "is_over", "limit", "parked", "ticket", "wake")

    gate: Any
    """What the caller sleeps on: a lock in a thread, a future in a task."""
    wake: Callable[[], object]
    """Called under the tree's lock when it is granted or refused; once more is harmless."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.ticket = next(hold.tree.tickets)
        self.error: StepwardenError | None = None
        self.is_over = False
        self.parked: Scope | None = None
        self.limit = ""


_by_ticket = attrgetter("ticket")


def admit(hold: Hold, *, never_waits: bool, waiter: Waiter | None = None) -> tuple[Scope, str] | None:
    """Grant what a call asks for, as far as its chain has room.

    Args:
        hold: What is asked for; its output is lowered to what can ever fit.
        never_waits: Whether the caller's context has a hold open, which others may be waiting for in turn.
        waiter: The caller, where it waits already.

    Returns:
        None where it was granted, else the outermost scope that it must wait for, and the limit without room.

    Raises:
        BudgetExceededError: If what is spent leaves no room, or if the caller would wait while it holds.
    """
    while True:
        leaf = hold.scope
        assert leaf is not None
        scopes = list(chain(leaf))[::-1]
        output = _largest_output(hold, scopes, hold.asked_output, ever=True)
        if never_waits:
            output = _largest_output(hold, scopes, output, ever=False)
        cost = hold.cost_of(output)
        if not never_waits:
            blocked = _blocked_at(scopes, hold, output, cost, waiter)
            if blocked is not None:
                return blocked
        # A finaliser may have taken the room since it was looked at; then everything is looked at again.
        hold.register(leaf)
        if set_aside(meter_of(leaf), hold, output, CALL + (cost << COST)) is None:
            if output < hold.asked_output:
                owner = leaf if leaf.status is None else leaf.nearest_open_around()
                owner.make_detail().clamped += 1
            return None
        hold.let_go()


def _largest_output(hold: Hold, scopes: list[Scope], output: int, *, ever: bool) -> int:
    least = min(hold.min_output, hold.asked_output)
    best = output
    for scope in scopes:
        if scope.limits is None:
            continue
        for limit, value in scope.limits.items():
            if value is None:
                continue
            taken = scope.uncertain_of(limit) if ever else scope.aside(limit)
            fits = output_that_fits(hold, limit, value - scope.spent(limit) - taken, output)
            if fits < least:
                raise _refusal(hold, scope, limit, least, ever=ever)
            best = min(best, fits)
    return best


def output_that_fits(hold: Hold, limit: str, room: int, output: int) -> int:
    """Return the largest output, at most *output*, for which *room* is enough; -1 where none is."""
    match limit:
        case "max_tokens":
            return max(-1, min(output, room - hold.input_tokens))
        case "max_input_tokens":
            return output if hold.input_tokens <= room else -1
        case "max_output_tokens":
            return max(-1, min(output, room))
        case "max_usd":
            return hold.output_for(room, output)
        case "max_calls":
            return output if room >= 1 else -1
        case "max_seconds":
            return output if room >= 0 else -1
    return output


def _refusal(hold: Hold, scope: Scope, limit: str, least: int, *, ever: bool) -> StepwardenError:
    spent = scope.spent(limit)
    if limit == "max_seconds":
        return exceeded_limit(scope, limit, "deadline")
    assert scope.limits is not None
    value = dict(scope.limits.items())[limit] or 0
    needed = needed_of(hold, limit, least)
    uncertain = scope.uncertain_of(limit)
    held = scope.aside(limit) - uncertain
    message = (
        f"has no room in {limit} ({show(limit, spent)} of {show(limit, value)} spent, {show(limit, held)} held, "
        + (f"{show(limit, uncertain)} uncertain, " if uncertain else "")
        + f"{show(limit, needed)} needed)"
    )
    if not ever:
        message += "; it would wait for a hold while its own context has one open"
    return budget_error(
        scope,
        limit,
        message,
        phase="reserve",
        reason="no_room" if ever else "would_deadlock",
        consumed=spent,
        requested=needed,
    )


def needed_of(hold: Hold, limit: str, output: int) -> int:
    match limit:
        case "max_tokens":
            return hold.input_tokens + output
        case "max_input_tokens":
            return hold.input_tokens
        case "max_output_tokens":
            return output
        case "max_usd":
            return hold.cost_of(output)
    return 1 if limit == "max_calls" else 0


def _blocked_at(
    scopes: list[Scope], hold: Hold, output: int, cost: int, waiter: Waiter | None
) -> tuple[Scope, str] | None:
    for scope in scopes:
        queue = scope.queue
        if queue and (waiter is None or queue[0].ticket < waiter.ticket):
            return scope, queue[0].limit
        if scope.limits is None:
            continue
        for limit, value in scope.limits.items():
            if value is None or limit in _NEVER_HELD:
                continue
            needed = cost if limit == "max_usd" else needed_of(hold, limit, output)
            if needed > value - scope.spent(limit) - scope.aside(limit):
                return scope, limit
    return None


_NEVER_HELD = frozenset({"max_seconds", "max_tool_calls"})


def park(waiter: Waiter, scope: Scope, limit: str) -> None:
    """Put a waiting caller into the queue of the scope that blocks it, in the order of arrival."""
    if scope.queue is None:
        scope.queue = []
    waiter.parked = scope
    waiter.limit = limit
    insort(scope.queue, waiter, key=_by_ticket)
    scope.tree.waiting.add(waiter)
    if waiter.is_over:
        _leave_queue(waiter)  # a finaliser has ended it meanwhile


def _unpark(waiter: Waiter) -> None:
    scope, waiter.parked = waiter.parked, None
    if scope is not None and scope.queue:
        scope.queue.remove(waiter)


def _leave_queue(waiter: Waiter) -> None:
    _unpark(waiter)
    waiter.hold.tree.waiting.discard(waiter)


def end(waiter: Waiter, error: StepwardenError | None = None) -> None:
    """Take a caller out of its queue: granted, or refused with *error*; and wake it."""
    waiter.error = error
    waiter.is_over = True
    try:
        waiter.wake()
        _leave_queue(waiter)
    except BaseException:  # a signal handler raised
        waiter.wake()
        _leave_queue(waiter)
        raise


def withdraw(waiter: Waiter) -> None:
    """Take out a caller that stopped waiting; a grant that it met on its way goes back."""
    if waiter.is_over:
        if waiter.error is None and waiter.hold.is_open:
            waiter.hold.give_back()
        return
    scope = waiter.hold.scope
    assert scope is not None
    _leave_queue(waiter)
    waiter.is_over = True
    look(scope)


def look(scope: Scope) -> None:
    """Let everybody move who can, after something changed on the chain of *scope*.

    Args:
        scope: The innermost scope whose room may have changed.
    """
    tree = scope.tree
    if not tree.waiting:
        return
    if tree.looking is not None:
        tree.looking.append(scope)  # a finaliser inside a look: the one that is under way takes it over
        return
    tree.looking = changed = [scope]
    try:
        while changed:
            for at in chain(changed.pop()):
                while at.queue and _moves(at.queue[0]):
                    pass
    except BaseException:
        # A signal handler raised: whoever can move must not wait for the next change.
        tree.looking = None
        for at in (scope, *changed):
            look(at)
        raise
    tree.looking = None


def _moves(waiter: Waiter) -> bool:
    """Look at the first in a queue again; tell whether it left the queue."""
    try:
        # It is open already where a signal handler raised before the caller could be told.
        blocked = None if waiter.hold.is_open else admit(waiter.hold, never_waits=False, waiter=waiter)
    except StepwardenError as error:
        end(waiter, error)
        return True
    if waiter.is_over:
        # A finaliser has closed its coroutine meanwhile, and nobody is there to take the grant.
        if waiter.hold.is_open:
            waiter.hold.give_back()
        return True
    if blocked is None:
        end(waiter)
        return True
    scope, limit = blocked
    if scope is waiter.parked:
        waiter.limit = limit
        return False
    try:
        _unpark(waiter)
        park(waiter, scope, limit)
    except BaseException:
        if waiter.parked is None:
            park(waiter, scope, limit)
        raise
    return True
