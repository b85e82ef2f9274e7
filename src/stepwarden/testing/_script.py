"""The words a script is written in: what a scripted model may answer, and what it is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


def _require_count(field: str, value: object, *, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field}: {value!r} is not an int")
    if value < least:
        raise ValueError(f"{field}: {value!r} is too small; the least is {least}")


def _require_seconds(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{field}: {value!r} is not a number of seconds")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{field}: {value!r} is not a duration; give finite seconds >= 0")


def _require_json(field: str, value: Mapping[str, Any]) -> None:
    try:
        json.dumps(dict(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{field}: {value!r} cannot be sent as JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request that really arrived at the server, whatever became of it.

    Attributes:
        path: The path it was sent to, without a query string.
        headers: Its headers, names in lower case.
        body: Its JSON object; empty where the body was not one.
        at_ns: When it had arrived in full, by `time.monotonic_ns`.
    """

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at_ns: int


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call inside a reply.

    Attributes:
        name: The tool's name.
        arguments: Its arguments: an object, sent as JSON, or the very text to send, valid or not.
        id: The call's id; None makes one that is unique on the server.
    """

    name: str
    arguments: Mapping[str, Any] | str
    id: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: '' names no tool")
        if not isinstance(self.arguments, (str, Mapping)):
            raise TypeError(f"arguments: {self.arguments!r} is neither a mapping nor a str")
        if isinstance(self.arguments, Mapping):
            _require_json("arguments", self.arguments)

    @property
    def arguments_text(self) -> str:
        """Return the arguments as the text that is sent."""
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(dict(self.arguments))


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says, as far as the request lets it.

    A request's output limit is obeyed: the reasoning comes first, then the text, then the tool calls, and what
    lies beyond the limit is cut off, with finish reason "length". Counts are for one choice; a request for `n`
    choices gets the reply `n` times. A reply streams as one event a token, and a request that asks for a schema
    gets *text* as it stands.

    Attributes:
        text: What the model says.
        input_tokens: Input tokens to report; None counts the request's text, one token for 4 bytes of UTF-8,
            rounded up, at least 1 (and at least *cached_tokens* and *cache_write_tokens* together).
        output_tokens: Output tokens to report, reasoning included; None counts the text and the tool calls
            in the same way and adds *reasoning_tokens*.
        cached_tokens: How many of the input tokens came from the provider's cache.
        reasoning_tokens: How many of the output tokens were reasoning.
        tool_calls: Calls that follow the text.
        finish_reason: The reason to report; None derives it. A reply that is cut ends with "length" always.
        model: The model to report; None reports the one that was asked for.
        include_usage: Report usage, where the protocol does; False never reports it. The server counts it still.
        delay: Seconds before anything is sent.
        chunk_delay: Seconds between two events of a stream. At 0 the whole stream is sent at once.
        usage: The usage object to send in place of the derived one, word for word: for a provider that counts
            oddly, leaves fields out or passes the limit.
        cache_write_tokens: How many of the input tokens were written to the provider's cache.
    """

    text: str = "ok"
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: str | None = None
    model: str | None = None
    include_usage: bool = True
    delay: float = 0.0
    chunk_delay: float = 0.0
    usage: Mapping[str, Any] | None = None
    cache_write_tokens: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"text: {self.text!r} is not a str")
        _require_count("cached_tokens", self.cached_tokens)
        _require_count("cache_write_tokens", self.cache_write_tokens)
        _require_count("reasoning_tokens", self.reasoning_tokens)
        if self.input_tokens is not None:
            _require_count("input_tokens", self.input_tokens, least=self.cached_tokens + self.cache_write_tokens)
        if self.output_tokens is not None:
            _require_count("output_tokens", self.output_tokens, least=self.reasoning_tokens)
        if not all(isinstance(call, ToolCall) for call in self.tool_calls):
            raise TypeError(f"tool_calls: {self.tool_calls!r} are not all of them ToolCall")
        object.__setattr__(self, "tool_calls", tuple(self.tool_calls))
        _require_seconds("delay", self.delay)
        _require_seconds("chunk_delay", self.chunk_delay)
        if self.usage is not None:
            _require_json("usage", self.usage)


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP error in the protocol's own form.

    Attributes:
        status: The HTTP status, 400 to 599.
        message: The message in the error body.
        retry_after: Seconds for the `retry-after` header; None sends no such header.
        body: The body to send in place of the error: an object, sent as JSON, or bytes, sent as they are.
        param: The field of the request that the error blames.
    """

    status: int
    message: str = "scripted failure"
    retry_after: float | None = None
    body: Mapping[str, Any] | bytes | None = None
    param: str | None = None

    def __post_init__(self) -> None:
        _require_count("status", self.status)
        if self.status // 100 not in {4, 5}:
            raise ValueError(f"status: {self.status!r} is no HTTP error; give 400 to 599")
        if self.retry_after is not None:
            _require_seconds("retry_after", self.retry_after)
        if isinstance(self.body, Mapping):
            _require_json("body", self.body)


@dataclass(frozen=True, slots=True)
class Hang:
    """Silence: the request is read and never answered.

    Attributes:
        seconds: When to close the connection, in seconds; None waits until the client or the server closes it.
    """

    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None:
            _require_seconds("seconds", self.seconds)


@dataclass(frozen=True, slots=True)
class Drop:
    """A connection that is closed as soon as the request has been read."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A reply whose connection breaks in the middle of it.

    A request that does not stream gets the first half of the body it was promised.

    Attributes:
        reply: The reply that is cut off.
        after_chunks: How many events of the stream are sent before the break, the one that names the role
            included. The event that ends a stream is never sent, however large this is.
    """

    reply: Reply = Reply()
    after_chunks: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.reply, Reply):
            raise TypeError(f"reply: {self.reply!r} is not a Reply")
        _require_count("after_chunks", self.after_chunks)


@dataclass(frozen=True, slots=True)
class Garbage:
    """A success, by its status, whose body nobody can read.

    Attributes:
        body: The bytes to send; a request that streams gets them as the data of its only event.
    """

    body: bytes = b'{"id": "chatcmpl-'


Response: TypeAlias = Reply | Failure | Hang | Drop | Cut | Garbage
Scripted: TypeAlias = Response | Callable[[ReceivedRequest], Response]


def require_response(field: str, value: object) -> Response:
    """Refuse what is not a response.

    Args:
        field: The name to give it in the error.
        value: What should be one.

    Returns:
        The response.

    Raises:
        TypeError: It is not one.
    """
    if not isinstance(value, Response):
        raise TypeError(f"{field}: {value!r} is not a Reply, Failure, Hang, Drop, Cut or Garbage")
    return value


def require_scripted(field: str, value: object) -> None:
    """Refuse what cannot stand in a script.

    Args:
        field: The name to give it in the error.
        value: What was put into the script.

    Raises:
        TypeError: It is neither a response nor a callable that could return one.
    """
    if isinstance(value, type) or not callable(value):
        # A class is callable, but `Drop` where `Drop()` was meant computes nothing.
        require_response(field, value)
