"""The OpenAI chat-completions protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from ._protocol import (
    BYTES_PER_TOKEN,
    Answer,
    Part,
    RejectedRequestError,
    cut,
    dump,
    encode,
    split,
    tokens_in,
)
from ._script import Reply

_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class _Call:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class _Choice:
    """What every choice says once the request's limit has been applied; counts are for one choice."""

    text: str
    calls: tuple[_Call, ...]
    finish_reason: str
    output_tokens: int
    reasoning_tokens: int


class ChatProtocol:
    """Speak OpenAI chat completions, as far as clients can tell."""

    __slots__ = ()

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a request that the API would reject.

        Args:
            body: The request's JSON object.

        Raises:
            RejectedRequestError: A field is missing or of a wrong kind.
        """
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise RejectedRequestError("you must provide a model parameter", "model")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise RejectedRequestError(f"messages: {messages!r} is not a list of at least one message", "messages")
        for field in (*_LIMIT_FIELDS, "n"):
            value = body.get(field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RejectedRequestError(f"{field}: {value!r} is not an integer of at least 1", field)
        if not isinstance(body.get("stream"), bool | None):
            raise RejectedRequestError(f"stream: {body['stream']!r} is not a boolean", "stream")
        if not isinstance(body.get("stream_options"), dict | None):
            raise RejectedRequestError(f"stream_options: {body['stream_options']!r} is not an object", "stream_options")

    def render(self, body: Mapping[str, Any], reply: Reply, number: int) -> Answer:
        """Say *reply* in answer to *body*.

        Args:
            body: A request that `check` let pass.
            reply: What to say.
            number: The server's number of the request, from which ids are made.

        Returns:
            The answer, streamed if the request asks for that.
        """
        choices = body.get("n") or 1
        choice = _limited(reply, _limit(body), number)
        input_tokens = reply.input_tokens
        if input_tokens is None:
            input_tokens = max(tokens_in(_content_size(body["messages"])), reply.cached_tokens)
        output_tokens = choice.output_tokens * choices
        usage = _usage(reply, input_tokens, output_tokens, choice.reasoning_tokens * choices)
        if reply.usage is not None:
            # What is reported is what counts; a report too odd to read leaves the derived counts standing.
            input_tokens = _count(usage.get("prompt_tokens"), input_tokens)
            output_tokens = _count(usage.get("completion_tokens"), output_tokens)
        streams = bool(body.get("stream"))
        envelope: dict[str, Any] = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion.chunk" if streams else "chat.completion",
            "created": int(time.time()),
            "model": reply.model or body["model"],
        }
        if streams:
            wants_usage = reply.include_usage and bool((body.get("stream_options") or {}).get("include_usage"))
            parts = tuple(self._events(envelope, choice, choices, output_tokens, usage if wants_usage else None))
        else:
            envelope["choices"] = [_said_whole(choice, index) for index in range(choices)]
            if reply.include_usage:
                envelope["usage"] = usage
            parts = (Part(dump(envelope), output_tokens),)
        return Answer(input_tokens, parts, streams)

    def error_body(self, status: int, message: str, *, param: str | None = None) -> bytes:
        """Say that a request failed.

        Args:
            status: The HTTP status.
            message: What went wrong.
            param: The field of the request that is to blame.

        Returns:
            The JSON body.
        """
        code = None
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            kind, code = "rate_limit_error", "rate_limit_exceeded"
        elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            kind = "server_error"
        else:
            kind = "invalid_request_error"
        return dump({"error": {"message": message, "type": kind, "param": param, "code": code}})

    def event(self, data: bytes) -> bytes:
        """Frame *data* as one event of a stream.

        Args:
            data: The event's data; line breaks in it are kept.

        Returns:
            The event's bytes.
        """
        lines = data.split(b"\n")
        return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"

    def _events(
        self,
        envelope: dict[str, Any],
        choice: _Choice,
        choices: int,
        output_tokens: int,
        usage: Mapping[str, Any] | None,
    ) -> Iterator[Part]:
        if usage is not None:
            envelope = {**envelope, "usage": None}
        deltas = list(_deltas(choice))
        # The tokens are spread evenly over the events that carry output; a reply without any spends them at its end.
        bearing = max(1, choices * len(deltas))
        borne = 0
        for index in range(choices):
            yield self._event(envelope, [_said(index, {"role": "assistant", "content": "", "refusal": None})])
            for delta in deltas:
                share = output_tokens * (borne + 1) // bearing - output_tokens * borne // bearing
                borne += 1
                yield self._event(envelope, [_said(index, delta)], share)
            unspent = output_tokens if not deltas and index == 0 else 0
            yield self._event(envelope, [_said(index, {}, choice.finish_reason)], unspent)
        if usage is not None:
            yield self._event({**envelope, "usage": usage}, [])
        yield Part(self.event(b"[DONE]"))

    def _event(self, envelope: Mapping[str, Any], choices: list[dict[str, Any]], output_tokens: int = 0) -> Part:
        return Part(self.event(dump({**envelope, "choices": choices})), output_tokens)


def _limit(body: Mapping[str, Any]) -> int | None:
    limits = [body[field] for field in _LIMIT_FIELDS if body.get(field) is not None]
    return min(limits, default=None)


def _content_size(messages: list[dict[str, Any]]) -> int:
    """Return the bytes of text in *messages*: their contents, and of contents in parts the texts."""
    size = 0
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        size += sum(len(encode(text)) for text in texts if isinstance(text, str))
    return size


def _limited(reply: Reply, limit: int | None, number: int) -> _Choice:
    """Apply the request's output *limit*, in tokens, to *reply*."""
    calls = tuple(
        _Call(call.id or f"call_{number}_{index}", call.name, call.arguments_text)
        for index, call in enumerate(reply.tool_calls)
    )
    size = len(encode(reply.text)) + sum(len(encode(call.name + call.arguments)) for call in calls)
    output_tokens = reply.output_tokens
    if output_tokens is None:
        # Reasoning alone is output enough; only a reply of nothing at all is rounded up to one token.
        output_tokens = reply.reasoning_tokens + (tokens_in(size) if size or not reply.reasoning_tokens else 0)
    if limit is None:
        return _Choice(reply.text, calls, _finish_reason(reply), output_tokens, reply.reasoning_tokens)

    reasoning_tokens = min(reply.reasoning_tokens, limit)
    room = (limit - reasoning_tokens) * BYTES_PER_TOKEN
    text = cut(reply.text, room)
    kept: list[_Call] = []
    left = room - len(encode(reply.text))
    for call in calls:
        left -= len(encode(call.name))
        if left < 0:
            break
        kept.append(_Call(call.id, call.name, cut(call.arguments, left)))
        left -= len(encode(call.arguments))
    is_cut = output_tokens > limit or size > room
    finish_reason = "length" if is_cut else _finish_reason(reply)
    return _Choice(text, tuple(kept), finish_reason, min(output_tokens, limit), reasoning_tokens)


def _finish_reason(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _usage(reply: Reply, input_tokens: int, output_tokens: int, reasoning_tokens: int) -> Mapping[str, Any]:
    if reply.usage is not None:
        return dict(reply.usage)
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def _count(reported: object, derived: int) -> int:
    if isinstance(reported, int) and not isinstance(reported, bool) and reported >= 0:
        return reported
    return derived


def _said_whole(choice: _Choice, index: int) -> dict[str, Any]:
    content = choice.text if choice.text or not choice.calls else None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def _said(index: int, delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _deltas(choice: _Choice) -> Iterator[dict[str, Any]]:
    """Yield what the stream adds to a choice, a token at a time."""
    for piece in split(choice.text):
        yield {"content": piece}
    for index, call in enumerate(choice.calls):
        function = {"name": call.name, "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]}
        for piece in split(call.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
