"""Anthropic's messages on the wire: how requests are read and rewritten, and what replies report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from ._estimate import Asked, tokens_in
from ._events import EventReader
from ._fast_json import parsed
from ._input import MESSAGES, Conversation
from ._json import TOO_MANY, count, encoded, model_of, size_of, text_of, with_model
from ._seam import Reported

PREFIXES = ("anthropic:",)

_Count = Annotated[int, msgspec.Meta(ge=0, lt=TOO_MANY)]


class _CacheDetails(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: _Count | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: _Count | None = None


class _Counts(msgspec.Struct, gc=False):
    input_tokens: _Count
    output_tokens: _Count
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: _CacheDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Message(msgspec.Struct, gc=False):
    """Be a whole reply that says what it used, as nearly every one does; nothing else of it is looked at."""

    content: list[msgspec.Raw]
    usage: _Counts
    model: str | None = None


_message = msgspec.json.Decoder(_Message).decode


class MessagesCall:
    """Be one messages request.

    Args:
        request: The request's JSON.
    """

    choices = 1

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = self._named = request
        model = request.get("model")
        if model.__class__ is str and model and not model.startswith(PREFIXES):
            self.model: str | None = model
        else:
            self.model = model_of(request)
            self._named = with_model(request, self.model, PREFIXES)
        self.is_stream = bool(request.get("stream"))

    @property
    def output_limit(self) -> int | None:
        """The most output, in tokens; None where it names none, which the API refuses."""
        return count(self._request, "max_tokens")

    @property
    def min_output(self) -> int:
        """The least output limit that the API takes: more than what the model may think."""
        return (count(self._request, "thinking", "budget_tokens") or 0) + 1

    @property
    def asked(self) -> Asked:
        """What it has as input."""
        return Conversation(self._named, MESSAGES)

    def rewritten(self, output_limit: int | None) -> dict[str, Any]:
        """Return the request with this output limit, and its model as Anthropic knows it.

        Args:
            output_limit: Tokens; None where no limit in force needs the request to be touched.
        """
        request = self._named
        is_there = output_limit is None or request.get("max_tokens") == output_limit
        return request if is_there else {**request, "max_tokens": output_limit}

    def body(self, output_limit: int | None) -> bytes | None:
        """Return the request's body with this output limit, or None where nothing in it changes."""
        request = self.rewritten(output_limit)
        return None if request == self._request else encoded(request)

    def read(self, body: bytes) -> Reported:
        """Read a whole reply; raise a ValueError where it is none."""
        try:
            known = _message(body.decode())
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _read_whole(body)
        usage = known.usage
        read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        cached, made = usage.cache_creation, usage.output_tokens_details
        return Reported(
            model=known.model or None,
            # Anthropic counts what the cache had part in beside the input; we count it inside.
            input_tokens=usage.input_tokens + read + written,
            output_tokens=usage.output_tokens,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=0 if cached is None else cached.ephemeral_1h_input_tokens or 0,
            reasoning_tokens=0 if made is None else made.thinking_tokens or 0,
            arrived_tokens=1,  # not counted, since what was made is known
        )

    def stream(self) -> MessagesStream:
        """Return what reads a streamed reply."""
        return MessagesStream()


class MessagesStream:
    """Read a stream of message events; all of it is shown, since usage is there unasked."""

    def __init__(self) -> None:
        self._events = EventReader(self._take)
        self._message: dict[str, Any] | None = None
        self._usage: dict[str, Any] = {}
        self._is_ended = False
        self._said: list[str] = []
        self._size = 0
        # Most servers send an event a token; at least a token was made where any arrived.
        self._deltas = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes off the wire; return those of whole events."""
        return self._events.feed(data)

    def end(self) -> bytes:
        """Return what is left to be shown: an event without an end."""
        return self._events.end()

    def reported(self) -> Reported | None:
        """Return what the reply has said so far; left early, its output as counted from what arrived.

        Returns:
            What it said; None where no message has begun, so that nobody knows what it cost.
        """
        if self._message is None:
            return None
        usage = dict(self._usage)
        if not self._is_ended:
            usage.pop("output_tokens", None)  # what it began with is no count of what it made
        return _reported(self._message, usage, max(1, self._deltas, tokens_in(self._size)))

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._said)

    @property
    def is_complete(self) -> bool:
        """Whether its whole usage was reported, which comes last."""
        return self._is_ended

    def _take(self, event: dict[str, Any]) -> bool:
        match event.get("type"):
            case "message_start" if isinstance(event.get("message"), dict):
                self._message = event["message"]
                self._note(event["message"].get("usage"))
            case "message_delta":
                self._note(event.get("usage"))
                self._is_ended = count(event, "usage", "output_tokens") is not None
            case "content_block_start" | "content_block_delta":
                block = event.get("content_block") or event.get("delta")
                size = size_of(_texts(block))
                self._size += size
                self._deltas += size > 0
                text = text_of(block.get("text")) if isinstance(block, dict) else None
                self._said += [] if text is None else [text]
        return True

    def _note(self, usage: object) -> None:
        # The numbers of later events are cumulative, and leave out what has not changed.
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}


def _texts(block: Any) -> list[Any]:
    if not isinstance(block, dict):
        return []
    arguments = encoded(block["input"]).decode() if isinstance(block.get("input"), dict) and block["input"] else None
    return [block.get("text"), block.get("thinking"), block.get("partial_json"), block.get("name"), arguments]


def _read_whole(body: bytes) -> Reported:
    reply = parsed(body)
    if not isinstance(reply, dict) or not isinstance(reply.get("content"), list):
        raise ValueError("no message")  # noqa: TRY004 - what a reply that cannot be read is, here
    said = sum(size_of(_texts(block)) for block in reply["content"])
    return _reported(reply, reply.get("usage"), max(1, tokens_in(said)))


def _reported(reply: Mapping[str, Any], usage: object, arrived: int) -> Reported:
    uncached = count(usage, "input_tokens")
    read = count(usage, "cache_read_input_tokens") or 0
    written = count(usage, "cache_creation_input_tokens") or 0
    return Reported(
        model=text_of(reply.get("model")),
        # Anthropic counts what the cache had part in beside the input; we count it inside.
        input_tokens=None if uncached is None else uncached + read + written,
        output_tokens=count(usage, "output_tokens"),
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=count(usage, "cache_creation", "ephemeral_1h_input_tokens") or 0,
        reasoning_tokens=count(usage, "output_tokens_details", "thinking_tokens") or 0,
        arrived_tokens=arrived,
    )
