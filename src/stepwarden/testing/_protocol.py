"""What every wire protocol of the scripted model has in common: tokens, answers, rejections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ._script import Reply

BYTES_PER_TOKEN = 4


def encode(text: str) -> bytes:
    """Encode *text* as it is counted: UTF-8, with a question mark for what UTF-8 cannot hold.

    Args:
        text: Any string; JSON lets lone surrogates through.

    Returns:
        The bytes to count.
    """
    return text.encode("utf-8", "replace")


def tokens_in(size: int) -> int:
    """Count the tokens of a text.

    Args:
        size: The text's size in bytes of UTF-8.

    Returns:
        One token for 4 bytes, rounded up, and at least 1.
    """
    return max(1, -(-size // BYTES_PER_TOKEN))


def cut(text: str, size: int) -> str:
    """Cut *text* to at most *size* bytes of UTF-8, between two characters.

    Args:
        text: The text.
        size: The most bytes that may remain.

    Returns:
        The longest prefix that fits.
    """
    encoded = encode(text)
    return text if len(encoded) <= size else encoded[:size].decode("utf-8", "ignore")


def split(text: str) -> list[str]:
    """Split *text* into the pieces that a stream sends, one token each.

    Args:
        text: The text.

    Returns:
        Pieces of at most 4 bytes of UTF-8, no character divided; none for an empty text.
    """
    if text.isascii():
        return [text[start : start + BYTES_PER_TOKEN] for start in range(0, len(text), BYTES_PER_TOKEN)]
    pieces: list[str] = []
    room = 0
    for character in text:
        width = len(encode(character))
        if width > room:
            pieces.append("")
            room = BYTES_PER_TOKEN
        pieces[-1] += character
        room -= width
    return pieces


def dump(value: Mapping[str, Any]) -> bytes:
    """Encode *value* as compact ASCII JSON.

    Args:
        value: What to send.

    Returns:
        The JSON text.
    """
    return json.dumps(value, separators=(",", ":")).encode("ascii")


class RejectedRequestError(ValueError):
    """A request that the protocol does not allow.

    Attributes:
        param: The field of the request that is wrong; None where it is the body as a whole.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer: the whole body, or one event of a stream.

    Attributes:
        data: The bytes to send.
        output_tokens: The output tokens that have been generated once it is sent, those of earlier parts not
            included.
    """

    data: bytes
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply as one protocol says it.

    Attributes:
        input_tokens: The input tokens that it reports.
        parts: Exactly one where it does not stream; the last of a stream is the event that ends it.
        streams: It is a stream of server-sent events, not a JSON body.
    """

    input_tokens: int
    parts: tuple[Part, ...]
    streams: bool


class WireProtocol(Protocol):
    """How one API reads requests and says replies; it holds no state."""

    @property
    def is_free(self) -> bool:
        """Whether no model answers, so that a request takes nothing off the script."""

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `RejectedRequestError` for a request that the API would reject."""

    def render(self, body: Mapping[str, Any], reply: Reply, number: int) -> Answer:
        """Say *reply* in answer to *body*, a checked request, the server's request *number*."""

    def error_body(self, status: int, message: str, *, param: str | None = None) -> bytes:
        """Say that a request failed with *status*, and which field of it is to blame."""

    def event(self, data: bytes) -> bytes:
        """Frame *data* as one event of a stream."""
