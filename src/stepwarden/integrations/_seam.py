"""What is common to every guarded call: estimate, reserve, call, settle, and what a failed call means.

An `Attempt` is one call of any kind that costs something. It reserves when it is entered, tells the output limit to
send, and is settled by what comes back::

    with Attempt(model="gpt-5-mini", input_tokens=800, output_tokens=settings.max_tokens) as attempt:
        reply = call(max_tokens=attempt.output_limit or settings.max_tokens)
        attempt.settle(Reported(model=reply.model, input_tokens=reply.usage.input, output_tokens=reply.usage.output))

``async with`` is the same and waits without blocking the loop; `acquire`, `acquire_async` and `failed` are for those
who cannot write a block. Entering raises whatever refuses the call, and then nothing may be sent.

* `Attempt.output_limit` is the limit to write into the call, for each of its *choices*; None: no token or USD limit is
  in force, and the call is not to be touched. `Attempt.time_left` is the longest that it may take, in seconds.
* Exactly one thing settles it; whatever comes later does nothing. `settle(Reported(...))`: what a reply says, or with
  *arrived_tokens* what came of it (counted as an estimate). `settle(None)`: a reply that nobody can read. `release()`:
  certainly never made. `leave()`: nobody knows what it cost. `failed(error)` and `refused_with(status)` decide between
  those two, for any SDK's exception and any HTTP status.
* A block that is left by an exception settles by `failed`; one that ends without settling leaves the call uncertain,
  unless it said `keep()`: the reply is read later, and whoever reads it settles (`_streams` does it for a stream).
* **A guard inside a guard.** The first attempt made inside an attempt that is neither settled nor kept takes over its
  hold instead of reserving again, and settles it; what the outer one does to settle then does nothing, so neither has
  to know of the other. Attempts after the first (an SDK's retries) reserve anew. An attempt whose call is made only
  when its reply is first read (a lazy stream) says `keep()` only then.

What speaks HTTP builds on `_wire`, which makes an attempt of a request's body and reads replies off the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Self

from stepwarden.core._deadline import deadline_error
from stepwarden.core._hold import Hold, offered
from stepwarden.core._leaf import get_leaf, resolve
from stepwarden.core._money import Money, dollars
from stepwarden.core._reserve import reserve
from stepwarden.core._scope import Scope
from stepwarden.core.errors import BudgetExceededError, UnpricedModelError

from ._adopt import WorstCase, stated, taken_over
from ._failure import FIRST_ERROR, costs_nothing, status_costs_nothing
from ._other import OtherTokens, cost_of_other

DEFAULT_MAX_OUTPUT_TOKENS = 1_024
_HAIR_NS = 1_000_000
"""By how much a time-out that was set to what is left may fire before our own clock has come to it."""


@dataclass(frozen=True, slots=True)
class Reported:
    """Tell what a reply says that it used.

    Args:
        model: The model that answered, or None where the reply does not say.
        input_tokens: All input, cache reads and writes included; None where the reply does not say.
        output_tokens: All output, reasoning included; None where the reply does not say.
        cache_read_tokens: The part of the input that was read from a cache.
        cache_write_tokens: The part of the input that was written to a cache.
        cache_write_1h_tokens: The part of *cache_write_tokens* that is kept there for an hour, which some charge more.
        reasoning_tokens: The part of the output that was reasoning.
        arrived_tokens: The output as counted from what arrived, for a reply that does not say.
        cost_usd: The cost, where the reply or its SDK says it; None: by the run's prices.
        other: What of the input and output was no text, where the reply says so.
    """

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    arrived_tokens: int = 0
    cost_usd: Money | None = None
    other: OtherTokens | None = None


class Attempt:
    """Be one call that costs something: reserved before it is made, settled by what comes back.

    Args:
        model: The model that it names, or None: the default model in force is priced.
        input_tokens: The input that it will have, as estimated.
        output_tokens: The most output for each choice; None: what the step, else the run, assumes, else 1,024.
        min_output_tokens: The least output limit that the API takes.
        choices: How many replies it asks for.
        cost_usd: The cost, where it is fixed.
        timeout: The client's own time-out in seconds, or None: no longer is waited for other calls' holds.
        is_stated: Whether the user said how the input is estimated: that holds for a call inside it, too, for which
            nobody said so.
    """

    def __init__(
        self,
        *,
        model: str | None,
        input_tokens: int,
        output_tokens: int | None = None,
        min_output_tokens: int = 1,
        choices: int = 1,
        cost_usd: Money | None = None,
        timeout: float | None = None,
        is_stated: bool = False,
    ) -> None:
        scope = get_leaf()
        self.scope = scope if scope is None or scope.status is None else resolve(scope)
        self.is_bounded = _has_token_or_usd_limit(self.scope)
        self.model = model
        self._choices = choices
        asked = _default_output(self.scope) if output_tokens is None else output_tokens
        least = min(min_output_tokens, asked) * choices
        self._asked = input_tokens, asked * choices, least
        self._is_stated = is_stated
        self._reservation = reserve(
            input_tokens=input_tokens,
            output_tokens=asked * choices,
            min_output_tokens=least,
            cost_usd=cost_usd,
            model=model,
            timeout=timeout,
        )
        # Taken out of it by whoever settles, which is one operation whatever thread it is on.
        self._claim: list[Hold] = []
        self._is_kept = False
        self._granted = 0

    def acquire(self) -> None:
        """Take the hold: that of the call that this one is made in, else a new one, waiting for room where it must.

        Raises:
            StepwardenError: What `Reservation.acquire` raises; then the call must not be made.
        """
        hold = taken_over(self._worst()) if offered.get() else None
        self._take(hold, self._reservation.acquire() if hold is None else hold)

    async def acquire_async(self) -> None:
        """Take the hold like `acquire`, waiting without blocking the event loop."""
        hold = taken_over(self._worst()) if offered.get() else None
        self._take(hold, await self._reservation if hold is None else hold)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.failed(error)
        elif not self._is_kept:
            self.leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _take(self, adopted: Hold | None, hold: Hold) -> None:
        self._is_kept = False
        self._granted = hold.output_tokens
        self._claim = [hold]
        offered.set(self._claim)
        if self._is_stated:
            stated.set(self._asked[0])
        elif adopted is None and stated.get() is not None:
            stated.set(None)

    def _worst(self) -> WorstCase:
        return WorstCase(self.model, *self._asked, self._is_stated)

    @property
    def output_limit(self) -> int | None:
        """The output limit to send, in tokens for each choice; None where the call is not to be touched."""
        return self._granted // self._choices if self.is_bounded else None

    def keep(self) -> None:
        """Say that the call was made and its reply is read later: no call after it takes its hold over."""
        self._is_kept = True
        hold = self._taken()
        if hold is not None:
            self._claim = [hold]

    def time_left(self) -> float | None:
        """Return the seconds that `max_seconds` leaves on the chain, or None where there is none."""
        scope = self.scope
        while scope is not None:
            if scope.limits is not None and scope.limits.nanoseconds is not None:
                hurried = self._most_hurried()
                return None if hurried is None else max(0.0, hurried[0] / 1e9)
            scope = scope.parent
        return None

    def overdue(self, partial: str | None = None) -> BudgetExceededError | None:
        """Return the error to end a stream with, where `max_seconds` of a scope around is over; else None.

        Args:
            partial: The text that was received; it is paid for, and the error carries it.
        """
        hurried = self._most_hurried()
        if hurried is None or hurried[0] > _HAIR_NS:
            return None
        error = deadline_error(hurried[1])
        error.partial = partial
        return error

    def broken_off(self, partial: str) -> None:
        """Leave the text of a stream to the scope around whose `max_seconds` is over, if that broke it off.

        Args:
            partial: The text that was received.
        """
        hurried = self._most_hurried()
        if hurried is not None and hurried[0] <= _HAIR_NS:
            hurried[1].make_detail().partial = partial

    def _most_hurried(self) -> tuple[int, Scope] | None:
        """Return the least of the nanoseconds left on the chain and whose they are, the outermost of equals."""
        found: tuple[int, Scope] | None = None
        scope = self.scope
        while scope is not None:
            if scope.limits is not None and scope.limits.nanoseconds is not None:
                left = scope.limits.nanoseconds - scope.spent("max_seconds")
                if found is None or left <= found[0]:
                    found = left, scope
            scope = scope.parent
        return found

    def failed(self, error: BaseException) -> None:
        """Settle a call that an error of any SDK ended: it was certainly not served, or nobody knows its cost."""
        if costs_nothing(error):
            self.release()
        else:
            self.leave()

    def tell_if_overdue(self, error: BaseException, partial: str | None = None) -> None:
        """Raise our own error where a time-out was that of `max_seconds`.

        Args:
            error: The error that an SDK or its transport raised.
            partial: The text that was received.

        Raises:
            BudgetExceededError: If it was.
        """
        if any("Timeout" in kind.__name__ for kind in type(error).__mro__):
            overdue = self.overdue(partial)
            if overdue is not None:
                if partial is not None:
                    self.broken_off(partial)
                # Not from the SDK's own error: anthropic's looks for one behind ours, and would try again.
                raise overdue from None

    def refused_with(self, status: int) -> bool:
        """Settle a call by its HTTP status, where that is no success.

        Args:
            status: The status.

        Returns:
            Whether it was no success.
        """
        if status < FIRST_ERROR:
            return False
        if status_costs_nothing(status):
            self.release()
        else:
            self.leave()
        return True

    def settle(self, reported: Reported | None) -> None:
        """Settle by what a reply reports, or by what arrived of it where it reports nothing; once only.

        Args:
            reported: What it reports; None where it cannot be read, so that nobody knows what it cost.
        """
        hold = self._taken()
        if hold is None:
            return
        if reported is None:
            hold.leave()
            return
        input_tokens, output_tokens = reported.input_tokens, reported.output_tokens
        is_known = input_tokens is not None and output_tokens is not None
        if input_tokens is None:
            input_tokens = hold.input_tokens
        if output_tokens is None:
            output_tokens = self._output(hold, reported)
        if reported.cache_read_tokens or reported.cache_write_tokens:
            # A server that speaks another's API may count them beside the input; we count them inside.
            input_tokens = max(input_tokens, reported.cache_read_tokens + reported.cache_write_tokens)
        model = reported.model or self.model
        cost_usd, is_priced = reported.cost_usd, True
        if reported.other is not None and cost_usd is None and hold.scope is not None and hold.fixed_cost is None:
            cost_usd, is_priced = cost_of_other(
                hold.scope.run, model or hold.model, hold.model, reported.other,
                input_tokens=input_tokens, output_tokens=output_tokens,
                cache_read_tokens=reported.cache_read_tokens, cache_write_tokens=reported.cache_write_tokens,
                reasoning_tokens=reported.reasoning_tokens,
            )  # fmt: skip
        elif cost_usd is None and reported.cache_write_1h_tokens:
            cost_usd = self._cost_of_long_cache(reported, model, hold.model, input_tokens, output_tokens)
        try:
            hold.settle(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cost_usd=cost_usd,
                model=model,
                cache_read_tokens=reported.cache_read_tokens,
                cache_write_tokens=reported.cache_write_tokens,
                reasoning_tokens=reported.reasoning_tokens,
                estimated=not is_known,
                unpriced=not is_priced,
            )
        except (BudgetExceededError, UnpricedModelError):
            # The reply is paid for, so it is given back; the excess is on the receipt, and the next call is refused.
            return
        except BaseException:
            hold.leave()  # numbers that cannot be right; nobody else has the hold, and it must not stay open
            raise

    def _cost_of_long_cache(
        self, reported: Reported, model: str | None, called: str | None, input_tokens: int, output_tokens: int
    ) -> Decimal | None:
        """Price a call with input that is cached for an hour, of which a hold knows nothing; None without prices."""
        rates = None if self.scope is None else self.scope.run.rates(model, called)
        if rates is None:
            return None
        cost = rates.cost(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=reported.cache_read_tokens,
            cache_write_tokens=reported.cache_write_tokens,
            cache_write_1h_tokens=reported.cache_write_1h_tokens,
            reasoning_tokens=reported.reasoning_tokens,
        )
        return dollars(cost)

    def _output(self, hold: Hold, reported: Reported) -> int:
        arrived, granted = reported.arrived_tokens, hold.output_tokens
        # The limit was sent, so a little more than it is the estimate's margin; twice as much is a server that
        # did not obey it.
        return granted if self.is_bounded and granted < arrived <= 2 * granted else arrived

    def release(self) -> None:
        """Give the hold back whole: the call was certainly never made."""
        hold = self._taken()
        if hold is not None:
            hold.release()

    def set_aside(self) -> None:
        """Keep what it may cost as uncertain, and let a later `settle` replace that: its reply can be had later."""
        self.keep()
        for hold in tuple(self._claim):
            hold.leave()

    def leave(self) -> None:
        """Keep what it may have cost as uncertain."""
        hold = self._taken()
        if hold is not None:
            hold.leave()

    def _taken(self) -> Hold | None:
        try:
            return self._claim.pop()
        except IndexError:  # settled before, or a call inside this one took it over and settles it
            return None


def _has_token_or_usd_limit(scope: Scope | None) -> bool:
    while scope is not None:
        limits = scope.limits
        if limits is not None and not (
            limits.usd is None and limits.tokens is None and limits.output is None and limits.input is None
        ):
            return True
        if scope.plan.accounts:
            return True
        scope = scope.parent
    return False


def _default_output(scope: Scope | None) -> int:
    """Return the output assumed for a call that names no limit: the nearest step's, else the nearest run's."""
    step: int | None = None
    run: int | None = None
    while scope is not None:
        step = step or scope.plan.default_max_output_tokens
        if scope.run is scope:
            run = run or scope.run.default_max_output_tokens
        scope = scope.parent
    return step or run or DEFAULT_MAX_OUTPUT_TOKENS
