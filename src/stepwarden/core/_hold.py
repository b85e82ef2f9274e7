"""Holds: the worst case of a call, reserved before it is made and settled after."""

from __future__ import annotations

from contextvars import ContextVar
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Never, Unpack

from ._accounting import Details, actual_cost, count, late_owner, measure, read_model
from ._amount import CALL, COST, MOST_BITS, OUTPUT, PRICED_CALLS, priced_call, unpacked
from ._charge import charge, exceeded, turn
from ._firing import fire_thresholds
from ._hooks import armed
from ._meter import meter_of
from ._money import Money, dollars
from ._queue import look
from ._tally import KEPT_RECORDS, MOST_RECORDS, CallEntry, Extra, keep
from ._watch import tell_refused
from .errors import HoldClosedError

if TYPE_CHECKING:
    from ._meter import Meter
    from ._rates import Rates
    from ._scope import Scope
    from ._tree import Tree

PENDING, OPEN, UNCERTAIN, CLOSED = "pending", "open", "uncertain", "closed"

_open_hold: ContextVar[Hold | None] = ContextVar("stepwarden_hold", default=None)
get_hold = _open_hold.get
set_hold = _open_hold.set
# The hold of a guarded call that is being made, until the first guarded call inside it takes it out and over.
offered: ContextVar[list[Hold] | None] = ContextVar("stepwarden_offered", default=None)


def context_hold() -> Hold | None:
    """Return the innermost hold that this context, or the one that it was copied from, has open."""
    hold = get_hold()
    # What was granted outside every scope keeps nobody waiting.
    while hold is not None and (hold.state is not OPEN or hold.scope is None):
        hold = hold.previous
    return hold


