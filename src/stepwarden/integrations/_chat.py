"""OpenAI's chat completions on the wire: how requests are read and rewritten, and what replies report."""

from __future__ import annotations

import json
from typing import Any

from ._estimate import likely_tokens, tokens_in
from ._seam import Reported

_PROVIDER = "openai:"
_NO_LIMIT = 1 << 53
"""No number of tokens; a float from here on is no whole number any more."""


class ChatCall:
    """Be one chat completion request.

    Args:
        request: The request's JSON.
    """

    min_output = 1

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self.is_stream = bool(request.get("stream"))
        options = request.get("stream_options")
        self._shows_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._asks_usage = False

    @property
    def model(self) -> str | None:
        """The model that it names."""
        model = self._request.get("model")
        return model if isinstance(model, str) else None

    @property
    def choices(self) -> int:
        """How many replies it asks for."""
        choices = self._request.get("n")
        return choices if isinstance(choices, int) and choices > 1 else 1

    @property
    def output_limit(self) -> int | None:
        """The most output for each choice, in tokens; None where it names none."""
        given = [self._request.get(name) for name in ("max_completion_tokens", "max_tokens")]
        limits = [int(limit) for limit in given if isinstance(limit, int | float) and 0 <= limit < _NO_LIMIT]
        return min(limits) if limits else None

    def input_tokens(self) -> int:
        """Estimate the input."""
        request = self._request
        return likely_tokens(
            request.get("messages"), request.get("tools"), request.get("functions"), request.get("response_format")
        )

    def body(self, output_limit: int | None) -> bytes | None:
        """Return the request's body with this limit for each choice, or None where nothing in it changes."""
        request = dict(self._request)
        model = self.model
        if model is not None and model.startswith(_PROVIDER):
            request["model"] = model.removeprefix(_PROVIDER)
        if output_limit is not None:
            named = [name for name in ("max_completion_tokens", "max_tokens") if request.get(name) is not None]
            for name in named or ["max_completion_tokens"]:
                request[name] = output_limit
            if self.is_stream and not self._shows_usage:
                self._asks_usage = True
                request["stream_options"] = {**(request.get("stream_options") or {}), "include_usage": True}
        if request == self._request:
            return None
        return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    def read(self, body: bytes) -> Reported:
        """Read a whole reply; raise a ValueError where it is none."""
        reply = json.loads(body)
        if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
            raise ValueError("no chat completion")  # noqa: TRY004 - what a reply that cannot be read is, here
        arrived = sum(_text_tokens(choice, "message") for choice in reply["choices"])
        return _reported(reply, max(1, arrived))

    def stream(self) -> ChatStream:
        """Return what reads a streamed reply."""
        return ChatStream(hides_usage=self._asks_usage)


class ChatStream:
    """Read a stream of chat completion chunks, and hide the one that is there only because the guard asked.

    Args:
        hides_usage: Whether a chunk that only carries usage is hidden.
    """

    def __init__(self, *, hides_usage: bool) -> None:
        self._hides_usage = hides_usage
        self._pending = b""
        self._last: dict[str, Any] = {}
        self._usage: Any = None
        self._said: list[str] = []
        self._text_bytes = 0
        # Most servers send a chunk a token; at least a token was made where any chunk came.
        self._chunks = 0
        self._is_chat = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes off the wire; return those of whole events that the caller is shown."""
        # An event ends with an empty line; every end of line occurs.
        *events, self._pending = _split_events(self._pending + data)
        return b"".join(event for event in events if self._is_shown(event))

    def end(self) -> bytes:
        """Return what is left to be shown: an event without an end."""
        left, self._pending = self._pending, b""
        return left if left and self._is_shown(left) else b""

    def reported(self) -> Reported | None:
        """Return what the reply has said so far; without usage, what arrived: at least a token a chunk of text.

        Returns:
            What it said; None where no chunk of a chat completion has arrived, so that nobody knows what it cost.
        """
        if not self._is_chat:
            return None
        arrived = max(1, self._chunks, tokens_in(self._text_bytes))
        return _reported({**self._last, "usage": self._usage}, arrived)

    @property
    def text(self) -> str:
        """The text received so far; of several choices the first."""
        return "".join(self._said)

    def _is_shown(self, event: bytes) -> bool:
        data = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        if not data.startswith(b"{"):
            return True
        try:
            chunk = json.loads(data)
        except ValueError:
            return True  # the SDK meets it too, and says what is wrong with it
        choices = chunk.get("choices")
        if isinstance(chunk.get("model"), str):
            self._last = {"model": chunk["model"]}
        if isinstance(choices, list):
            self._is_chat = True
            said = sum(_text_bytes(choice, "delta") for choice in choices)
            self._said += [_content(choice) for choice in choices]
            self._text_bytes += said
            self._chunks += said > 0
        if not isinstance(chunk.get("usage"), dict):
            return True
        self._usage = chunk["usage"]
        return bool(choices) or not self._hides_usage


def _split_events(data: bytes) -> list[bytes]:
    events: list[bytes] = []
    start = at = 0
    while True:
        ends = [end for end in (data.find(blank, at) for blank in (b"\n\n", b"\r\n\r\n", b"\r\r")) if end >= 0]
        if not ends:
            return [*events, data[start:]]
        at = min(ends)
        at += 4 if data[at : at + 2] == b"\r\n" else 2
        events.append(data[start:at])
        start = at


def _text_tokens(choice: Any, key: str) -> int:
    return tokens_in(_text_bytes(choice, key))


def _content(choice: Any) -> str:
    delta = choice.get("delta") if isinstance(choice, dict) and not choice.get("index") else None
    content = delta.get("content") if isinstance(delta, dict) else None
    return content if isinstance(content, str) else ""


def _text_bytes(choice: Any, key: str) -> int:
    said = choice.get(key) if isinstance(choice, dict) else None
    if not isinstance(said, dict):
        return 0
    texts = [said.get("content"), said.get("refusal"), said.get("reasoning_content")]
    calls = said.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            texts += [function.get("name"), function.get("arguments")]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if isinstance(text, str))


def _reported(reply: dict[str, Any], arrived: int) -> Reported:
    model = reply.get("model") if isinstance(reply.get("model"), str) else None
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return Reported(model=model, arrived_tokens=arrived)
    # OpenAI counts cache reads inside the input, and reasoning inside the output, as we do.
    return Reported(
        model=model,
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        cache_read_tokens=_count(usage.get("prompt_tokens_details"), "cached_tokens") or 0,
        reasoning_tokens=_count(usage.get("completion_tokens_details"), "reasoning_tokens") or 0,
        arrived_tokens=arrived,
    )


def _count(numbers: Any, key: str) -> int | None:
    value = numbers.get(key) if isinstance(numbers, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
