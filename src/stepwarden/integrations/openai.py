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

from stepwarden.core._hold import Hold
from stepwarden.core.errors import PolicyViolationError

from ._chat import ChatCall
from ._seam import Attempt, WholeReader

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
        hold = attempt.reservation.acquire()
        try:
            response = send(_granted(request, attempt, hold), stream=stream, **kwargs)
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
        hold = await attempt.reservation
        try:
            response = await send(_granted(request, attempt, hold), stream=stream, **kwargs)
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


def _attempt(request: Any) -> Attempt | None:
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
    return Attempt(ChatCall(body), timeout.get("read"))


def _granted(request: Any, attempt: Attempt, hold: Hold) -> Any:
    """Make the request anew with what was granted, and at most the time that is left."""
    body = attempt.body(hold)
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


class _Watch:
    """Settle a reply that is read in pieces when it ends: read out, broken off, closed or left.

    Args:
        attempt: What is settled.
        response: The reply.
    """

    def __init__(self, attempt: Attempt, response: Any) -> None:
        self._attempt = attempt
        # The SDK reads events whatever the content is called; only a whole reply to who wanted a stream is none.
        is_whole = response.headers.get("content-type", "").startswith("application/json")
        is_stream = attempt.call.is_stream and not is_whole
        self.reader = attempt.call.stream() if is_stream else WholeReader(attempt.call)
        # The last read closes the response from inside, before its last piece has been seen here.
        self.is_reading = False

    def settle(self) -> None:
        """Settle by what has arrived; once only."""
        self._attempt.settle(self.reader.reported())


def _watch(response: Any, attempt: Attempt) -> None:
    watch = _Watch(attempt, response)
    read, close = response.iter_bytes, response.close

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        source = read(chunk_size)
        try:
            while True:
                watch.is_reading = True
                data = next(source, None)
                watch.is_reading = False
                shown = watch.reader.end() if data is None else watch.reader.feed(data)
                if shown:
                    yield shown
                if data is None:
                    return
        finally:
            watch.is_reading = False
            watch.settle()

    def close_settled() -> None:
        try:
            close()
        finally:
            if not watch.is_reading:
                watch.settle()

    response.iter_bytes = iter_bytes
    response.close = close_settled


def _watch_async(response: Any, attempt: Attempt) -> None:
    watch = _Watch(attempt, response)
    read, close = response.aiter_bytes, response.aclose

    async def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        source = read(chunk_size)
        try:
            while True:
                watch.is_reading = True
                data = await anext(source, None)
                watch.is_reading = False
                shown = watch.reader.end() if data is None else watch.reader.feed(data)
                if shown:
                    yield shown
                if data is None:
                    return
        finally:
            watch.is_reading = False
            watch.settle()
            await source.aclose()

    async def aclose_settled() -> None:
        try:
            await close()
        finally:
            if not watch.is_reading:
                watch.settle()

    response.aiter_bytes = aiter_bytes
    response.aclose = aclose_settled
