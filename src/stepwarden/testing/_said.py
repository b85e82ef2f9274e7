"""What a reply says once a request's limit has been applied: the same for every protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ._protocol import BYTES_PER_TOKEN, cut, encode, tokens_in
from ._script import Reply


@dataclass(frozen=True, slots=True)
class SaidCall:
    """A tool call as far as it is said."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Said:
    """What every choice says once the request's limit has been applied.

    Attributes:
        text: The text.
        calls: The tool calls after it.
        finish_reason: OpenAI's word for why it ended, or the reply's own.
        output_tokens: The output of one choice, reasoning included.
        reasoning_tokens: The part of it that is reasoning.
    """

    text: str
    calls: tuple[SaidCall, ...]
    finish_reason: str
    output_tokens: int
    reasoning_tokens: int


def limited(reply: Reply, limit: int | None, number: int) -> Said:
    """Apply a request's output limit to a reply.

    Args:
        reply: What the script says.
        limit: The limit in tokens, or None.
        number: The server's number of the request, from which the calls' ids are made.
    """
    calls = tuple(
        SaidCall(call.id or f"call_{number}_{index}", call.name, call.arguments_text)
        for index, call in enumerate(reply.tool_calls)
    )
    size = len(encode(reply.text)) + sum(len(encode(call.name + call.arguments)) for call in calls)
    output_tokens = reply.output_tokens
    if output_tokens is None:
        # Reasoning alone is output enough; only a reply of nothing at all is rounded up to one token.
        output_tokens = reply.reasoning_tokens + (tokens_in(size) if size or not reply.reasoning_tokens else 0)
    if limit is None:
        return Said(reply.text, calls, _finish_reason(reply), output_tokens, reply.reasoning_tokens)

    reasoning_tokens = min(reply.reasoning_tokens, limit)
    room = (limit - reasoning_tokens) * BYTES_PER_TOKEN
    text = cut(reply.text, room)
    kept: list[SaidCall] = []
    left = room - len(encode(reply.text))
    for call in calls:
        left -= len(encode(call.name))
        if left < 0:
            break
        kept.append(SaidCall(call.id, call.name, cut(call.arguments, left)))
        left -= len(encode(call.arguments))
    is_cut = output_tokens > limit or size > room
    finish_reason = "length" if is_cut else _finish_reason(reply)
    return Said(text, tuple(kept), finish_reason, min(output_tokens, limit), reasoning_tokens)


def _finish_reason(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def content_size(messages: Iterable[Mapping[str, Any]]) -> int:
    """Return the bytes of text in *messages*: their contents, and of contents in parts the texts."""
    size = 0
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        size += sum(len(encode(text)) for text in texts if isinstance(text, str))
    return size


def input_tokens_of(reply: Reply, size: int) -> int:
    """Return the input that a reply reports: its own number, else as counted, and at least what the cache had part in.

    Args:
        reply: What the script says.
        size: The bytes of text in the request.
    """
    if reply.input_tokens is not None:
        return reply.input_tokens
    return max(tokens_in(size), reply.cached_tokens + reply.cache_write_tokens)


def reported_or(reported: object, derived: int) -> int:
    """Return a reported count, or the derived one where the report is too odd to read."""
    if isinstance(reported, int) and not isinstance(reported, bool) and reported >= 0:
        return reported
    return derived


def shares(total: int, parts: int) -> list[int]:
    """Spread a number of tokens evenly over the events that carry them.

    Args:
        total: Tokens.
        parts: How many events; at least 1.
    """
    return [total * (part + 1) // parts - total * part // parts for part in range(parts)]
