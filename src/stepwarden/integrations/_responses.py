"""OpenAI's Responses API on the wire: requests, replies, and those that come later.

The server may hold a part of the input. What it held after an earlier response is remembered from that response's
usage, so a request that goes on from it is estimated with it; of what this process never saw (a conversation or a
prompt template of others) only what the request itself says is estimated, and the excess is overshoot.

A response in the background is made after its request was answered. It is reserved and bounded like any other, set
aside as uncertain, and settled when it is retrieved, or cancelled, through a guarded client of this process.
"""

from __future__ import annotations

from typing import Any

from ._chat import PREFIXES
from ._estimate import Asked, Estimate, tokens_in
from ._events import EventReader
from ._fast_json import parsed
from ._input import RESPONSES, Conversation
from ._json import count, encoded, least_limit, model_of, size_of, text_of, with_model
from ._remembered import Remembered
from ._seam import Reported
from ._wire import WireAttempt

_ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
_contexts: Remembered[int] = Remembered()
"""How many tokens a response, or a conversation, had come to."""
_pending: Remembered[WireAttempt] = Remembered()
"""Calls whose responses are made in the background."""


class ResponsesCall:
    """Be one request to the Responses API.

    Args:
        request: The request's JSON.
    """

    choices = 1
    min_output = 16

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        # A prompt template names a model of its own.
        self.model = text_of(request.get("model")) if request.get("prompt") else model_of(request)
        self.is_stream = bool(request.get("stream"))
        self.is_background = bool(request.get("background"))
        self.response_id: str | None = None

    @property
    def output_limit(self) -> int | None:
        """The most output, in tokens; None where it names none."""
        return least_limit(self._request, "max_output_tokens")

    @property
    def asked(self) -> Asked:
        """What it has as input, with what the server is known to hold of it."""
        held = (text_of(self._request.get("previous_response_id")), self._conversation())
        remembered = sum(_contexts.get(one) or 0 for one in held if one is not None)
        return Conversation(with_model(self._request, self.model, PREFIXES), RESPONSES, remembered)

    def body(self, output_limit: int | None) -> bytes | None:
        """Return the request's body with this limit, or None where nothing in it changes."""
        request = with_model(self._request, self.model, PREFIXES)
        if output_limit is not None:
            request = {**request, "max_output_tokens": output_limit}
        return None if request == self._request else encoded(request)

    def read(self, body: bytes) -> Reported:
        """Read a whole reply; raise a ValueError where it is none, or is made later."""
        reply = parsed(body)
        if not isinstance(reply, dict) or not isinstance(reply.get("output"), list):
            raise ValueError("no response")  # noqa: TRY004 - what a reply that cannot be read is, here
        self.response_id = text_of(reply.get("id"))
        if self.is_background and not isinstance(reply.get("usage"), dict):
            raise ValueError("no response yet")
        arrived = tokens_in(sum(size_of(_texts(item)) for item in reply["output"]))
        return _reported(reply, max(1, arrived))

    def stream(self) -> ResponsesStream:
        """Return what reads a streamed reply."""
        return ResponsesStream(self)

    def remember(self, reported: Reported) -> None:
        """Remember what the server holds now, for a request that goes on from here."""
        if reported.input_tokens is None or reported.output_tokens is None:
            return
        for held in (self.response_id, self._conversation()):
            if held is not None:
                _contexts.put(held, reported.input_tokens + reported.output_tokens)

    def _conversation(self) -> str | None:
        conversation = self._request.get("conversation")
        return text_of(conversation.get("id") if isinstance(conversation, dict) else conversation)


class ResponsesAttempt(WireAttempt):
    """Be one request to the Responses API on the wire, whose response may be made later.

    Args:
        call: What is sent.
        timeout: The client's own time-out in seconds, or None.
        estimate: How its input is estimated.
    """

    def __init__(self, call: ResponsesCall, timeout: float | None, estimate: Estimate) -> None:
        super().__init__(call, timeout, estimate)
        self._responses = call

    def settle(self, reported: Reported | None) -> None:
        """Settle by what a reply reports, or set it aside until it is retrieved."""
        call = self._responses
        if reported is not None:
            call.remember(reported)
        elif call.is_background and call.response_id is not None:
            self.set_aside()
            _pending.put(call.response_id, self)
            return
        super().settle(reported)


class ResponsesStream:
    """Read a stream of response events; the last of them carries the usage, so nothing is asked for.

    Args:
        call: The request that it answers.
    """

    def __init__(self, call: ResponsesCall) -> None:
        self._call = call
        self._events = EventReader(self._take)
        self._last: dict[str, Any] = {}
        self._said: list[str] = []
        self._size = self._deltas = 0
        self._is_reply = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes off the wire; return those of whole events, all of which are shown."""
        return self._events.feed(data)

    def end(self) -> bytes:
        """Return what is left to be shown: an event without an end."""
        return self._events.end()

    def reported(self) -> Reported | None:
        """Return what the reply has said so far; without usage, what arrived: at least a token a delta.

        Returns:
            What it said; None where nothing of a response has arrived, or where it goes on in the background.
        """
        is_known = isinstance(self._last.get("usage"), dict)
        if not self._is_reply or (self._call.is_background and not is_known):
            return None
        return _reported(self._last, max(1, self._deltas, tokens_in(self._size)))

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._said)

    @property
    def is_complete(self) -> bool:
        """Whether the response has ended, as its status says."""
        return self._last.get("status") in _ENDED

    def _take(self, event: dict[str, Any]) -> bool:
        kind, delta, response = event.get("type"), event.get("delta"), event.get("response")
        if isinstance(kind, str) and kind.startswith("response."):
            self._is_reply = True
        if isinstance(response, dict):
            self._last = response
            self._call.response_id = text_of(response.get("id")) or self._call.response_id
        if isinstance(delta, str):
            self._size += size_of([delta])
            self._deltas += 1
            if kind == "response.output_text.delta":
                self._said.append(delta)
        return True


def settle_pending(body: bytes) -> None:
    """Settle a call whose response was made in the background by what was retrieved of it; others are left alone.

    Args:
        body: A reply that may be a response.
    """
    try:
        reply = parsed(body)
    except ValueError:
        return
    if not isinstance(reply, dict) or not isinstance(reply.get("usage"), dict):
        return
    response_id = text_of(reply.get("id"))
    attempt = None if response_id is None else _pending.pop(response_id)
    if attempt is not None:
        attempt.settle(_reported(reply, 1))


def _texts(item: Any) -> list[Any]:
    """Return everything of an output item that was made of output tokens."""
    if not isinstance(item, dict):
        return []
    parts = [part for key in ("content", "summary") if isinstance(item.get(key), list) for part in item[key]]
    texts = [part.get(key) for part in parts if isinstance(part, dict) for key in ("text", "refusal")]
    return [*texts, item.get("name"), item.get("arguments"), item.get("input")]


def _reported(reply: dict[str, Any], arrived: int) -> Reported:
    usage = reply.get("usage")
    # OpenAI counts what the cache had part in inside the input, and reasoning inside the output, as we do.
    return Reported(
        model=text_of(reply.get("model")),
        input_tokens=count(usage, "input_tokens"),
        output_tokens=count(usage, "output_tokens"),
        cache_read_tokens=count(usage, "input_tokens_details", "cached_tokens") or 0,
        cache_write_tokens=count(usage, "input_tokens_details", "cache_write_tokens") or 0,
        reasoning_tokens=count(usage, "output_tokens_details", "reasoning_tokens") or 0,
        arrived_tokens=arrived,
    )
