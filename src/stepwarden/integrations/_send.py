"""Guarding the place where an SDK over httpx sends one attempt: reserved before, settled after, whatever comes.

OpenAI's and Anthropic's SDKs are made alike: a method takes an `httpx` request and *stream*, and returns a response.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

from ._failure import is_failure
from ._streams import Watch
from ._wire import WireAttempt

_TIMEOUTS = ("connect", "read", "write", "pool")


class Rules(Protocol):
    """Tell what an API's requests are."""

    def attempt(self, request: Any) -> WireAttempt | None:
        """Read a request that costs something; None for one that costs nothing.

        Args:
            request: The `httpx` request.

        Raises:
            PolicyViolationError: If it costs something and may not be sent.
        """

    def answered(self, request: Any, body: bytes) -> None:
        """Look at the whole reply to a request that costs nothing itself."""


def guarded(send: Callable[..., Any], rules: Rules) -> Callable[..., Any]:
    """Guard a function that sends one request.

    Args:
        send: Takes the request as its last positional argument, and *stream* by its name.
        rules: What the requests are.
    """

    @functools.wraps(send)
    def guarded_send(*args: Any, stream: bool, **kwargs: Any) -> Any:
        *owner, request = args
        attempt = rules.attempt(request)
        if attempt is None:
            response = send(*args, stream=stream, **kwargs)
            if not stream and not is_failure(response.status_code):
                rules.answered(request, response.content)
            return response
        attempt.acquire()
        try:
            response = send(*owner, _granted(request, attempt), stream=stream, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            attempt.tell_if_overdue(error)
            raise
        if not attempt.refused_with(response.status_code):
            if stream:
                watch(response, attempt)
            else:
                attempt.answered(response.content)
        return response

    return guarded_send


def guarded_async(send: Callable[..., Any], rules: Rules) -> Callable[..., Any]:
    """Guard a coroutine function that sends one request; as `guarded`."""

    @functools.wraps(send)
    async def guarded_send(*args: Any, stream: bool, **kwargs: Any) -> Any:
        *owner, request = args
        attempt = rules.attempt(request)
        if attempt is None:
            response = await send(*args, stream=stream, **kwargs)
            if not stream and not is_failure(response.status_code):
                rules.answered(request, response.content)
            return response
        await attempt.acquire_async()
        try:
            response = await send(*owner, _granted(request, attempt), stream=stream, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            attempt.tell_if_overdue(error)
            raise
        if not attempt.refused_with(response.status_code):
            if stream:
                watch_async(response, attempt)
            else:
                attempt.answered(response.content)
        return response

    return guarded_send


def timeout_of(request: Any) -> float | None:
    """Return the seconds that the client waits for a reply, or None."""
    seconds = (request.extensions.get("timeout") or {}).get("read")
    return seconds if isinstance(seconds, int | float) else None


def _granted(request: Any, attempt: WireAttempt) -> Any:
    """Make the request anew with what was granted, and at most the time that is left."""
    body = attempt.call.body(attempt.output_limit)
    left = attempt.time_left()
    if body is None and left is None:
        return request
    extensions = dict(request.extensions)
    if left is not None:
        given = {name: value for name, value in (extensions.get("timeout") or {}).items() if value is not None}
        extensions["timeout"] = {name: min(left, given.get(name, left)) for name in _TIMEOUTS}
    content = request.content if body is None else body
    made = type(request)(request.method, request.url, content=content, extensions=extensions)
    # Given to the new request, they would be read and written one by one.
    made.headers = request.headers.copy()
    made.headers["content-length"] = str(len(content))
    return made


def watch(response: Any, attempt: WireAttempt) -> None:
    """Settle a reply that is read in pieces when its reading ends."""
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


def watch_async(response: Any, attempt: WireAttempt) -> None:
    """Settle a reply like `watch`, read by a coroutine."""
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
    # SDKs read events whatever the content is called; only a whole reply to who wanted a stream is none.
    is_whole = response.headers.get("content-type", "").startswith("application/json")
    return Watch(attempt, attempt.reader(is_whole=is_whole))
