"""Reserving: what is asked for a call, and the thread-blocking and awaiting ways to get it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from ._accounting import at_least_0, check_timeout, has_usd_limit, no_price, read_model
from ._amount import CALL, COST, MOST_BITS, PRICED_CALLS, priced_call
from ._charge import set_aside, timed_out
from ._durable import secure
from ._firing import Pending, run_async, run_sync
from ._hold import OPEN, PENDING, Hold, context_hold, get_hold, set_hold
from ._hooks import armed
from ._leaf import default_model, get_leaf, resolve
from ._ledger import Ticket
from ._meter import meter_of
from ._queue import Waiter, admit, park
from ._settings import meet_unscoped
from ._tree import runs_event_loop
from ._waiting import arm_task, arm_thread, finish, longest_wait, out_of_time, waiting
from ._watch import tell_refused
from .errors import RunClosedError, StepwardenError, WouldBlockError

if TYPE_CHECKING:
    from types import TracebackType

    from ._money import Money
    from ._rates import Rates
    from ._scope import Scope

R = TypeVar("R")
_ONE = 1  # any other object is looked at


class Reservation:
    """Describe the worst case of a call; the hold is taken by ``with``, ``async with``, `acquire` or ``await``.

    Made by `reserve`; it may be used more than once, even while one of its holds is open. A block that is left before
    its hold was settled or released keeps the worst case: the input counts as spent, the rest as uncertain.

    Take it in the task that makes the call, and use *timeout*. `asyncio.wait_for` (before Python 3.12) and
    `asyncio.to_thread` take it in a copy of the context that the caller cannot see: its next reservation may then
    wait for this hold until it times out, instead of being refused as ``would_deadlock``.
    """

    __slots__ = ("_block", "_input", "_min_output", "_model", "_others", "_output", "_priced", "_timeout")

    _input: int
    _output: int
    _min_output: int
    _priced: int | None
    _model: str | None
    _timeout: float | None
    # The holds of its blocks that were not left yet: mostly there is one at a time.
    _block: Hold | None
    _others: list[Hold] | None

    def acquire(self) -> Hold:
        """Take the hold, waiting for other calls' holds where it must.

        Returns:
            The open hold. Settle or release it.

        Raises:
            BudgetExceededError: If what is spent leaves no room, or if the caller would wait for holds while its own
                context has one open.
            ReserveTimeoutError: If it waited for as long as it may.
            WouldBlockError: If it would have to wait on a thread that runs an event loop.
            UnpricedModelError: If a USD limit is in force and the model has no price.
            RunClosedError: If the run around has ended.
            LedgerError: If the ledger cannot record the hold; then it is given back.
        """
        hold = self._obtain()
        run_sync(self._finish(hold), blocks=True)
        return _in_context(hold)

    def __await__(self) -> Generator[Any, None, Hold]:
        """Take the hold like `acquire`, waiting without blocking the event loop."""
        return self._acquire_in_task().__await__()

    async def _acquire_in_task(self) -> Hold:
        hold = self._obtain()
        await run_async(self._finish(hold))
        return _in_context(hold)

    def __enter__(self) -> Hold:
        hold = self._obtain()
        if hold.state is PENDING or armed.calls:
            run_sync(self._finish(hold), blocks=True)
        # Nothing is called in between, so that another thread that enters the same one is not forgotten.
        if self._block is None:
            self._block = hold
        else:
            self._others = [*(self._others or ()), hold]
        previous = get_hold()
        while previous is not None and previous.state is not OPEN:
            previous = previous.previous
        hold.previous = previous
        set_hold(hold)
        return hold

    async def __aenter__(self) -> Hold:
        hold = await self._acquire_in_task()
        if self._block is None:
            self._block = hold
        else:
            self._others = [*(self._others or ()), hold]
        return hold

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._block
        if hold is None or hold.state is OPEN or self._others is not None:
            self._leave()
        else:
            # The common case: the only block, and its hold is over. Its context keeps it until it takes the next.
            self._block = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """Leave the innermost block of this context; one that was entered elsewhere only if it is the only one."""
        blocks: list[Hold] = [block for block in (self._block, *(self._others or ())) if block is not None]
        found = get_hold()
        while found is not None and found not in blocks:
            found = found.previous
        if found is None and len(blocks) != 1:
            return
        hold = found or blocks[0]
        if hold is self._block:
            self._block = None
        else:
            assert self._others is not None
            self._others.remove(hold)
        if hold.state is OPEN:
            hold.leave()
        if get_hold() is hold:
            set_hold(hold.previous)

    def _place(self) -> tuple[Scope | None, str | None, Rates | None]:
        """Find where the hold is to be taken, for which model, and what that charges."""
        model, scope = self._model, get_leaf()
        if scope is None or scope.status is not None:
            scope = resolve(scope)
            if scope is None:
                meet_unscoped("a reserved call")
                return None, model, None
            if scope.status is not None and scope.run.status is not None:
                raise RunClosedError(f"run `{scope.run.name}` has ended, and no call can be reserved under it")
        rates = None
        if self._priced is None:
            model = model or default_model()
            rates = scope.run.rates(model)
            if rates is None and (model or self._input or self._output) and has_usd_limit(scope):
                error = no_price(scope, model)
                tell_refused(scope, error)
                raise error
        return scope, model, rates

    def _obtain(self) -> Hold:
        """Take the hold if everything fits and nobody waits, which is the common case; else leave it pending."""
        scope = get_leaf()
        priced = self._priced
        model = self._model
        hold = Hold()
        if priced is None or scope is None or scope.status is not None:
            scope, model, hold.rates = self._place()
        hold.scope = hold.keeper = scope
        hold.input_tokens = self._input
        hold.output_tokens = hold.asked_output = self._output
        hold.min_output = self._min_output
        hold.priced = priced
        hold.model = model
        hold.state = PENDING
        if priced is None:
            priced = CALL + (hold.cost_of(self._output) << COST)
        if scope is None:
            hold.amount, hold.state = priced, OPEN
            return hold
        tree = scope.tree
        with tree.lock:
            if not tree.waiting:
                if scope.holds is None or scope.status is not None:
                    hold.register(scope)
                else:
                    scope.holds.add(hold)
                if set_aside(scope.meter or meter_of(scope), hold, self._output, priced) is not None:
                    hold.let_go()
        return hold

    def _finish(self, hold: Hold) -> Pending[None]:
        """Do what is left to do until the hold may be used: wait for room, for accounts and for the ledger."""
        scope = hold.scope
        if scope is None:
            return
        if scope.run.funds is not None:
            yield from scope.run.funds.take(scope, hold, self._in_tree, self._timeout)
        elif hold.state is PENDING:
            yield self._in_tree(hold)
        if scope.run.journal is not None:
            yield from secure(hold, scope.run.journal)

    def _contend(self, hold: Hold, arm: Callable[[Waiter], None], wait: Callable[[Waiter], R]) -> R | None:
        """Get the hold among those who want room, waiting for it where that is needed and allowed."""
        try:
            with hold.tree.lock:
                blocked = admit(hold, never_waits=context_hold() is not None)
                if blocked is None:
                    return None
                if self._timeout is not None and self._timeout <= 0:
                    raise timed_out(*blocked, 0.0)
                waiter = Waiter(hold)
                arm(waiter)
                park(waiter, *blocked)
        except StepwardenError as error:
            tell_refused(hold.scope, error)
            raise
        return wait(waiter)

    def _in_tree(self, hold: Hold) -> Ticket:
        """Return what waits for a hold on the tree."""
        return _InQueue(self, hold)

    def contend_in_thread(self, hold: Hold) -> None:
        """Get a hold on the tree, sleeping in this thread where it must."""
        self._contend(hold, arm_thread, self._wait_in_thread)

    async def contend_in_task(self, hold: Hold) -> None:
        """Get a hold on the tree, sleeping in this task where it must."""
        slept = self._contend(hold, arm_task, self._wait_in_task)
        if slept is not None:
            await slept

    def _wait_in_thread(self, waiter: Waiter) -> None:
        with waiting(waiter) as began:
            if runs_event_loop():
                raise WouldBlockError(
                    "acquire() would wait for other calls' holds on a thread that runs an event loop, and freeze it; "
                    "use `await reserve(...)` or `async with reserve(...)`, or wait=False"
                )
            while True:
                longest, hurried = longest_wait(self._timeout, waiter.hold.scope, time.monotonic() - began)
                # Looked at again after a time-out: `max_seconds` may have been extended meanwhile.
                if longest <= 0 or waiter.gate.acquire(timeout=min(longest, threading.TIMEOUT_MAX)):
                    break
            self._conclude(waiter, hurried, time.monotonic() - began)

    async def _wait_in_task(self, waiter: Waiter) -> None:
        loop = waiter.gate.get_loop()
        hurried: Scope | None = None
        timer: Any = None

        def expire() -> None:
            nonlocal hurried, timer
            longest, hurried = longest_wait(self._timeout, waiter.hold.scope, time.monotonic() - began)
            if longest > 0:
                timer = loop.call_later(longest, expire)
            else:
                finish(waiter.gate)

        with waiting(waiter) as began:
            try:
                expire()
                await waiter.gate
                self._conclude(waiter, hurried, time.monotonic() - began)
            finally:
                if timer is not None:
                    timer.cancel()

    def _conclude(self, waiter: Waiter, hurried: Scope | None, waited: float) -> None:
        """Raise unless the waiter was granted what it asked for."""
        with waiter.hold.tree.lock:
            if waiter.is_over:
                if waiter.error is not None:
                    raise waiter.error
                return
            if hurried is not None:
                raise out_of_time(hurried)
            assert waiter.parked is not None
            raise timed_out(waiter.parked, waiter.limit, waited)


class _InQueue(Ticket):
    """Wait for a hold on the tree."""

    __slots__ = ("_hold", "_reservation")

    def __init__(self, reservation: Reservation, hold: Hold) -> None:
        self._reservation = reservation
        self._hold = hold

    def wait(self) -> None:
        """Block this thread."""
        self._reservation.contend_in_thread(self._hold)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait without blocking the event loop."""
        return self._reservation.contend_in_task(self._hold).__await__()


