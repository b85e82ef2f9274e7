"""The OpenAI completions protocol, as it was before chat."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from ._chat_protocol import ChatProtocol, chat_usage
from ._protocol import BYTES_PER_TOKEN, Answer, Part, RejectedRequestError, dump, encode, split
from ._said import Said, input_tokens_of, limited, reported_or, shares
from ._script import Reply

_ASSUMED_LIMIT = 16


class CompletionsProtocol(ChatProtocol):
    """Speak OpenAI's legacy completions: every prompt is completed *n* times; of tool calls nothing is said."""

    __slots__ = ()

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a request that the API would reject.

        Args:
            body: The request's JSON object.

        Raises:
            RejectedRequestError: A field is missing or of a wrong kind.
        """
        prompt = body.get("prompt")
        self.check_options(body)
        if not isinstance(prompt, str | list) or prompt == []:
            raise RejectedRequestError(f"prompt: {prompt!r} is neither a text nor a list of at least one", "prompt")
        for field in ("max_tokens", "n", "best_of"):
            value = body.get(field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RejectedRequestError(f"{field}: {value!r} is not an integer of at least 1", field)

    def render(self, body: Mapping[str, Any], reply: Reply, number: int) -> Answer:
        """Say *reply* in answer to *body*.

        Args:
            body: A request that `check` let pass.
            reply: What to say; without a limit in the request, at most 16 tokens of it, as the API has it.
            number: The server's number of the request, from which ids are made.

        Returns:
            The answer, streamed if the request asks for that.
        """
        prompts = _prompts(body["prompt"])
        shown, made = (len(prompts) * (body.get(field) or body.get("n") or 1) for field in ("n", "best_of"))
        said = limited(reply, body.get("max_tokens") or _ASSUMED_LIMIT, number)
        size = sum(len(encode(one)) if isinstance(one, str) else len(one) * BYTES_PER_TOKEN for one in prompts)
        input_tokens = input_tokens_of(reply, size)
        output_tokens = said.output_tokens * made
        usage = chat_usage(reply, input_tokens, output_tokens, said.reasoning_tokens * made)
        if reply.usage is not None:
            input_tokens = reported_or(usage.get("prompt_tokens"), input_tokens)
            output_tokens = reported_or(usage.get("completion_tokens"), output_tokens)
        envelope: dict[str, Any] = {
            "id": f"cmpl-{number}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": reply.model or body["model"],
        }
        if body.get("stream"):
            wants_usage = reply.include_usage and bool((body.get("stream_options") or {}).get("include_usage"))
            parts = tuple(self._texts(envelope, said, shown, output_tokens, usage if wants_usage else None))
            return Answer(input_tokens, parts, streams=True)
        envelope["choices"] = [_choice(said.text, index, said.finish_reason) for index in range(shown)]
        if reply.include_usage:
            envelope["usage"] = usage
        return Answer(input_tokens, (Part(dump(envelope), output_tokens),), streams=False)

    def _texts(
        self,
        envelope: Mapping[str, Any],
        said: Said,
        shown: int,
        output_tokens: int,
        usage: Mapping[str, Any] | None,
    ) -> Iterator[Part]:
        pieces = split(said.text)
        borne = iter(shares(output_tokens, max(1, shown * len(pieces))))
        for index in range(shown):
            for piece in pieces:
                yield self._event(envelope, [_choice(piece, index, None)], next(borne))
            yield self._event(envelope, [_choice("", index, said.finish_reason)], 0 if pieces else next(borne, 0))
        if usage is not None:
            yield self._event({**envelope, "usage": usage}, [])
        yield Part(self.event(b"[DONE]"))


def _prompts(prompt: str | list[Any]) -> list[str | list[int]]:
    """Return the prompts one by one: a text is one, a list of token numbers is one, any other list is several."""
    if isinstance(prompt, str) or all(isinstance(one, int) for one in prompt):
        return [prompt]
    return prompt


def _choice(text: str, index: int, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
