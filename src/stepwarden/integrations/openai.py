"""The OpenAI SDK: every attempt that a client makes is reserved before it is sent.

`_send_request` is where the SDK sends one attempt, its own retries included; it is private, so a test for each
supported range of versions guards it. A guarded client has one of its own; `install` changes the one of the class.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from copy import copy
from typing import Any

from stepwarden.core.errors import PolicyViolationError

from ._chat import ChatCall, CompletionCall
from ._embeddings import EmbeddingsCall
from ._estimate import Estimate
from ._fast_json import parsed
from ._place import Place
from ._responses import ResponsesAttempt, ResponsesCall, settle_pending
from ._send import guarded, guarded_async, timeout_of
from ._wire import WireAttempt

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
        estimate: How input is estimated.
    """

    def __init__(self, allow: frozenset[str] = frozenset(), estimate: Estimate = "likely") -> None:
        self.allow = allow
        self.estimate = estimate
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
        raw = request.url.raw_path
        if raw.endswith(b"/chat/completions") and b"?" not in raw:  # the most common, found without decoding
            return WireAttempt(ChatCall(_json(request)), timeout_of(request), self.estimate)
        path = request.url.path
        if path.endswith("/responses"):
            return ResponsesAttempt(ResponsesCall(_json(request)), timeout_of(request), self.estimate)
        for end, call in _CALLS.items():
            if path.endswith(end):
                return WireAttempt(call(_json(request)), timeout_of(request), self.estimate)
        if not _FREE.search(path) and not any(f"/{name}/" in f"{path}/" for name in self.allow):
            raise PolicyViolationError(_refusal(path))
        return None

    def answered(self, request: Any, body: bytes) -> None:
        """Look for a response that was made in the background."""
        if _RESPONSE.search(request.url.path):
            settle_pending(body)


def _owners() -> tuple[type, ...]:
    import openai

    return openai.OpenAI, openai.AsyncOpenAI


def _guarding(send: Callable[..., Any], rules: OpenAIRules) -> Callable[..., Any]:
    return (guarded_async if inspect.iscoroutinefunction(send) else guarded)(send, rules)


def _without_cycles(process: Callable[..., Any]) -> Callable[..., Any]:
    """Let a stream that is dropped be closed, and so settled, at once.

    The SDK's stream has a generator that refers to it, and both wait for the garbage collector, with the hold.
    """
    if inspect.iscoroutinefunction(process):

        @functools.wraps(process)
        async def processed_async(*args: Any, **kwargs: Any) -> Any:
            made = await process(*args, **kwargs)
            return _uncoupled(made) if kwargs.get("stream") else made

        return processed_async

    @functools.wraps(process)
    def processed(*args: Any, **kwargs: Any) -> Any:
        made = process(*args, **kwargs)
        return _uncoupled(made) if kwargs.get("stream") else made

    return processed


def _uncoupled(stream: Any) -> Any:
    from openai import AsyncStream, Stream

    if isinstance(stream, Stream | AsyncStream) and "_iterator" in vars(stream):
        twin = copy(stream)
        del twin._iterator  # noqa: SLF001 - its generator refers to the stream
        stream._iterator = twin.__stream__()  # noqa: SLF001 - as the SDK sets it
    return stream


_place = Place("openai", "_send_request", _owners, OpenAIRules, _guarding, also=("_process_response", _without_cycles))
guard_openai = _place.guard
install = _place.install
uninstall = _place.uninstall


def _json(request: Any) -> dict[str, Any]:
    try:
        body = parsed(request.content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise PolicyViolationError(
            f"POST {request.url.path} costs money, and its body is no JSON object: the cost is unknown, and it "
            "was not sent"
        )
    return body


def _refusal(path: str) -> str:
    named = [name for name in sorted(ALLOWABLE) if f"/{name}/" in f"{path}/"]
    remedy = f"give allow=[{named[0]!r}] to let it through uncounted, " if named else ""
    return (
        f"POST {path} may cost money outside every budget: guarded are chat completions, responses, completions and "
        f"embeddings; {remedy}use an unguarded client inside `with reserve(...)`, or record_usage(...) after it"
    )
