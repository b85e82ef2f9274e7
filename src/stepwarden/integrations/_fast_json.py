"""JSON by msgspec, where that comes to what the standard library's comes to; what it refuses, the latter decides."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ._json import compact

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def parsed(data: bytes) -> Any:
    """Read JSON.

    Args:
        data: UTF-8, or what else the standard library reads.

    Raises:
        ValueError: If it is none.
    """
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # a number such as NaN, half of a surrogate pair, a mark
        return json.loads(data)


def size_as_json(value: Any) -> int:
    """Return how many bytes a value has as compact JSON in UTF-8.

    Args:
        value: What JSON can express.

    Raises:
        TypeError: If JSON cannot.
    """
    try:
        return len(_encode(value))
    except (TypeError, ValueError, OverflowError):  # half of a surrogate pair, a number of more than 64 bits
        return len(compact(value).encode("utf-8", "surrogatepass"))
