"""The OpenAI embeddings protocol."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from ._chat_protocol import ChatProtocol
from ._protocol import Answer, Part, RejectedRequestError, dump, encode, tokens_in
from ._said import reported_or
from ._script import Reply

_DIMENSIONS = 8


class EmbeddingsProtocol(ChatProtocol):
    """Speak OpenAI embeddings: a vector for each input, always the same for the same input, and no output tokens."""

    __slots__ = ()

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a request that the API would reject.

        Args:
            body: The request's JSON object.

        Raises:
            RejectedRequestError: A field is missing or of a wrong kind.
        """
        model, given, dimensions = body.get("model"), body.get("input"), body.get("dimensions")
        if not isinstance(model, str) or not model:
            raise RejectedRequestError("you must provide a model parameter", "model")
        if not isinstance(given, str | list) or not given:
            raise RejectedRequestError(f"input: {given!r} is neither a text nor a list of at least one", "input")
        if body.get("encoding_format") not in {None, "float", "base64"}:
            raise RejectedRequestError(
                f"encoding_format: {body['encoding_format']!r} is not float or base64", "encoding_format"
            )
        if dimensions is not None and (
            isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1
        ):
            raise RejectedRequestError(f"dimensions: {dimensions!r} is not an integer of at least 1", "dimensions")

    def render(self, body: Mapping[str, Any], reply: Reply, number: int) -> Answer:  # noqa: ARG002 - one protocol
        """Answer *body* with vectors; of *reply* the input tokens, the model and the usage are reported.

        Args:
            body: A request that `check` let pass.
            reply: What to report.
            number: The server's number of the request.

        Returns:
            The answer.
        """
        inputs = _inputs(body["input"])
        input_tokens = reply.input_tokens
        if input_tokens is None:
            input_tokens = sum(len(one) if isinstance(one, list) else tokens_in(len(encode(one))) for one in inputs)
        usage: Mapping[str, Any] = {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
        if reply.usage is not None:
            usage = dict(reply.usage)
            input_tokens = reported_or(usage.get("prompt_tokens"), input_tokens)
        is_packed = body.get("encoding_format") == "base64"
        vectors = [_vector(one, body.get("dimensions") or _DIMENSIONS) for one in inputs]
        answer: dict[str, Any] = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _packed(vector) if is_packed else vector}
                for index, vector in enumerate(vectors)
            ],
            "model": reply.model or body["model"],
        }
        if reply.include_usage:
            answer["usage"] = usage
        return Answer(input_tokens, (Part(dump(answer)),), streams=False)


def _inputs(given: str | list[Any]) -> list[str | list[int]]:
    """Return the inputs one by one: a text is one, a list of token numbers is one, any other list is several."""
    if isinstance(given, str):
        return [given]
    if all(isinstance(one, int) for one in given):
        return [given]
    return [one if isinstance(one, list) else str(one) for one in given]


def _vector(one: str | list[int], dimensions: int) -> list[float]:
    seed = hashlib.sha256(encode(str(one))).digest()
    # Whole quarters survive packing and JSON alike.
    return [(seed[index % len(seed)] - 128) / 4 for index in range(dimensions)]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
