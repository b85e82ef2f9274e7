"""Holds: the worst case of a call, reserved before it is made and settled after."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ._accounting import actual_cost, count, late_owner
from ._charge import charge, exceeded, put_back
from ._firing import fire_thresholds
from ._hooks import armed
from ._money import Money, dollars, picodollars
from ._queue import look
from ._tally import Extra
from .errors import BudgetExceededError, HoldClosedError

if TYPE_CHECKING:
    from decimal import Decimal

    from ._rates import Rates
    from ._scope import Scope
    from ._tree import Tree

PENDING, OPEN, UNCERTAIN, CLOSED = "pending", "open", "uncertain", "closed"

_open_hold: ContextVar[Hold | None] = ContextVar("stepwarden_hold", default=None)
get_hold = _open_hold.get
set_hold = _open_hold.set


def context_hold() -> Hold | None:
    """Return the innermost hold that this context, or the one that it was copied from, has open."""
    hold = get_hold()
    while hold is not None and hold.state is not OPEN:
        hold = hold.previous
    return hold


class Hold:
    """Be what one call may spend, until it is settled or released.

    Made by a `Reservation`. Outside every scope it grants what was asked and settles nowhere.
    """

    __slots__ = (
        "asked_output", "cost", "fixed_cost", "input_charged", "input_tokens", "keeper", "min_output", "model",
        "output_tokens", "previous", "rates", "scope", "state", "uncertain_cost",
    )  # fmt: skip

    scope: Scope | None
    keeper: Scope | None
    previous: Hold | None

    def __init__(
        self,
        scope: Scope | None,
        input_tokens: int,
        output_tokens: int,
        min_output: int,
        fixed_cost: int | None,
        model: str | None,
        rates: Rates | None,
    ) -> None:
        self.scope = self.keeper = scope
        self.input_tokens = input_tokens
        self.output_tokens = self.asked_output = output_tokens
        self.min_output = min_output
        self.fixed_cost = fixed_cost
        self.model = model
        self.rates = rates
        self.cost = self.input_charged = self.uncertain_cost = 0
        self.state = PENDING
        self.previous = None

    @property
    def cost_usd(self) -> Decimal:
        """The cost that was granted."""
        return dollars(self.cost)

    @property
    def is_open(self) -> bool:
        """Whether it was neither settled nor released nor left."""
        return self.state is OPEN

    @property
    def is_clamped(self) -> bool:
        """Whether less output was granted than asked."""
        return self.output_tokens < self.asked_output

    def settle(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost_usd: Money | None = None,
        model: str | None = None,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        estimated: bool = False,
    ) -> None:
        """Replace the hold by what the call really spent.

        Args:
            input_tokens: All input, cache reads and writes included.
            output_tokens: All output, reasoning included.
            cost_usd: The cost; None: the cost that was reserved explicitly, else by the run's prices.
            model: The model that answered; None: the one that was reserved for.
            cache_read_tokens: The part of the input that was read from a cache.
            cache_write_tokens: The part of the input that was written to a cache.
            reasoning_tokens: The part of the output that was reasoning.
            estimated: Whether the numbers were estimated, not reported.

        Raises:
            HoldClosedError: If it was settled or released before; then nothing is counted.
            BudgetExceededError: If a limit is passed now; the usage stays counted.
            ValueError: If the cost is negative, not finite or no amount.
        """
        error = self.settle_paid(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost_usd,
            model=model,
            cache_read_tokens=cache_read_tokens,
            cache_write_tokens=cache_write_tokens,
            reasoning_tokens=reasoning_tokens,
            estimated=estimated,
        )
        if error is not None:
            raise error

    def settle_paid(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost_usd: Money | None = None,
        model: str | None = None,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        estimated: bool = False,
    ) -> BudgetExceededError | None:
        """Settle like `settle`, but return the budget error: a guarded call gives its reply back all the same."""
        scope = self.scope
        if scope is None:
            self._close_unscoped()
            return None
        if input_tokens.__class__ is not int or input_tokens < 0:
            input_tokens = count(input_tokens, "input_tokens")
        if output_tokens.__class__ is not int or output_tokens < 0:
            output_tokens = count(output_tokens, "output_tokens")
        extra = None
        if cost_usd is not None:
            cost = picodollars(cost_usd, "cost_usd")
        elif self.fixed_cost is not None:
            cost = self.fixed_cost
        else:
            used = model or self.model
            rates = self.rates if used == self.model else scope.run.rates(used) or self.rates
            priced = actual_cost(
                rates, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens
            )
            cost = priced or 0
            extra = Extra(unpriced=1) if priced is None else None
        if cache_read_tokens or cache_write_tokens or reasoning_tokens or estimated:
            extra = Extra(
                count(cache_read_tokens, "cache_read_tokens"),
                count(cache_write_tokens, "cache_write_tokens"),
                count(reasoning_tokens, "reasoning_tokens"),
                0 if extra is None else extra.unpriced,
                int(estimated),
            )
        error = None
        tree = scope.tree
        with tree.lock:
            state = self.state
            if state is not OPEN:
                if state is not UNCERTAIN:
                    raise HoldClosedError("this hold was settled or released before; nothing was counted")
                extra = self._take_back_uncertain(scope, extra)
                input_charged, cost_charged, calls = self.input_tokens, self.input_charged, 0
            else:
                input_charged, cost_charged, calls = 0, 0, 1
            self.state = CLOSED
            owner = scope if scope.status is None else late_owner(
                scope, input_tokens - input_charged, output_tokens, cost - cost_charged, calls
            )  # fmt: skip
            try:
                passed = charge(
                    owner, scope, input_tokens - input_charged, output_tokens, cost - cost_charged, calls, 0, extra
                )
            finally:
                if state is OPEN:
                    self._forget(scope)
            owner.last_model = model or self.model or owner.last_model
            owner.make_detail().calls.append(
                (model or self.model, input_tokens, output_tokens, cost, "settled", self.is_clamped)
            )
            if passed is not None:
                error = exceeded(passed, "settle")
            if tree.waiting:
                look(scope)
        if armed.thresholds:
            fire_thresholds(scope)
        return error

    def release(self) -> None:
        """Give the hold back whole: the call was certainly never made.

        Raises:
            HoldClosedError: If it was settled or released before.
        """
        scope = self.scope
        if scope is None:
            self._close_unscoped()
            return
        with scope.tree.lock:
            if self.state is UNCERTAIN:
                extra = self._take_back_uncertain(scope, None)
                self.state = CLOSED
                spent = (-self.input_tokens, 0, -self.input_charged, -1)
                charge(scope if scope.status is None else late_owner(scope, *spent), scope, *spent, 0, extra)
                look(scope)
            elif self.state is OPEN:
                self.give_back()
            else:
                raise HoldClosedError("this hold was settled or released before")

    def leave(self) -> None:
        """Charge the input as estimated and keep the rest as uncertain: the call was sent, its cost is unknown.

        Harmless on a hold that is not open.
        """
        scope = self.scope
        if scope is None:
            self.state = CLOSED
            return
        with scope.tree.lock:
            if self.state is not OPEN:
                return
            priced = None if self.fixed_cost is not None else actual_cost(self.rates, self.input_tokens, 0)
            self.input_charged = min(priced or 0, self.cost)
            self.uncertain_cost = self.cost - self.input_charged
            self.state = UNCERTAIN
            spent = (self.input_tokens, 0, self.input_charged, 1)
            owner = scope if scope.status is None else late_owner(scope, *spent)
            charge(owner, scope, *spent, 0, Extra(estimated=1))
            owner.last_model = self.model or owner.last_model
            owner.make_detail().calls.append(
                (self.model, self.input_tokens, 0, self.input_charged, "uncertain", self.is_clamped)
            )
            put_back(scope, None, self.input_tokens, 0, self.input_charged)
            self._count_uncertain(scope, 1)
            self._let_go()
            look(scope)
        if armed.thresholds:
            fire_thresholds(scope)

    # What the queue and the scopes call, under the tree's lock.

    @property
    def tree(self) -> Tree:
        """The tree that it is held in."""
        assert self.scope is not None
        return self.scope.tree

    def cost_of(self, output_tokens: int) -> int:
        """Return the worst case in picodollars with this much output."""
        if self.fixed_cost is not None:
            return self.fixed_cost
        return 0 if self.rates is None else self.rates.ceiling(self.input_tokens, output_tokens)

    def output_for(self, room: int, output_tokens: int) -> int:
        """Return the largest output, at most *output_tokens*, that *room* picodollars pay for; -1 for none."""
        if self.fixed_cost is not None or self.rates is None:
            return output_tokens if (self.fixed_cost or 0) <= room else -1
        return self.rates.affordable_output(self.input_tokens, output_tokens, room)

    def open_with(self, output_tokens: int, cost: int) -> None:
        """Become open with what was granted and set aside."""
        scope = self.scope
        assert scope is not None
        self.output_tokens = output_tokens
        self.cost = cost
        self.state = OPEN
        if output_tokens < self.asked_output:
            scope.make_detail().clamped += 1
        if scope.status is not None:
            self.keeper = scope = scope.nearest_open_around()
        if scope.holds is None:
            scope.holds = {self}
        else:
            scope.holds.add(self)

    def give_back(self) -> None:
        """Close without charging anything, and let others have the room."""
        assert self.scope is not None
        self.state = CLOSED
        self._forget(self.scope)
        look(self.scope)

    def _forget(self, scope: Scope) -> None:
        put_back(scope, None, self.input_tokens, self.output_tokens, self.cost)
        self._let_go()

    def _let_go(self) -> None:
        keeper = self.keeper
        if keeper is not None and keeper.holds is not None:
            keeper.holds.discard(self)

    def _count_uncertain(self, scope: Scope | None, sign: int) -> None:
        while scope is not None:
            scope.make_detail().uncertain.add(0, sign * self.output_tokens, sign * self.uncertain_cost, 0)
            scope = scope.parent

    def _take_back_uncertain(self, scope: Scope, extra: Extra | None) -> Extra:
        put_back(scope, None, 0, self.output_tokens, self.uncertain_cost, 0)
        self._count_uncertain(scope, -1)
        replaced = Extra(estimated=-1)
        if extra is not None:
            replaced.add(extra)
        return replaced

    def _close_unscoped(self) -> None:
        if self.state is CLOSED:
            raise HoldClosedError("this hold was settled or released before")
        self.state = CLOSED
