"""What really arrived at a scripted model, and what it reported."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ._script import ReceivedRequest


@dataclass(frozen=True, slots=True)
class ServedTokens:
    """The tokens that a server has reported, or has sent out of a stream whose end nobody heard."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class _Page:
    """The books since they were last emptied."""

    requests: list[ReceivedRequest] = field(default_factory=list)
    served: ServedTokens = ServedTokens()
    max_in_flight: int = 0


class Entry:
    """One request in the books: it may be charged at any time, and leaves once."""

    __slots__ = ("_books", "_has_left", "_page", "number", "request")

    def __init__(self, books: Books, page: _Page, request: ReceivedRequest, number: int) -> None:
        self._books = books
        self._page = page
        self._has_left = False
        self.request = request
        self.number = number

    def charge(self, input_tokens: int, output_tokens: int) -> None:
        """Count tokens as served; a request that arrived before the books were emptied counts nowhere.

        Args:
            input_tokens: Input tokens.
            output_tokens: Output tokens.
        """
        with self._books.changed:
            served = self._page.served
            self._page.served = ServedTokens(served.input_tokens + input_tokens, served.output_tokens + output_tokens)

    def leave(self) -> None:
        """Take the request out of those in flight. Leaving again does nothing."""
        with self._books.changed:
            if not self._has_left:
                self._has_left = True
                self._books.in_flight -= 1
                self._books.changed.notify_all()


class Books:
    """Keep count of requests from any thread.

    Attributes:
        changed: Guards everything here, and wakes whoever waits for a count.
        in_flight: Requests that have arrived and not left.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.in_flight = 0
        self._arrived = 0
        self._page = _Page()

    def arrive(self, request: ReceivedRequest) -> Entry:
        """Write down a request.

        Args:
            request: What arrived.

        Returns:
            Its entry; its number is unique for the life of the books.
        """
        with self.changed:
            self._arrived += 1
            self.in_flight += 1
            self._page.requests.append(request)
            self._page.max_in_flight = max(self._page.max_in_flight, self.in_flight)
            self.changed.notify_all()
            return Entry(self, self._page, request, self._arrived)

    def empty(self) -> None:
        """Forget all but the requests that are in flight."""
        with self.changed:
            self._page = _Page(max_in_flight=self.in_flight)

    @property
    def requests(self) -> tuple[ReceivedRequest, ...]:
        """Every request, in the order of arrival."""
        with self.changed:
            return tuple(self._page.requests)

    @property
    def count(self) -> int:
        """How many requests have arrived."""
        with self.changed:
            return len(self._page.requests)

    @property
    def max_in_flight(self) -> int:
        """The most requests that were in flight at one time."""
        with self.changed:
            return self._page.max_in_flight

    @property
    def served(self) -> ServedTokens:
        """All tokens charged."""
        with self.changed:
            return self._page.served

    def wait_for(self, count: int, timeout: float) -> None:
        """Wait until *count* requests have arrived.

        Args:
            count: How many, since the books were last emptied.
            timeout: The most seconds to wait.

        Raises:
            TimeoutError: They did not arrive in time.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: len(self._page.requests) >= count, timeout):
                arrived = len(self._page.requests)
                raise TimeoutError(f"{arrived} of {count} requests arrived within {timeout:g} s")

    def wait_until_idle(self, timeout: float) -> None:
        """Wait until no request is in flight.

        Args:
            timeout: The most seconds to wait.

        Raises:
            TimeoutError: Some request stayed.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self.in_flight == 0, timeout):
                raise TimeoutError(f"{self.in_flight} requests are in flight after {timeout:g} s")
