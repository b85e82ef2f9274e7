"""The OpenAI SDK: every attempt that a client makes is reserved before it is sent.

`_send_request` is where the SDK sends one attempt, its own retries included; it is private, so a test for each
supported range of versions guards it. A guarded client has one of its own; `install` changes the one of the class.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from stepwarden.core.errors import DefinitionError, PolicyViolationError

from ._chat import ChatCall, CompletionCall
from ._embeddings import EmbeddingsCall
from ._patch import Patch
from ._responses import ResponsesAttempt, ResponsesCall, settle_pending
from ._send import guarded, guarded_async, timeout_of
from ._wire import WireAttempt

C = TypeVar("C")

_CALLS: dict[str, Callable[[dict[str, Any]], ChatCall | EmbeddingsCall]] = {
    "/chat/completions": ChatCall,
    "/completions": CompletionCall,
    "/embeddings": EmbeddingsCall,
}
# What may cost money and is not guarded must not go by unseen through a client that is called guarded, so only what
# is known to cost nothing goes by.
_FREE = re.compile(
    r"/(files|moderations|uploads(/[^/]+/(parts|complete))?|responses/input_tokens|chat/completions/[^/]+"
    r"|conversations(/[^/]+(/items)?)?)$|/cancel$"
)
_RESPONSE = re.compile(r"/responses/[^/]+(/cancel)?$")
ALLOWABLE = frozenset({
    "agents", "assistants", "audio", "batches", "chatkit", "containers", "content_provenance_checks", "decisions",
    "evals", "fine_tuning", "images", "live", "organization", "projects", "realtime", "responses/compact", "safety",
    "skills", "threads", "vaults", "vector_stores", "videos", "webhook_endpoints",
})  # fmt: skip
"""The endpoints that are not covered, by the first words of their paths."""


class OpenAIRules:
    """Tell what OpenAI's requests are.

    Args:
        allow: Endpoints that are not covered and go by all the same, unreserved and uncounted.
    """

    def __init__(self, allow: frozenset[str] = frozenset()) -> None:
        self.allow = allow
        self.is_active = True

    def attempt(self, request: Any) -> WireAttempt | None:
        """Read a request that costs something; None for one that costs nothing, or goes by all the same.

        Args:
            request: The SDK's request.

        Raises:
            PolicyViolationError: If it costs something and is not covered.
        """
        if request.method != "POST" or not self.is_active:
            return None
        path = request.url.path
        if path.endswith("/responses"):
            return ResponsesAttempt(ResponsesCall(_json(request)), timeout_of(request))
        for end, call in _CALLS.items():
            if path.endswith(end):
                return WireAttempt(call(_json(request)), timeout_of(request))
        if not _FREE.search(path) and not any(f"/{name}/" in f"{path}/" for name in self.allow):
            raise PolicyViolationError(_refusal(path))
        return None

    def answered(self, request: Any, body: bytes) -> None:
        """Look for a response that was made in the background."""
        if _RESPONSE.search(request.url.path):
            settle_pending(body)


def guard_openai(client: C, allow: frozenset[str] = frozenset()) -> C:
    """Return a guarded copy of an OpenAI client; the client given stays as it was.

    Args:
        client: An `openai.OpenAI` or `openai.AsyncOpenAI`, or of a subclass. The copy shares its connections.
        allow: Endpoints that are not covered and go by all the same.
    """
    send = getattr(client, "_send_request", None)
    if send is None:
        raise TypeError("this version of the openai SDK has no _send_request to guard; see the supported versions")
    rules = getattr(send, "rules", None)
    if rules is not None:
        if not allow <= rules.allow:
            raise DefinitionError(
                f"allow={sorted(allow)!r}: this client is guarded already, and a guard is not widened; guard the "
                "client that it was made of"
            )
        return client
    try:
        copied: Any = client.copy()  # type: ignore[attr-defined]
    except TypeError as error:
        kind = type(client).__name__
        raise TypeError(f"guard() guards a copy, and {kind}.copy() failed: {error}; give {kind} a copy()") from error
    rules = OpenAIRules(allow)
    send, copy = copied._send_request, copied.copy  # noqa: SLF001 - see above: there is no public place
    guarded_send = (guarded_async if inspect.iscoroutinefunction(send) else guarded)(send, rules)
    guarded_send.rules = rules  # type: ignore[attr-defined]
    copied._send_request = guarded_send  # noqa: SLF001

    @functools.wraps(copy)
    def guarded_copy(*args: Any, **kwargs: Any) -> Any:
        return guard_openai(copy(*args, **kwargs), allow)

    copied.copy = copied.with_options = guarded_copy
    return copied  # type: ignore[no-any-return]


_patches: list[tuple[Patch, OpenAIRules]] = []


def install(allow: frozenset[str] = frozenset()) -> None:
    """Guard every client of the SDK in this process, those made earlier too; again only replaces *allow*.

    Args:
        allow: Endpoints that are not covered and go by all the same.
    """
    import openai

    for _, rules in _patches:
        rules.allow = allow
    if _patches:
        return
    for owner, guarding in ((openai.OpenAI, guarded), (openai.AsyncOpenAI, guarded_async)):
        rules = OpenAIRules(allow)
        _patches.append((Patch(owner, "_send_request", functools.partial(guarding, rules=rules)), rules))


def uninstall() -> None:
    """Give the SDK back what it had; harmless where nothing is installed."""
    while _patches:
        patch, rules = _patches.pop()
        # Whoever holds on to what was put in finds it without effect.
        rules.is_active = False
        patch.take_back()


def _json(request: Any) -> dict[str, Any]:
    try:
        body = json.loads(request.content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise PolicyViolationError(
            f"POST {request.url.path} costs money, and its body is no JSON object, so nobody knows how much; it was "
            "not sent"
        )
    return body


def _refusal(path: str) -> str:
    named = [name for name in sorted(ALLOWABLE) if f"/{name}/" in f"{path}/"]
    remedy = f"give allow=[{named[0]!r}] to let it by uncounted, " if named else ""
    return (
        f"POST {path} may cost money outside every budget: guarded are chat completions, responses, completions and "
        f"embeddings; {remedy}use an unguarded client inside `with reserve(...)`, or record_usage(...) after it"
    )
