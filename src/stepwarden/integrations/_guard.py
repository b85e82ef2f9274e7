"""`guard`: one entrance for every SDK, which finds the integration without importing any of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ._allow import parse_allow
from ._estimate import Estimate, parse_estimate

C = TypeVar("C")


def guard(client: C, *, allow: Iterable[str] = (), estimate: Estimate = "likely") -> C:
    """Return a guarded copy of an SDK's client: each request that it sends is reserved first and settled after.

    A request that its budget leaves no room for is refused and never sent. The output limit that was granted is
    written into the request. The reply is given back even when settling it passes a limit; the next is refused.

    Args:
        client: An `openai.OpenAI`, `openai.AsyncOpenAI`, `anthropic.Anthropic` or `anthropic.AsyncAnthropic`, or of a
            subclass; it stays as it was.
        allow: What the guard does not cover and goes by all the same, unreserved and uncounted: the first words of
            endpoints' paths, such as ``"batches"``, ``"images"`` and ``"audio"``.
        estimate: How the input of a request is estimated before it is sent. ``"likely"``: a token for three bytes of
            text, and a little for each message. ``"upper_bound"``: the most that it can be, and a request of which
            nothing says so is refused. Or a function that is given a request's JSON, as a mapping, and returns tokens.

    Returns:
        The guarded copy, of the client's own class. It shares the client's connections. What it would send that
        costs money and is neither covered nor allowed raises a `PolicyViolationError`; a WebSocket that it opens is
        not watched.

    Raises:
        TypeError: If no integration knows the client, or it cannot be copied.
        DefinitionError: If *allow* names what no API has, or would widen what the client is guarded with; or if
            *estimate* is none, or not the one that the client is guarded with.
    """
    how = parse_estimate(estimate)
    sdk = _sdk_of(client)
    if sdk == "openai":
        from . import openai

        return openai.guard_openai(client, parse_allow(allow, openai.ALLOWABLE), how)
    if sdk == "anthropic":
        from . import anthropic

        return anthropic.guard_anthropic(client, parse_allow(allow, anthropic.ALLOWABLE), how)
    raise TypeError(
        "guard() takes an openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic or anthropic.AsyncAnthropic, "
        f"not {type(client).__name__}; reserve what another client sends with guarded_call(...) or reserve(...)"
    )


def is_guardable(client: object) -> bool:
    """Tell whether `guard` takes a client."""
    return _sdk_of(client) is not None


_CLIENTS = {
    "openai": frozenset({"OpenAI", "AsyncOpenAI"}),
    "anthropic": frozenset({"SyncAPIClient", "AsyncAPIClient"}),
}


def _sdk_of(client: object) -> str | None:
    for kind in type(client).__mro__:
        sdk = kind.__module__.partition(".")[0]
        if kind.__name__ in _CLIENTS.get(sdk, ()):
            return sdk
    return None
