"""Replies that are read in pieces: shown, counted and settled however the reading ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Generic, Protocol, TypeVar

from ._seam import Attempt, Reported

T = TypeVar("T")


class StreamReader(Protocol[T]):
    """Read a reply as its pieces pass: bytes off the wire, or an SDK's own chunks."""

    def feed(self, piece: T) -> T | None:
        """Take a piece; return what the caller is shown of it, or None (or nothing) for a piece that is not shown."""

    def end(self) -> T | None:
        """Return what is left to be shown."""

    def reported(self) -> Reported | None:
        """Return what the reply has said so far; None where that cannot be read."""

    @property
    def text(self) -> str:
        """The text received so far."""

    @property
    def is_complete(self) -> bool:
        """Whether all that was paid for has arrived, so that nothing is gained by ending it."""


class Watch(Generic[T]):
    """Settle a reply that is read in pieces when its reading ends: read out, broken off, failed, closed or left.

    The stream is ended by us only when `max_seconds` of a scope around is over: then what arrived is settled, the
    source is closed, and the error carries the text received.

    Args:
        attempt: What is settled.
        reader: What reads the pieces.
    """

    def __init__(self, attempt: Attempt, reader: StreamReader[T]) -> None:
        attempt.keep()
        self._attempt = attempt
        self._reader = reader
        # The last read may close the source from inside, before its last piece has been seen here.
        self._is_reading = False

    def settle(self) -> None:
        """Settle by what has arrived; once only."""
        self._attempt.settle(self._reader.reported())

    def closed(self) -> None:
        """Settle because the source was closed, unless that is a part of reading it."""
        if not self._is_reading:
            self.settle()

    def pieces(self, source: Iterator[T]) -> Iterator[T]:
        """Pass a stream on, piece by piece.

        Raises:
            BudgetExceededError: If `max_seconds` is over, with the text received as ``partial``.
        """
        try:
            while True:
                self._is_reading = True
                try:
                    piece = next(source, None)
                except Exception as error:  # whatever the SDK raises; only a time-out that is ours is told differently
                    self._tell_if_overdue(error)
                    raise
                self._is_reading = False
                shown = self._reader.end() if piece is None else self._reader.feed(piece)
                if shown:
                    yield shown
                if piece is None:
                    return
                self._end_if_overdue()
        finally:
            self._is_reading = False
            self.settle()
            close = getattr(source, "close", None)
            if close is not None:
                close()

    async def pieces_async(self, source: AsyncIterator[T]) -> AsyncIterator[T]:
        """Pass a stream on like `pieces`; a silent one, too, is ended when `max_seconds` is over."""
        try:
            while True:
                self._is_reading = True
                try:
                    piece = await self._next(source)
                except asyncio.CancelledError:
                    # Where a scope's own timeout cancels, its error carries the text, through whatever is between.
                    self._attempt.broken_off(self._reader.text)
                    raise
                except Exception as error:  # as in `pieces`
                    self._tell_if_overdue(error)
                    raise
                self._is_reading = False
                shown = self._reader.end() if piece is None else self._reader.feed(piece)
                if shown:
                    yield shown
                if piece is None:
                    return
                self._end_if_overdue()
        finally:
            self._is_reading = False
            self.settle()
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    async def _next(self, source: AsyncIterator[T]) -> T | None:
        left = self._attempt.time_left()
        if left is None or self._reader.is_complete or not _runs_asyncio():
            return await anext(source, None)
        async with asyncio.timeout(left):
            return await anext(source, None)

    def _end_if_overdue(self) -> None:
        overdue = self._attempt.overdue()
        if overdue is not None and not self._reader.is_complete:
            overdue.partial = self._reader.text
            # The scope's own timeout may yet cancel the closing of the source.
            self._attempt.broken_off(overdue.partial)
            raise overdue

    def _tell_if_overdue(self, error: Exception) -> None:
        if not self._reader.is_complete:
            self._attempt.tell_if_overdue(error, self._reader.text)


async def continued(first: T | None, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield the first piece of a stream, where there is one, and then the rest, and close that."""
    try:
        if first is not None:
            yield first
            async for piece in rest:
                yield piece
    finally:
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()


def _runs_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # another library's loop runs it
        return False
