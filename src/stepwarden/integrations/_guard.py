"""`guard`: one entrance for every SDK, which finds the integration without importing any of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ._allow import parse_allow
from ._estimate import Estimate, parse_estimate

C = TypeVar("C")


def guard(client: C, *, allow: Iterable[str] = (), estimate: Estimate = "likely") -> C:
    """Return a guarded copy of an SDK's client: each request is reserved before it is sent and settled afterwards.

    A request that does not fit the budget is refused and never sent. The granted output limit is written into the
    request. The reply is returned even when settling it passes a limit; the next request is refused.

    Args:
        client: An `openai.OpenAI`, `openai.AsyncOpenAI`, `anthropic.Anthropic` or `anthropic.AsyncAnthropic`, or of a
            subclass; it stays as it was.
        allow: Endpoints that the guard does not cover but lets through, unreserved and uncounted: the first words of
            their paths, such as ``"batches"``, ``"images"`` and ``"audio"``.
        estimate: How the input of a request is estimated before it is sent. ``"likely"``: a token for three bytes of
            text, and a little for each message. ``"upper_bound"``: the most that it can be; a request that cannot be
            bounded is refused. Or a function that is given a request's JSON, as a mapping, and returns tokens.

    Returns:
        The guarded copy, of the client's own class. It shares the client's connections. A request that costs money
        and is neither covered nor allowed raises a `PolicyViolationError`; WebSockets that it opens are not watched.

    Raises:
        TypeError: If no integration knows the client, or it cannot be copied.
        DefinitionError: If *allow* names an unknown endpoint, or would widen an existing guard; or if *estimate* is
            invalid, or differs from that of an existing guard.
    """
    how = parse_estimate(estimate)
    sdk = _sdk_of(type(client))
    if sdk == "openai":
        from . import openai

        return openai.guard_openai(client, parse_allow(allow, openai.ALLOWABLE), how)
    if sdk == "anthropic":
        from . import anthropic

        return anthropic.guard_anthropic(client, parse_allow(allow, anthropic.ALLOWABLE), how)
    if isinstance(client, type) and _sdk_of(client) is not None:
        name = client.__name__
        raise TypeError(f"guard() takes a client, not the class {name}; make one first: guard({name}())")
    raise TypeError(
        "guard() takes an openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic or anthropic.AsyncAnthropic, "
        f"not {type(client).__name__}; reserve what another client sends with guarded_call(...) or reserve(...)"
    )


def is_guardable(client: object) -> bool:
    """Tell whether `guard` takes a client."""
    return _sdk_of(type(client)) is not None


_CLIENTS = {
    "openai": frozenset({"OpenAI", "AsyncOpenAI"}),
    "anthropic": frozenset({"SyncAPIClient", "AsyncAPIClient"}),
}


def _sdk_of(client_class: type) -> str | None:
    for kind in client_class.__mro__:
        sdk = kind.__module__.partition(".")[0]
        if kind.__name__ in _CLIENTS.get(sdk, ()):
            return sdk
    return None
