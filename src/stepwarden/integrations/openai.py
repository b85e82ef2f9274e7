"""The OpenAI SDK: every attempt that a guarded client makes is reserved before it is sent.

`_send_request` is where the SDK sends one attempt, its own retries included; it is private, so a test for each
supported range of versions guards it.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from stepwarden.core.errors import PolicyViolationError

from ._chat import ChatCall
from ._streams import Watch
from ._wire import WireAttempt

C = TypeVar("C")

# What may cost money and is not guarded must not go by unseen through a client that is called guarded, so only what
# is known to cost nothing goes by.
_FREE = re.compile(r"/(files|moderations|uploads(/[^/]+/(parts|complete))?|responses/input_tokens)$|/cancel$")
_TIMEOUTS = ("connect", "read", "write", "pool")


def guard_openai(client: C) -> C:
    """Return a guarded copy of an OpenAI client; the client given stays as it was.

    Args:
        client: An `openai.OpenAI` or `openai.AsyncOpenAI`, or of a subclass. The copy shares its connections.
    """
    send = getattr(client, "_send_request", None)
    if send is None:
        raise TypeError("this version of the openai SDK has no _send_request to guard; see the supported versions")
    if hasattr(send, "guards"):
        return client
    try:
        copied: Any = client.copy()  # type: ignore[attr-defined]
    except TypeError as error:
        kind = type(client).__name__
        raise TypeError(f"guard() guards a copy, and {kind}.copy() failed: {error}; give {kind} a copy()") from error
    send, copy = copied._send_request, copied.copy  # noqa: SLF001 - see above: there is no public place
    copied._send_request = (  # noqa: SLF001
        _guarded_async(send) if inspect.iscoroutinefunction(send) else _guarded(send)
    )

    @functools.wraps(copy)
    def guarded_copy(*args: Any, **kwargs: Any) -> Any:
        return guard_openai(copy(*args, **kwargs))

    copied.copy = copied.with_options = guarded_copy
    return copied  # type: ignore[no-any-return]


def _guarded(send: Callable[..., Any]) -> Callable[..., Any]:
    def guarded_send(request: Any, *, stream: bool, **kwargs: Any) -> Any:
        attempt = _attempt(request)
        if attempt is None:
            return send(request, stream=stream, **kwargs)
        attempt.acquire()
        try:
            response = send(_granted(request, attempt), stream=stream, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        if not attempt.refused_with(response.status_code):
            if stream:
                _watch(response, attempt)
            else:
                attempt.answered(response.content)
        return response

    guarded_send.guards = send  # type: ignore[attr-defined]
    return guarded_send


def _guarded_async(send: Callable[..., Any]) -> Callable[..., Any]:
    async def guarded_send(request: Any, *, stream: bool, **kwargs: Any) -> Any:
        attempt = _attempt(request)
        if attempt is None:
            return await send(request, stream=stream, **kwargs)
        await attempt.acquire_async()
        try:
            response = await send(_granted(request, attempt), stream=stream, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        if not attempt.refused_with(response.status_code):
            if stream:
                _watch_async(response, attempt)
            else:
                attempt.answered(response.content)
        return response

    guarded_send.guards = send  # type: ignore[attr-defined]
    return guarded_send


def _attempt(request: Any) -> WireAttempt | None:
    """Read a request that costs something; None where it costs nothing.

    Raises:
        PolicyViolationError: If it costs something and is not guarded.
    """
    path = request.url.path
    if request.method != "POST" or not path.endswith("/chat/completions"):
        if request.method == "POST" and not _FREE.search(path):
            raise PolicyViolationError(
                f"POST {path} may cost money outside every budget: guard() covers chat completions only; use the "
                "unguarded client inside `with reserve(...)`, or record_usage(...) after it"
            )
        return None
    body = json.loads(request.content)
    timeout = request.extensions.get("timeout") or {}
    return WireAttempt(ChatCall(body), timeout.get("read"))


def _granted(request: Any, attempt: WireAttempt) -> Any:
    """Make the request anew with what was granted, and at most the time that is left."""
    body = attempt.body()
    left = attempt.time_left()
    if body is None and left is None:
        return request
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"content-length"]
    extensions = dict(request.extensions)
    if left is not None:
        given = {name: value for name, value in (extensions.get("timeout") or {}).items() if value is not None}
        extensions["timeout"] = {name: min(left, given.get(name, left)) for name in _TIMEOUTS}
    content = request.content if body is None else body
    return type(request)(request.method, request.url, headers=headers, content=content, extensions=extensions)


def _watch(response: Any, attempt: WireAttempt) -> None:
    watch, read, close = _watch_of(response, attempt), response.iter_bytes, response.close

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        return watch.pieces(read(chunk_size))

    def close_settled() -> None:
        try:
            close()
        finally:
            watch.closed()

    response.iter_bytes = iter_bytes
    response.close = close_settled


def _watch_async(response: Any, attempt: WireAttempt) -> None:
    watch, read, close = _watch_of(response, attempt), response.aiter_bytes, response.aclose

    def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        return watch.pieces_async(read(chunk_size))

    async def aclose_settled() -> None:
        try:
            await close()
        finally:
            watch.closed()

    response.aiter_bytes = aiter_bytes
    response.aclose = aclose_settled


def _watch_of(response: Any, attempt: WireAttempt) -> Watch[bytes]:
    # The SDK reads events whatever the content is called; only a whole reply to who wanted a stream is none.
    is_whole = response.headers.get("content-type", "").startswith("application/json")
    return Watch(attempt, attempt.reader(is_whole=is_whole))
