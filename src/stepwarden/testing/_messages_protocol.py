"""The Anthropic messages protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ._protocol import Answer, Part, RejectedRequestError, dump, encode, split
from ._said import Said, content_size, input_tokens_of, limited, reported_or, shares
from ._script import Reply

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_FIRST_SERVER_ERROR = 500
_LEAST_THINKING = 1_024


class MessagesProtocol:
    """Speak Anthropic messages, as far as clients can tell."""

    __slots__ = ()
    is_free = False

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a request that the API would reject.

        Args:
            body: The request's JSON object.

        Raises:
            RejectedRequestError: A field is missing or of a wrong kind.
        """
        _check_content(body)
        limit = body.get("max_tokens")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise RejectedRequestError(f"max_tokens: {limit!r} is not an integer of at least 1", "max_tokens")
        if not isinstance(body.get("stream"), bool | None):
            raise RejectedRequestError(f"stream: {body['stream']!r} is not a boolean", "stream")
        thinking = body.get("thinking")
        if isinstance(thinking, dict) and thinking.get("type") == "enabled":
            budget = thinking.get("budget_tokens")
            if isinstance(budget, bool) or not isinstance(budget, int) or budget < _LEAST_THINKING:
                raise RejectedRequestError(
                    f"thinking.enabled.budget_tokens: {budget!r} is not an integer of at least 1024",
                    "thinking.enabled.budget_tokens",
                )
            if budget >= limit:
                raise RejectedRequestError("`max_tokens` must be greater than `thinking.budget_tokens`", "max_tokens")

    def render(self, body: Mapping[str, Any], reply: Reply, number: int) -> Answer:
        """Say *reply* in answer to *body*.

        Args:
            body: A request that `check` let pass.
            reply: What to say.
            number: The server's number of the request, from which ids are made.

        Returns:
            The answer, streamed if the request asks for that.
        """
        said = limited(reply, body["max_tokens"], number)
        input_tokens, output_tokens = input_tokens_of(reply, _request_size(body)), said.output_tokens
        usage = _usage(reply, input_tokens, said)
        if reply.usage is not None:
            # What is reported is what counts; a report too odd to read leaves the derived counts standing.
            caches = ("cache_read_input_tokens", "cache_creation_input_tokens")
            if isinstance(usage.get("input_tokens"), int):
                input_tokens = reported_or(usage["input_tokens"], input_tokens)
                input_tokens += sum(reported_or(usage.get(cache), 0) for cache in caches)
            output_tokens = reported_or(usage.get("output_tokens"), output_tokens)
        message: dict[str, Any] = {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": reply.model or body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        if body.get("stream"):
            events = self._events(message, said, usage if reply.include_usage else None, output_tokens)
            return Answer(input_tokens, tuple(events), streams=True)
        message["content"] = [whole for _, whole, _ in _blocks(said)]
        message["stop_reason"] = _stop_reason(said)
        if reply.include_usage:
            message["usage"] = usage
        return Answer(input_tokens, (Part(dump(message), output_tokens),), streams=False)

    def error_body(self, status: int, message: str, *, param: str | None = None) -> bytes:
        """Say that a request failed.

        Args:
            status: The HTTP status.
            message: What went wrong.
            param: The field of the request that is to blame; the API names it in the message only.

        Returns:
            The JSON body.
        """
        blamed = f"{param}: " if param and not message.startswith((param, "`")) else ""
        other = "api_error" if status >= _FIRST_SERVER_ERROR else "invalid_request_error"
        return dump(
            {"type": "error", "error": {"type": _ERROR_TYPES.get(status, other), "message": f"{blamed}{message}"}}
        )

    def event(self, data: bytes) -> bytes:
        """Frame *data* as one event of a stream, named after its type where it has one.

        Args:
            data: The event's data; line breaks in it are kept.

        Returns:
            The event's bytes.
        """
        try:
            name = json.loads(data)["type"]
        except (ValueError, TypeError, KeyError):
            name = "message_start"  # the SDK skips an event of a kind that it does not know
        lines = b"".join(b"data: " + line + b"\n" for line in data.split(b"\n"))
        return b"event: " + str(name).encode() + b"\n" + lines + b"\n"

    def _events(
        self, message: Mapping[str, Any], said: Said, usage: Mapping[str, Any] | None, output_tokens: int
    ) -> Iterator[Part]:
        started = {} if usage is None else {"usage": {**usage, "output_tokens": min(1, output_tokens)}}
        yield self._event("message_start", message={**message, **started})
        blocks = list(_blocks(said))
        borne = iter(shares(output_tokens, max(1, sum(len(deltas) for _, _, deltas in blocks))))
        for index, (block, _, deltas) in enumerate(blocks):
            yield self._event("content_block_start", index=index, content_block=block)
            for delta in deltas:
                yield self._event("content_block_delta", next(borne), index=index, delta=delta)
            yield self._event("content_block_stop", index=index)
        spent = {} if usage is None else {"usage": usage}
        end = {"stop_reason": _stop_reason(said), "stop_sequence": None}
        yield self._event("message_delta", next(borne, 0), delta=end, **spent)
        yield self._event("message_stop")

    def _event(self, name: str, output_tokens: int = 0, **fields: Any) -> Part:
        return Part(self.event(dump({"type": name, **fields})), output_tokens)


class CountTokensProtocol(MessagesProtocol):
    """Speak Anthropic's counting of tokens, which costs nothing and says nothing."""

    __slots__ = ()
    is_free = True

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a request that the API would reject."""
        _check_content(body)

    def render(self, body: Mapping[str, Any], reply: Reply, number: int) -> Answer:  # noqa: ARG002 - one protocol
        """Count *body*, or report the reply's number; nothing is served."""
        return Answer(0, (Part(dump({"input_tokens": input_tokens_of(reply, _request_size(body))})),), streams=False)


def _check_content(body: Mapping[str, Any]) -> None:
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise RejectedRequestError(f"model: {model!r} is not the name of a model", "model")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise RejectedRequestError(f"messages: {messages!r} is not a list of at least one message", "messages")


def _request_size(body: Mapping[str, Any]) -> int:
    size = content_size([{"content": body.get("system")}, *body["messages"]])
    return size + sum(len(encode(json.dumps(tool))) for tool in body.get("tools") or ())


def _usage(reply: Reply, input_tokens: int, said: Said) -> Mapping[str, Any]:
    if reply.usage is not None:
        return dict(reply.usage)
    # Anthropic counts what the cache had part in beside the input, not inside it.
    usage: dict[str, Any] = {
        "input_tokens": input_tokens - reply.cached_tokens - reply.cache_write_tokens,
        "cache_creation_input_tokens": reply.cache_write_tokens,
        "cache_read_input_tokens": reply.cached_tokens,
        "output_tokens": said.output_tokens,
    }
    if said.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": said.reasoning_tokens}
    return usage


def _stop_reason(said: Said) -> str:
    return _STOP_REASONS.get(said.finish_reason, said.finish_reason)


def _blocks(said: Said) -> Iterator[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
    """Yield the blocks of a message: each as its stream begins, whole, and as what the stream adds by and by."""
    if said.text or not said.calls:
        deltas = [{"type": "text_delta", "text": piece} for piece in split(said.text)]
        yield {"type": "text", "text": ""}, {"type": "text", "text": said.text}, deltas
    for call in said.calls:
        empty = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in split(call.arguments)]
        yield empty, {**empty, "input": _arguments(call.arguments)}, deltas


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}  # cut off, or scripted as no JSON; the API never sends half an object