class Hold:
    """Reserve what one call may spend, until it is settled or released.

    Made by a `Reservation`. Outside every scope it grants what was asked and settles nowhere.

    Attributes:
        input_tokens: The input that is held.
        output_tokens: The output that was granted, which may be less than was asked: the limit to send.
        model: The model that it was reserved for, or None.
    """

    __slots__ = (
        "amount", "asked_output", "entries", "guessed", "input_tokens", "keeper", "min_output", "model", "number",
        "output_tokens", "previous", "priced", "rates", "scope", "state",
    )  # fmt: skip

    # There is no `__init__`, since calling a class that has one costs as much again: a `Reservation` sets these.
    scope: Scope | None
    keeper: Scope | None
    previous: Hold | None
    input_tokens: int
    output_tokens: int
    asked_output: int
    min_output: int
    # The call with its cost, as an amount, where that is fixed.
    priced: int | None
    model: str | None
    # What its model charges; set where its cost is not fixed.
    rates: Rates | None
    state: str
    # All that it holds; set when it is open.
    amount: int
    # What its run's journal calls it; set when it is first noted there.
    number: int
    # What it holds on accounts, where there are any around; the funds of its run set it and know what it is.
    entries: Any
    # Whose own its estimate is, as what it was charged, and what is uncertain.
    guessed: tuple[Scope, CallEntry, Extra]

    def __reduce__(self) -> Never:
        raise TypeError("a hold cannot be copied or pickled: it would be settled twice")

    @property
    def cost_usd(self) -> Decimal:
        """The cost that is held, in US dollars."""
        return dollars(self.cost)

    @property
    def cost(self) -> int:
        """The cost that is held, in picodollars."""
        return self.amount >> COST

    @property
    def fixed_cost(self) -> int | None:
        """The cost in picodollars, where it is fixed."""
        return None if self.priced is None else self.priced >> COST

    @property
    def is_open(self) -> bool:
        """Whether it was neither settled nor released nor left."""
        return self.state is OPEN

    @property
    def is_clamped(self) -> bool:
        """Whether less output was granted than asked."""
        return self.output_tokens < self.asked_output

    def settle(  # noqa: C901, PLR0912, PLR0915 - the hot path is written out
        self,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_usd: Money | None = None,
        model: str | None = None,
        **details: Unpack[Details],
    ) -> None:
        """Replace the hold by what the call really spent.

        Args:
            input_tokens: All input, cache reads and writes included; may be left out only if none was reserved.
            output_tokens: All output, reasoning included; may be left out only if none was reserved.
            cost_usd: The cost; None: the cost that was reserved explicitly, else by the run's prices.
            model: The model that answered; None: the one that was reserved for.
            cache_read_tokens: The part of the input that was read from a cache.
            cache_write_tokens: The part of the input that was written to a cache.
            reasoning_tokens: The part of the output that was reasoning.
            estimated: Whether the numbers were estimated, not reported.
            unpriced: Whether a part of it has no price, so that the cost is too low.

        Raises:
            HoldClosedError: If it was settled or released before; then nothing is counted.
            BudgetExceededError: If a limit is passed now; the usage stays counted.
            UnpricedModelError: If it used tokens that have no price while a USD limit is in force; the usage stays
                counted, without a cost.
            ValueError: If the cost is negative, not finite or no amount, or a count is 2**45 or more.
            TypeError: If a count is no int, the model no string, or a count is left out though some was reserved.
        """
        # Defaults for all of these would cost as much as a lock.
        if details and (unknown := details.keys() - Details.__annotations__):
            raise TypeError(f"settle() takes {', '.join(Details.__annotations__)}, and not {', '.join(unknown)}")
        if (
            input_tokens.__class__ is not int
            or output_tokens.__class__ is not int
            or (input_tokens | output_tokens) >> MOST_BITS
        ):
            input_tokens = self._said("input_tokens", input_tokens, self.input_tokens)
            output_tokens = self._said("output_tokens", output_tokens, self.output_tokens)
        scope = self.scope
        if scope is None:
            self._close_unscoped()
            return
        priced = self.priced
        if cost_usd is not None:
            try:
                priced = PRICED_CALLS[cost_usd] if cost_usd.__class__ is Decimal else priced_call(cost_usd)
            except TypeError:  # a signalling NaN has no hash
                priced = priced_call(cost_usd)
        used = (model if model.__class__ is str else read_model(model)) if model else self.model
        extra = error = None
        if priced is None or details:
            rates = self.rates if priced is None else None
            if priced is None and model is not None and model != self.model:
                rates = scope.run.rates(model, self.model) or rates
            priced, extra, error = measure(scope, used, priced, rates, input_tokens, output_tokens, **details)
        spent = input_tokens + output_tokens * OUTPUT + priced
        tree = scope.tree
        with tree.lock:
            try:
                if self.state is OPEN:
                    owner = scope if scope.status is None else late_owner(scope, spent)
                    passed = charge(owner.meter, scope.meter, spent, extra, self)
                elif self.state is UNCERTAIN:
                    owner, passed = self._replace_estimate(scope, spent, extra)
                else:
                    raise HoldClosedError("this hold was settled or released before; nothing was counted")  # noqa: TRY301
                holds = self.keeper.holds  # type: ignore[union-attr]
                if holds is not None:
                    holds.discard(self)
                if used:
                    owner.last_model = used
                detail = owner.detail or owner.make_detail()
                call = (used, spent, "settled", self.output_tokens < self.asked_output)
                calls = detail.calls
                calls.append(call)
                if len(calls) > MOST_RECORDS:
                    del calls[:-KEPT_RECORDS]
                if input_tokens > self.input_tokens:
                    detail.miss(input_tokens - self.input_tokens)
                if passed is not None:
                    error = exceeded(passed.scope, "settle")
                if tree.waiting:
                    look(scope)
                self.scope = None  # its context may keep it until it takes the next one, but no tree with it
            except BaseException:
                look(scope)  # a signal handler may have raised, and whoever can move must not wait for the next change
                raise
        if armed.calls:
            self._tell(scope, owner, call, extra, error)
        if error is not None:
            tell_refused(scope, error)
            raise error

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
            if self.state is CLOSED:
                raise HoldClosedError("this hold was settled or released before")
            self.give_back()
        self._tell(scope, scope, None, None)

    def leave(self) -> None:
        """Charge the input as estimated and keep the rest as uncertain: the call was sent, its cost is unknown.

        Harmless on a hold that is not open.
        """
        scope = self.scope
        if scope is None or scope.tree.is_forked:
            self.state = CLOSED  # nothing to charge, or the parent process's to charge
            return
        with scope.tree.lock:
            if self.state is not OPEN:
                return
            charged = min(self.charge_if_unknown(), self.cost)
            spent = self.input_tokens + CALL + (charged << COST)
            owner = scope if scope.status is None else late_owner(scope, spent)
            record: CallEntry = (self.model, spent, "uncertain", self.is_clamped)
            uncertain = self.output_tokens * OUTPUT + (self.cost - charged << COST)
            extra = Extra(0, 0, 0, int(self.is_unpriced), 1, uncertain)
            self.guessed = owner, record, extra
            try:
                turn(self, UNCERTAIN, meter_of(owner), spent, spent, extra)
                owner.last_model = self.model or owner.last_model
                keep(owner.make_detail().calls, record)
                self.let_go()
                look(scope)
            except BaseException:
                look(scope)
                raise
        self._tell(scope, owner, record, extra)

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

    def charge_if_unknown(self) -> int:
        """Return what its input costs as estimated, in picodollars: what is charged where nobody learns its cost."""
        return 0 if self.fixed_cost is not None else actual_cost(self.rates, self.input_tokens, 0) or 0

    def output_for(self, room: int, output_tokens: int) -> int:
        """Return the largest output, at most *output_tokens*, that *room* picodollars pay for; -1 for none."""
        if self.fixed_cost is not None or self.rates is None:
            return output_tokens if (self.fixed_cost or 0) <= room else -1
        return self.rates.affordable_output(self.input_tokens, output_tokens, room)

    def register(self, scope: Scope) -> None:
        """Let the scope know of the hold, before it is open, so that none can be open and unknown."""
        if scope.holds is None:
            scope.holds = {self}
        else:
            scope.holds.add(self)
        if scope.status is not None:
            scope.hand_over()

    def give_back(self) -> None:
        """Close, charge nothing or no longer what was estimated, and let others have the room."""
        assert self.scope is not None
        try:
            if self.state is OPEN:
                turn(self, CLOSED, None, freed=self.amount)
            else:
                self._replace_estimate(self.scope, 0, None)
            self.let_go()
            look(self.scope)
        except BaseException:
            look(self.scope)
            raise

    def lower(self, output_tokens: int) -> None:
        """Hold less output, and let others have the room."""
        assert self.scope is not None
        with self.tree.lock:
            if self.state is not OPEN:
                return
            cost = self.cost_of(output_tokens)
            freed = (self.output_tokens - output_tokens) * OUTPUT + (self.cost - cost << COST)
            self.output_tokens, self.amount = output_tokens, self.amount - freed
            turn(self, OPEN, None, freed=freed)
            look(self.scope)

    def ask_again(self) -> None:
        """Be what was asked for at first, after it was given back."""
        self.state = PENDING
        self.output_tokens = self.asked_output

    def _tell(
        self, scope: Scope, owner: Scope, call: CallEntry | None, extra: Extra | None, error: Exception | None = None
    ) -> None:
        """Let the journal, the accounts and the hooks know what became of it, and what *owner* was charged for it."""
        run = scope.run
        outcome = "released" if call is None else call[2]
        if run.journal is not None:
            run.journal.settled(self, owner, outcome, call, extra)
        if run.funds is not None:
            spent = unpacked(0 if call is None else call[1])
            uncertain = unpacked(extra.uncertain if extra is not None and outcome == "uncertain" else 0)
            run.funds.settle(self, spent, uncertain)
        if call is not None and armed.thresholds:
            fire_thresholds(scope, error)

    def let_go(self) -> None:
        """Be no longer known to the scope that keeps it."""
        keeper = self.keeper
        assert keeper is not None
        if keeper.holds is not None:
            keeper.holds.discard(self)

    def _replace_estimate(self, scope: Scope, spent: int, extra: Extra | None) -> tuple[Scope, Meter | None]:
        """Replace what was charged and set aside while the cost was unknown by what it was.

        A receipt that was left meanwhile keeps its estimate: what the call spent above it is late, and nothing is
        taken back, since no other scope has spent it.

        Returns:
            Whose own the call is, and the meter of the outermost scope with a limit that is now passed, or None.
        """
        owner, record, guess = self.guessed
        more = spent - record[1]
        replaced = Extra(0, 0, 0, -guess.unpriced, -1, -guess.uncertain)
        if owner.status is None or owner.kind == "run":
            if owner is not scope:
                owner.make_detail().late += more
            calls_kept = owner.make_detail().calls
            if record in calls_kept:
                calls_kept.remove(record)
        else:
            (guessed_input, _, guessed_cost, _), (tokens_in, tokens_out, cost, _) = unpacked(record[1]), unpacked(spent)
            more = max(0, tokens_in - guessed_input) + tokens_out * OUTPUT + (max(0, cost - guessed_cost) << COST)
            replaced.unpriced = replaced.estimated = 0
            owner = late_owner(scope, more)
        if extra is not None:
            replaced.add(extra)
        return owner, turn(self, CLOSED, meter_of(owner), more, guess.uncertain, replaced)

    @property
    def is_unpriced(self) -> bool:
        """Whether nothing tells what it costs."""
        return self.fixed_cost is None and self.rates is None

    @staticmethod
    def _said(name: str, said: int | None, reserved: int) -> int:
        if said is None and reserved:
            raise TypeError(f"settle() needs {name}, of which {reserved} were reserved: say what the call used, or 0")
        return 0 if said is None else count(said, name)

    def _close_unscoped(self) -> None:
        if self.state is CLOSED:
            raise HoldClosedError("this hold was settled or released before")
        self.state = CLOSED
