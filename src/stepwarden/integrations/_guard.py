"""`guard`: one entrance for every SDK, which finds the integration without importing any of them."""

from __future__ import annotations

from typing import TypeVar

C = TypeVar("C")


def guard(client: C) -> C:
    """Return a guarded copy of an SDK's client: each request that it sends is reserved first and settled after.

    A request that its budget leaves no room for is refused and never sent. The output limit that was granted is
    written into the request. The reply is given back even when settling it passes a limit; the next is refused.

    Args:
        client: An `openai.OpenAI` or `openai.AsyncOpenAI`, or of a subclass; it stays as it was.

    Returns:
        The guarded copy, of the client's own class. It shares the client's connections. What it would send that
        costs money and is not covered raises a `PolicyViolationError`; a WebSocket that it opens is not watched.

    Raises:
        TypeError: If no integration knows the client, or it cannot be copied.
    """
    for kind in type(client).__mro__:
        if kind.__module__.partition(".")[0] == "openai" and kind.__name__ in {"OpenAI", "AsyncOpenAI"}:
            from .openai import guard_openai

            return guard_openai(client)
    raise TypeError(f"guard() takes an openai.OpenAI or openai.AsyncOpenAI, not {type(client).__name__}")
