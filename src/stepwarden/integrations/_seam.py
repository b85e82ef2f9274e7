"""What is common to every guarded SDK: estimate, reserve, send, settle, and what a failed call means.

An SDK's own file says how its requests are read and rewritten (a `WireCall`) and where each attempt is sent; the
rest stands here once. One `Attempt` is one request on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stepwarden.core._hold import Hold
from stepwarden.core._leaf import get_leaf, resolve
from stepwarden.core._reserve import reserve
from stepwarden.core._scope import Scope
from stepwarden.core.errors import BudgetExceededError

DEFAULT_MAX_OUTPUT_TOKENS = 1_024
_NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"})
_FIRST_ERROR = 400
_FIRST_SERVER_ERROR = 500
_OVERLOADED = frozenset({503, 529})


@dataclass(frozen=True, slots=True)
class Reported:
    """Tell what a reply says that it used.

    Args:
        model: The model that answered, or None where the reply does not say.
        input_tokens: All input, cache reads and writes included; None where the reply does not say.
        output_tokens: All output, reasoning included; None where the reply does not say.
        cache_read_tokens: The part of the input that was read from a cache.
        cache_write_tokens: The part of the input that was written to a cache.
        reasoning_tokens: The part of the output that was reasoning.
        arrived_tokens: The output as counted from what arrived, for a reply that does not say.
    """

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    arrived_tokens: int = 0


class StreamReader(Protocol):
    """Read a streamed reply as it passes."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes off the wire; return those that the caller is shown."""

    def end(self) -> bytes:
        """Return what is left to be shown."""

    def reported(self) -> Reported | None:
        """Return what the reply has said so far; None where that cannot be read."""


class WireCall(Protocol):
    """Be one request that costs something, as one API writes it."""

    @property
    def model(self) -> str | None:
        """The model that it names."""

    @property
    def is_stream(self) -> bool:
        """Whether it asks for a stream."""

    @property
    def choices(self) -> int:
        """How many replies it asks for."""

    @property
    def output_limit(self) -> int | None:
        """The most output for each choice, in tokens; None where it names none."""

    @property
    def min_output(self) -> int:
        """The least output limit that the API takes."""

    def input_tokens(self) -> int:
        """Estimate the input."""

    def body(self, output_limit: int | None) -> bytes | None:
        """Return the request's body with this limit for each choice, or None where nothing in it changes.

        Args:
            output_limit: Tokens; None where no limit in force needs the request to be touched.
        """

    def read(self, body: bytes) -> Reported:
        """Read a whole reply; raise a ValueError where it is none."""

    def stream(self) -> StreamReader:
        """Return what reads a streamed reply."""


class WholeReader:
    """Read a reply that is no stream of events, though it may be read in pieces.

    Args:
        call: The request that it answers.
    """

    def __init__(self, call: WireCall) -> None:
        self._call = call
        self._body = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Take bytes off the wire; all of them are shown."""
        self._body += data
        return data

    def end(self) -> bytes:
        """Return nothing: no byte was kept back."""
        return b""

    def reported(self) -> Reported | None:
        """Return what the reply says; None where it cannot be read."""
        try:
            return self._call.read(bytes(self._body))
        except ValueError:
            return None


class Attempt:
    """Be one request on the wire: reserved before it is sent, settled by what comes back.

    Args:
        call: What is sent.
        timeout: The client's own time-out in seconds, or None: no longer is waited for other calls' holds.
    """

    def __init__(self, call: WireCall, timeout: float | None) -> None:
        self.call = call
        self.scope = resolve(get_leaf())
        self.is_bounded = _has_token_or_usd_limit(self.scope)
        asked = call.output_limit
        self._asked = _default_output(self.scope) if asked is None else asked
        self._input = call.input_tokens()
        self.reservation = reserve(
            input_tokens=self._input,
            output_tokens=self._asked * call.choices,
            min_output_tokens=min(call.min_output, self._asked) * call.choices,
            model=call.model,
            timeout=timeout,
        )
        self._hold: Hold | None = None

    def body(self, hold: Hold) -> bytes | None:
        """Return the body to send, with what was granted written into it; None for the one that there is.

        Args:
            hold: What was granted.
        """
        self._hold = hold
        return self.call.body(hold.output_tokens // self.call.choices if self.is_bounded else None)

    def time_left(self) -> float | None:
        """Return the seconds that `max_seconds` leaves on the chain, or None where there is none."""
        left: float | None = None
        scope = self.scope
        while scope is not None:
            if scope.limits is not None and scope.limits.nanoseconds is not None:
                rest = max(0.0, (scope.limits.nanoseconds - scope.spent("max_seconds")) / 1e9)
                left = rest if left is None else min(left, rest)
            scope = scope.parent
        return left

    def failed(self, error: BaseException) -> None:
        """Settle an attempt that an error ended: nothing was sent, or nobody knows what it cost."""
        if any(kind.__name__ in _NOT_CONNECTED for kind in type(error).__mro__):
            self.release()
        else:
            self.leave()

    def refused_with(self, status: int) -> bool:
        """Settle an attempt by its HTTP status, where that is no success.

        Args:
            status: The status.

        Returns:
            Whether it was no success.
        """
        if status < _FIRST_ERROR:
            return False
        if status < _FIRST_SERVER_ERROR or status in _OVERLOADED:
            self.release()
        else:
            self.leave()
        return True

    def answered(self, body: bytes) -> None:
        """Settle an attempt by its whole reply."""
        reader = WholeReader(self.call)
        reader.feed(body)
        self.settle(reader.reported())

    def settle(self, reported: Reported | None) -> None:
        """Settle by what a reply reports, or by what arrived of it where it reports nothing; once only.

        Args:
            reported: What it reports; None where it cannot be read, so that nobody knows what it cost.
        """
        hold, self._hold = self._hold, None
        if hold is None:
            return
        if reported is None:
            hold.leave()
            return
        is_known = reported.input_tokens is not None and reported.output_tokens is not None
        try:
            hold.settle(
                input_tokens=self._input if reported.input_tokens is None else reported.input_tokens,
                output_tokens=self._output(hold, reported),
                model=reported.model or self.call.model,
                cache_read_tokens=reported.cache_read_tokens,
                cache_write_tokens=reported.cache_write_tokens,
                reasoning_tokens=reported.reasoning_tokens,
                estimated=not is_known,
            )
        except BudgetExceededError:
            # The reply is paid for, so it is given back; the excess is on the receipt, and the next call is refused.
            return

    def _output(self, hold: Hold, reported: Reported) -> int:
        if reported.output_tokens is not None:
            return reported.output_tokens
        arrived, granted = reported.arrived_tokens, hold.output_tokens
        # The limit was sent, so a little more than it is the estimate's margin; twice as much is a server that
        # did not obey it.
        return granted if self.is_bounded and granted < arrived <= 2 * granted else arrived

    def release(self) -> None:
        """Give the hold back whole: the call was certainly never made."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def leave(self) -> None:
        """Keep what it may have cost as uncertain."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.leave()


def _has_token_or_usd_limit(scope: Scope | None) -> bool:
    while scope is not None:
        limits = scope.limits
        if limits is not None and (limits.tokens, limits.input, limits.output, limits.usd) != (None,) * 4:
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