def _in_context(hold: Hold) -> Hold:
    """Let the context know that it has a hold open."""
    previous = get_hold()
    while previous is not None and previous.state is not OPEN:
        previous = previous.previous
    hold.previous = previous
    set_hold(hold)
    return hold


def reserve(
    *,
    input_tokens: int = 0,
    output_tokens: int = 0,
    min_output_tokens: int = 1,
    cost_usd: Money | None = None,
    model: str | None = None,
    wait: bool = True,
    timeout: float | None = None,
) -> Reservation:
    """Describe the worst case of a call, to be held on every scope around it before the call is made.

    Args:
        input_tokens: The input that the call will have, at least 0.
        output_tokens: The most output that it may have; lowered to what can ever fit.
        min_output_tokens: The least output that is useful; with less room, the call is refused.
        cost_usd: The cost, if it is fixed; None: computed from the run's prices and the granted output.
        model: The model, for its price; None: the default model in force.
        wait: Whether to wait for other calls' holds; if not, `ReserveTimeoutError` at once.
        timeout: The longest to wait, in seconds; never longer than `max_seconds` of a scope around or `max_wait`.

    Returns:
        The reservation, to be used as ``with``, ``async with``, ``.acquire()`` or ``await``.

    Raises:
        TypeError: If a number is of another type, or the model is not a string.
        ValueError: If a number is negative, not finite, or of tokens and 2**45 or more.
    """
    if (
        input_tokens.__class__ is not int
        or output_tokens.__class__ is not int
        or (input_tokens | output_tokens) >> MOST_BITS
    ):
        input_tokens = at_least_0(input_tokens, "input_tokens")
        output_tokens = at_least_0(output_tokens, "output_tokens")
    if min_output_tokens is not _ONE:
        min_output_tokens = at_least_0(min_output_tokens, "min_output_tokens")
    if timeout is not None and (timeout.__class__ is not float or not timeout >= 0):
        check_timeout(timeout)
    if model is not None and model.__class__ is not str:
        model = read_model(model)
    made = Reservation()  # without an `__init__`, which costs as much again as all of this
    made._input = input_tokens
    made._output = output_tokens
    made._min_output = min_output_tokens
    try:
        made._priced = PRICED_CALLS[cost_usd] if cost_usd.__class__ is Decimal else priced_call(cost_usd)
    except TypeError:  # a signalling NaN has no hash
        made._priced = priced_call(cost_usd)
    made._model = model
    made._timeout = timeout if wait else 0.0
    made._block = made._others = None
    return made
