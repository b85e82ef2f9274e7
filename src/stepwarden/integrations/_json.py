"""What every API's requests and replies in JSON have in common: numbers that may be odd, names, and bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stepwarden.core._leaf import default_model

compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Writes JSON as SDKs do; made once, since making it takes longer than a message does to be written."""
TOO_MANY = 1 << 32
"""No call has so many tokens: who reports them says nothing, and who asks for them names no limit."""


def encoded(request: Mapping[str, Any]) -> bytes:
    """Encode a request's body as SDKs do: compact, and as UTF-8."""
    return compact(request).encode("utf-8", "surrogatepass")


def size_of(texts: list[Any]) -> int:
    """Return the bytes of those of *texts* that are texts."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if isinstance(text, str))


def count(numbers: Any, *keys: str) -> int | None:
    """Return the count that stands under *keys*, each inside the one before; None where that is no count."""
    for key in keys:
        numbers = numbers.get(key) if isinstance(numbers, dict) else None
    return numbers if isinstance(numbers, int) and not isinstance(numbers, bool) and 0 <= numbers < TOO_MANY else None


def least_limit(request: Mapping[str, Any], *names: str) -> int | None:
    """Return the lowest output limit that a request names under any of *names*; None where it names none."""
    given = [request.get(name) for name in names]
    limits = [int(limit) for limit in given if isinstance(limit, int | float) and 0 <= limit < TOO_MANY]
    return min(limits) if limits else None


def times(value: Any) -> int:
    """Read how often something is asked for; at least once."""
    return value if isinstance(value, int) and value > 1 else 1


def text_of(value: Any) -> str | None:
    """Return *value* where it is a text that says something, else None."""
    return value if isinstance(value, str) and value else None


def model_of(request: Mapping[str, Any]) -> str | None:
    """Return the model that a request names, else the default model in force."""
    return text_of(request.get("model")) or default_model()


def with_model(request: dict[str, Any], model: str | None, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Return the request with its model as the provider knows it: without the prefix of its own provider.

    Args:
        request: The request.
        model: The model that `model_of` found for it.
        prefixes: The provider's prefixes, such as ``"openai:"``.
    """
    bare = model
    if model is not None and model.startswith(prefixes):
        bare = model.partition(":")[2]
    return request if bare in {None, request.get("model")} else {**request, "model": bare}
