"""The OpenAI chat-completions protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from ._protocol import Answer, Part, RejectedRequestError, dump, split
from ._said import Said, content_size, input_tokens_of, limited, reported_or, shares
from ._script import Reply

_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")


class ChatProtocol:
    """Speak OpenAI chat completions, as far as clients can tell."""

    __slots__ = ()
    is_free = False

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a request that the API would reject.

        Args:
            body: The request's JSON object.

        Raises:
            RejectedRequestError: A field is missing or of a wrong kind.
        """
        messages = body.get("messages")
        self.check_options(body)
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise RejectedRequestError(f"messages: {messages!r} is not a list of at least one message", "messages")
        for field in (*_LIMIT_FIELDS, "n"):
            value = body.get(field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RejectedRequestError(f"{field}: {value!r} is not an integer of at least 1", field)

    @staticmethod
    def check_options(body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a model or an option that no request of OpenAI's may have.

        Args:
            body: The request's JSON object.
        """
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise RejectedRequestError("you must provide a model parameter", "model")
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
        choice = limited(reply, _limit(body), number)
        input_tokens = input_tokens_of(reply, content_size(body["messages"]))
        output_tokens = choice.output_tokens * choices
        usage = chat_usage(reply, input_tokens, output_tokens, choice.reasoning_tokens * choices)
        if reply.usage is not None:
            # What is reported is what counts; a report too odd to read leaves the derived counts standing.
            input_tokens = reported_or(usage.get("prompt_tokens"), input_tokens)
            output_tokens = reported_or(usage.get("completion_tokens"), output_tokens)
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
        choice: Said,
        choices: int,
        output_tokens: int,
        usage: Mapping[str, Any] | None,
    ) -> Iterator[Part]:
        if usage is not None:
            envelope = {**envelope, "usage": None}
        deltas = list(_deltas(choice))
        # The tokens are spread evenly over the events that carry output; a reply without any spends them at its end.
        borne = iter(shares(output_tokens, max(1, choices * len(deltas))))
        for index in range(choices):
            yield self._event(envelope, [_said(index, {"role": "assistant", "content": "", "refusal": None})])
            for delta in deltas:
                yield self._event(envelope, [_said(index, delta)], next(borne))
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


def chat_usage(reply: Reply, input_tokens: int, output_tokens: int, reasoning_tokens: int) -> Mapping[str, Any]:
    """Return the usage that is reported, in the words of chat completions."""
    if reply.usage is not None:
        return dict(reply.usage)
    written = {"cache_write_tokens": reply.cache_write_tokens} if reply.cache_write_tokens else {}
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens, **written},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def _said_whole(choice: Said, index: int) -> dict[str, Any]:
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


def _deltas(choice: Said) -> Iterator[dict[str, Any]]:
    """Yield what the stream adds to a choice, a token at a time."""
    for piece in split(choice.text):
        yield {"content": piece}
    for index, call in enumerate(choice.calls):
        function = {"name": call.name, "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]}
        for piece in split(call.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
