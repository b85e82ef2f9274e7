"""What a failed call means, for every SDK alike: it was certainly not served, or nobody knows what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from stepwarden.core.errors import (
    BudgetExceededError,
    ForkedRunError,
    PolicyViolationError,
    ReserveTimeoutError,
    RunClosedError,
    UnpricedModelError,
    WouldBlockError,
)

_REFUSALS = (
    ForkedRunError,
    PolicyViolationError,
    ReserveTimeoutError,
    RunClosedError,
    UnpricedModelError,
    WouldBlockError,
)
_NOT_CONNECTED = frozenset({
    "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol",  # httpx and httpx2
    "ClientConnectorError", "ConnectionTimeoutError",  # aiohttp
    "ConnectTimeoutError", "NameResolutionError", "NewConnectionError",  # urllib3, under requests and botocore
    "ConnectionRefusedError", "EndpointConnectionError", "gaierror",  # the system's, and botocore's
})  # fmt: skip
FIRST_ERROR = 400
"""The first HTTP status that is no success."""
_FIRST_SERVER_ERROR = 500
_LAST_STATUS = 599
_OVERLOADED = frozenset({503, 529})


def is_failure(status: int) -> bool:
    """Tell whether an HTTP status is no success."""
    return status >= FIRST_ERROR


def status_costs_nothing(status: int) -> bool:
    """Tell whether a request that failed with this HTTP status was certainly not served.

    Args:
        status: A status that is no success.

    Returns:
        True for every 4xx (429 too), 503 and 529; False where it may have been served.
    """
    return status < _FIRST_SERVER_ERROR or status in _OVERLOADED


def costs_nothing(error: BaseException) -> bool:
    """Tell whether a call that ended with *error* was certainly not served.

    It was not where no connection was made, where the server refused it, and where one of us did. An SDK's error
    that stands for another (its ``__cause__``) is looked into, and so is a group, all of whose errors must say so.

    Args:
        error: What the SDK raised.

    Returns:
        False where the call may have been served: a time-out or cancellation after sending, a reset, other 5xx.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(costs_nothing(one) for one in error.exceptions)
    for one in _causes(error):
        if isinstance(one, _REFUSALS) or (isinstance(one, BudgetExceededError) and one.phase == "reserve"):
            return True
        status = status_of(one)
        if status is not None:
            return status_costs_nothing(status)
        if any(kind.__name__ in _NOT_CONNECTED for kind in type(one).__mro__):
            return True
    return False


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an SDK's error carries, or None.

    Args:
        error: An error of any SDK: the status is looked for where SDKs put it, on the error and on its response.
    """
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata")
        found = response.get("HTTPStatusCode") if isinstance(response, dict) else None
        return found if _is_status(found) else None
    for holder in (error, response):
        for name in ("status_code", "status", "http_status", "code"):
            found = getattr(holder, name, None)
            if _is_status(found):
                return found
    return None


def _is_status(found: object) -> TypeGuard[int]:
    return isinstance(found, int) and FIRST_ERROR <= found <= _LAST_STATUS


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
