"""The OpenAI responses protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from ._chat_protocol import ChatProtocol
from ._protocol import Answer, Part, RejectedRequestError, dump, encode, split
from ._said import Said, SaidCall, content_size, input_tokens_of, limited, reported_or, shares
from ._script import Reply

_LEAST_OUTPUT = 16
_CUT = "length"


class ResponsesProtocol:
    """Speak OpenAI responses, as far as clients can tell; a background response stays queued."""

    __slots__ = ()
    is_free = False

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a request that the API would reject.

        Args:
            body: The request's JSON object.

        Raises:
            RejectedRequestError: A field is missing or of a wrong kind.
        """
        model, given, limit = body.get("model"), body.get("input"), body.get("max_output_tokens")
        if not isinstance(model, str) or not model:
            raise RejectedRequestError("Missing required parameter: 'model'.", "model")
        if not isinstance(given, str | list) or given == []:
            raise RejectedRequestError(f"input: {given!r} is neither a text nor a list of at least one item", "input")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < _LEAST_OUTPUT):
            raise RejectedRequestError(
                f"max_output_tokens: {limit!r} is below the minimum value of {_LEAST_OUTPUT}", "max_output_tokens"
            )
        for field in ("stream", "background"):
            if not isinstance(body.get(field), bool | None):
                raise RejectedRequestError(f"{field}: {body[field]!r} is not a boolean", field)

    def render(self, body: Mapping[str, Any], reply: Reply, number: int) -> Answer:
        """Say *reply* in answer to *body*.

        Args:
            body: A request that `check` let pass.
            reply: What to say.
            number: The server's number of the request, from which ids are made.

        Returns:
            The answer, streamed if the request asks for that.
        """
        said = limited(reply, body.get("max_output_tokens"), number)
        input_tokens, output_tokens = input_tokens_of(reply, _request_size(body)), said.output_tokens
        usage = _usage(reply, input_tokens, said)
        if reply.usage is not None:
            # What is reported is what counts; a report too odd to read leaves the derived counts standing.
            input_tokens = reported_or(usage.get("input_tokens"), input_tokens)
            output_tokens = reported_or(usage.get("output_tokens"), output_tokens)
        started = _started(body, reply, number)
        if body.get("background") and not body.get("stream"):
            return Answer(input_tokens, (Part(dump({**started, "status": "queued"}), output_tokens),), streams=False)
        ended = _ended(started, said, number, usage if reply.include_usage else None)
        if body.get("stream"):
            return Answer(input_tokens, tuple(self._events(started, ended, said, output_tokens)), streams=True)
        return Answer(input_tokens, (Part(dump(ended), output_tokens),), streams=False)

    def error_body(self, status: int, message: str, *, param: str | None = None) -> bytes:
        """Say that a request failed, as all of OpenAI's protocols do."""
        return ChatProtocol().error_body(status, message, param=param)

    def event(self, data: bytes) -> bytes:
        """Frame *data* as one event of a stream, named after its type where it has one.

        Args:
            data: The event's data; line breaks in it are kept.

        Returns:
            The event's bytes.
        """
        try:
            name = b"event: " + str(json.loads(data)["type"]).encode() + b"\n"
        except (ValueError, TypeError, KeyError):
            name = b""
        return name + b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"

    def _events(
        self, started: Mapping[str, Any], ended: Mapping[str, Any], said: Said, output_tokens: int
    ) -> Iterator[Part]:
        numbers = count()

        def event(name: str, carried: int = 0, /, **fields: Any) -> Part:
            return Part(self.event(dump({"type": name, "sequence_number": next(numbers), **fields})), carried)

        yield event("response.created", response=started)
        yield event("response.in_progress", response=started)
        pieces = [split(_text_of(item)) for item in ended["output"]]
        # The tokens are spread evenly over the events that carry output; a reply without any spends them at its end.
        borne = iter(shares(output_tokens, max(1, sum(map(len, pieces)))))
        for index, item in enumerate(ended["output"]):
            place = {"output_index": index, "item_id": item["id"]}
            empty = {**item, "status": "in_progress"}
            if item["type"] == "message":
                part = item["content"][0]
                in_part = {**place, "content_index": 0}
                yield event("response.output_item.added", output_index=index, item={**empty, "content": []})
                yield event("response.content_part.added", **in_part, part={**part, "text": ""})
                for piece in pieces[index]:
                    yield event("response.output_text.delta", next(borne), **in_part, delta=piece, logprobs=[])
                yield event("response.output_text.done", **in_part, text=part["text"], logprobs=[])
                yield event("response.content_part.done", **in_part, part=part)
            elif item["type"] == "function_call":
                yield event("response.output_item.added", output_index=index, item={**empty, "arguments": ""})
                for piece in pieces[index]:
                    yield event("response.function_call_arguments.delta", next(borne), **place, delta=piece)
                whole = {"name": item["name"], "arguments": item["arguments"]}
                yield event("response.function_call_arguments.done", **place, **whole)
            else:
                yield event("response.output_item.added", output_index=index, item=item)
            yield event("response.output_item.done", output_index=index, item=item)
        end = "response.incomplete" if said.finish_reason == _CUT else "response.completed"
        yield event(end, next(borne, 0), response=ended)


def _request_size(body: Mapping[str, Any]) -> int:
    given = body["input"]
    items = given if isinstance(given, list) else [{"content": given}]
    size = content_size([{"content": body.get("instructions")}, *(item for item in items if isinstance(item, dict))])
    return size + sum(len(encode(json.dumps(tool))) for tool in body.get("tools") or ())


def _usage(reply: Reply, input_tokens: int, said: Said) -> Mapping[str, Any]:
    if reply.usage is not None:
        return dict(reply.usage)
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": reply.cached_tokens,
            "cache_write_tokens": reply.cache_write_tokens,
        },
        "output_tokens": said.output_tokens,
        "output_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
        "total_tokens": input_tokens + said.output_tokens,
    }


def _started(body: Mapping[str, Any], reply: Reply, number: int) -> dict[str, Any]:
    given = (
        "instructions", "max_output_tokens", "previous_response_id", "temperature", "top_p", "user", "service_tier",
    )  # fmt: skip
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": bool(body.get("background")),
        "error": None,
        "incomplete_details": None,
        **{field: body.get(field) for field in given},
        "metadata": body.get("metadata") or {},
        "model": reply.model or body["model"],
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
        "store": body.get("store") is not False,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "truncation": body.get("truncation") or "disabled",
        "usage": None,
    }


def _ended(started: Mapping[str, Any], said: Said, number: int, usage: Mapping[str, Any] | None) -> dict[str, Any]:
    is_cut = said.finish_reason == _CUT
    return {
        **started,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": list(_items(said, number)),
        "usage": usage,
    }


def _items(said: Said, number: int) -> Iterator[dict[str, Any]]:
    if said.reasoning_tokens:
        yield {"type": "reasoning", "id": f"rs_{number}", "summary": []}
    status = "incomplete" if said.finish_reason == _CUT else "completed"
    if said.text or not said.calls:
        part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
        yield {"type": "message", "id": f"msg_{number}", "status": status, "role": "assistant", "content": [part]}
    for index, call in enumerate(said.calls):
        yield _function_call(call, f"fc_{number}_{index}", status)


def _function_call(call: SaidCall, item_id: str, status: str) -> dict[str, Any]:
    named = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return {"type": "function_call", "id": item_id, "status": status, **named}


def _text_of(item: Mapping[str, Any]) -> str:
    if item["type"] == "message":
        return str(item["content"][0]["text"])
    return str(item.get("arguments", ""))
