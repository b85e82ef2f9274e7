"""Sleeping until a book of accounts has changed."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from stepwarden.core._ledger import Ticket
from stepwarden.core._tree import runs_event_loop
from stepwarden.core._waiting import finish
from stepwarden.core.errors import WouldBlockError

if TYPE_CHECKING:
    from ._book import Book

_FIRST_LOOK_SECONDS = 0.01
_LAST_LOOK_SECONDS = 0.25
_LOOK_AT_RUN_SECONDS = 1.0
"""How long a waiting caller may miss that its run has ended."""


def longest_look(book: Book, looks: int) -> float:
    """Return how long to wait for a book before it is looked at again, in seconds; *looks* is how often it was."""
    if not book.is_shared:
        return _LOOK_AT_RUN_SECONDS
    return min(_LAST_LOOK_SECONDS, _FIRST_LOOK_SECONDS * (1 << min(looks, 10)))


class NextChange(Ticket):
    """Wait until a book has changed since a hold was refused, and no longer than *seconds*."""

    __slots__ = ("_book", "_seconds", "_seen")

    def __init__(self, book: Book, seen: int, seconds: float) -> None:
        self._book = book
        self._seen = seen
        self._seconds = seconds

    def wait(self) -> None:
        """Block this thread.

        Raises:
            WouldBlockError: If it runs an event loop.
        """
        if runs_event_loop():
            raise WouldBlockError(
                "acquire() would wait for an account on a thread that runs an event loop, and freeze it; "
                "use `await reserve(...)` or `async with reserve(...)`, or wait=False"
            )
        gate = threading.Event()
        if self._book.call_when_changed(self, gate.set, self._seen):
            try:
                gate.wait(self._seconds)
            finally:
                self._book.call_no_more(self)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait without blocking the event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(finish, woken)
            except RuntimeError:  # the loop was closed while this one waited: nobody is there to hear it
                self._book.call_no_more(self)

        if self._book.call_when_changed(self, wake, self._seen):
            timer = loop.call_later(self._seconds, finish, woken)
            try:
                yield from woken
            finally:
                timer.cancel()
                self._book.call_no_more(self)
