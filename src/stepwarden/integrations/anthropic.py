"""The Anthropic SDK: every attempt that a client makes is reserved before it is sent.

`_attempt_request` is where the SDK prepares and sends one attempt, inside its own retries and its middleware, and
before Bedrock's and Vertex' clients rewrite and sign it; it is private, so a test for each supported range of versions
guards it. A guarded client has one of its own; `install` changes that of the SDK's base classes.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from stepwarden.core.errors import PolicyViolationError

from ._estimate import Estimate
from ._messages import MessagesCall
from ._place import Place
from ._send import watch, watch_async
from ._wire import WireAttempt

_MESSAGES = re.compile(r"^/v1/messages(\?.*)?$")
_FREE = re.compile(r"^/v1/(messages/count_tokens|files)(\?.*)?$|/cancel(\?.*)?$")
ALLOWABLE = frozenset({
    "agents", "batches", "complete", "deployments", "environments", "memory_stores", "messages/batches",
    "organizations", "sessions", "skills", "tunnels", "user_profiles", "vaults",
})  # fmt: skip
"""The endpoints that are not covered, by the first words of their paths; batches also by the name of OpenAI's."""
_PATHS = {"batches": "messages/batches"}
_TIMEOUTS = ("connect", "read", "write", "pool")


class MessagesAttempt(WireAttempt):
    """Be one messages request.

    Args:
        messages: What is sent.
        timeout: The client's own time-out in seconds, or None.
        estimate: How its input is estimated.
    """

    def __init__(self, messages: MessagesCall, timeout: float | None, estimate: Estimate) -> None:
        super().__init__(messages, timeout, estimate)
        self.messages = messages


class AnthropicRules:
    """Tell what Anthropic's requests are.

    Args:
        allow: Endpoints that are not covered and go by all the same, unreserved and uncounted.
        estimate: How input is estimated.
    """

    def __init__(self, allow: frozenset[str] = frozenset(), estimate: Estimate = "likely") -> None:
        self.allow = allow
        self.estimate = estimate
        self.is_active = True

    def attempt(self, client: Any, options: Any) -> MessagesAttempt | None:
        """Read a request that costs something; None for one that costs nothing, or goes by all the same.

        Args:
            client: The SDK's client.
            options: The SDK's options of the request.

        Raises:
            PolicyViolationError: If it costs something and is not covered.
        """
        if not self.is_active or options.method.lower() != "post":
            return None
        if _MESSAGES.match(options.url):
            timeout = _timeout(client, options)
            read = getattr(timeout, "read", timeout)
            seconds = read if isinstance(read, int | float) else None
            return MessagesAttempt(MessagesCall(_json(options)), seconds, self.estimate)
        allowed = (f"/v1/{_PATHS.get(name, name)}" for name in self.allow)
        if not _FREE.search(options.url) and not any(path in options.url for path in allowed):
            raise PolicyViolationError(_refusal(options.url))
        return None


def _owners() -> tuple[type, ...]:
    from anthropic._base_client import AsyncAPIClient, SyncAPIClient

    return SyncAPIClient, AsyncAPIClient


def _guarding(send: Callable[..., Any], rules: AnthropicRules) -> Callable[..., Any]:
    """Guard the function that sends one attempt, and gives the response and the options as they were prepared."""

    def client_of(owner: list[Any]) -> Any:
        return owner[0] if owner else send.__self__  # type: ignore[attr-defined]

    @functools.wraps(send)
    def guarded_send(*args: Any, **kwargs: Any) -> Any:
        *owner, options = args
        client = client_of(owner)
        attempt = rules.attempt(client, options)
        if attempt is None:
            return send(*args, **kwargs)
        attempt.acquire()
        try:
            response, prepared = send(*owner, _granted(client, options, attempt), **kwargs)
        except BaseException as error:
            attempt.failed(error)
            attempt.tell_if_overdue(error)
            raise
        if not attempt.refused_with(response.status_code):
            if response.is_closed:
                attempt.answered(response.content)
            else:
                watch(response, attempt)
        return response, prepared

    @functools.wraps(send)
    async def guarded_send_async(*args: Any, **kwargs: Any) -> Any:
        *owner, options = args
        client = client_of(owner)
        attempt = rules.attempt(client, options)
        if attempt is None:
            return await send(*args, **kwargs)
        await attempt.acquire_async()
        try:
            response, prepared = await send(*owner, _granted(client, options, attempt), **kwargs)
        except BaseException as error:
            attempt.failed(error)
            attempt.tell_if_overdue(error)
            raise
        if not attempt.refused_with(response.status_code):
            if response.is_closed:
                attempt.answered(response.content)
            else:
                watch_async(response, attempt)
        return response, prepared

    return guarded_send_async if inspect.iscoroutinefunction(send) else guarded_send


_place = Place("anthropic", "_attempt_request", _owners, AnthropicRules, _guarding)
guard_anthropic = _place.guard
install = _place.install
uninstall = _place.uninstall


def _granted(client: Any, options: Any, attempt: MessagesAttempt) -> Any:
    """Write what was granted, and at most the time that is left, into the options, which are this attempt's own."""
    request = attempt.messages.rewritten(attempt.output_limit)
    if request is not options.json_data:
        options.json_data = request
    if options.extra_json is not None:
        options.extra_json = None  # it is in there
    left = attempt.time_left()
    if left is not None:
        timeout = _timeout(client, options)
        if timeout is None or isinstance(timeout, int | float):
            options.timeout = left if timeout is None else min(left, timeout)
        else:
            given = {name: getattr(timeout, name) for name in _TIMEOUTS}
            options.timeout = type(timeout)(
                **{name: left if seconds is None else min(left, seconds) for name, seconds in given.items()}
            )
    return options


def _timeout(client: Any, options: Any) -> Any:
    # Not given is falsy, and so is 0, which no client could work with.
    return options.timeout or (None if options.timeout is None else client.timeout)


def _json(options: Any) -> dict[str, Any]:
    body, extra = options.json_data, options.extra_json
    if not isinstance(body, dict):
        raise PolicyViolationError(
            f"POST {options.url} costs money, and its body is no JSON object: the cost is unknown, and it was not sent"
        )
    return {**body, **extra} if extra else body


def _refusal(url: str) -> str:
    named = [name for name in sorted(ALLOWABLE) if f"/v1/{name}" in url]
    remedy = f"give allow=[{named[0]!r}] to let it through uncounted, " if named else ""
    return (
        f"POST {url} may cost money outside every budget: guarded are messages; {remedy}use an unguarded client inside "
        "`with reserve(...)`, or record_usage(...) after it"
    )
