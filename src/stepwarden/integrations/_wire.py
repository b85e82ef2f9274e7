"""Calls that are one HTTP request each: made of the request's body, settled off the wire."""

from __future__ import annotations

from typing import Protocol

from ._estimate import Asked, Estimate, input_tokens
from ._seam import Attempt, Reported
from ._streams import StreamReader


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

    @property
    def asked(self) -> Asked:
        """What it has as input."""

    def body(self, output_limit: int | None) -> bytes | None:
        """Return the request's body with this limit for each choice, or None where nothing in it changes.

        Args:
            output_limit: Tokens; None where no limit in force needs the request to be touched.
        """

    def read(self, body: bytes) -> Reported:
        """Read a whole reply; raise a ValueError where it is none."""

    def stream(self) -> StreamReader[bytes]:
        """Return what reads a streamed reply."""


class WholeReader:
    """Read a reply that is no stream of events, though it may be read in pieces.

    Args:
        call: The request that it answers.
    """

    text = ""
    # Half of it is of no use to anybody, and all of it is paid for.
    is_complete = True

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


class WireAttempt(Attempt):
    """Be one request on the wire.

    Args:
        call: What is sent.
        timeout: The client's own time-out in seconds, or None: no longer is waited for other calls' holds.
        estimate: How its input is estimated.
    """

    def __init__(self, call: WireCall, timeout: float | None, estimate: Estimate) -> None:
        super().__init__(
            model=call.model,
            input_tokens=call.asked.likely() if estimate == "likely" else input_tokens(call.asked, estimate),
            is_stated=estimate != "likely",
            output_tokens=call.output_limit,
            min_output_tokens=call.min_output,
            choices=call.choices,
            timeout=timeout,
        )
        self.call = call

    def answered(self, body: bytes) -> None:
        """Settle an attempt by its whole reply."""
        try:
            reported = self.call.read(body)
        except ValueError:
            reported = None
        self.settle(reported)

    def reader(self, *, is_whole: bool) -> StreamReader[bytes]:
        """Return what reads the reply that comes.

        Args:
            is_whole: Whether the reply is a whole one, though a stream may have been asked for.
        """
        return self.call.stream() if self.call.is_stream and not is_whole else WholeReader(self.call)
