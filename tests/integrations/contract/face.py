"""What the contract asks of an integration: one `Face` for each API, with a sync or async client, streamed or not.

A new integration is one more file that makes faces, and one more line in `faces.py`.
"""

import asyncio
import contextlib
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000, "cache_read": 250_000}}
"""One dollar for an input token, two for an output token and a quarter for a cached one, so that sums can be read."""
QUESTION = "Name a river that flows through the mountains."
"""What every face asks; longer than any of the overheads that estimates have."""


@dataclass(frozen=True)
class Face(ABC):
    """Be one way into the scripted model.

    Everything that is sent is one small question, whose input is the same each time.
    """

    name: str
    is_async: bool
    streams: bool
    is_installed: bool = False
    """Whether its clients are guarded by `install`, and not by `guard`."""

    sdk: ClassVar[str | None] = None
    """What `install` calls it; None where it cannot be installed."""
    below: ClassVar[str | None] = None
    """The SDK whose client it asks through; None: its own."""
    prefix: ClassVar[str | None] = None
    """What its provider is called before a model's name; None: as the SDK."""
    errors: ClassVar[tuple[type[BaseException], ...]] = ()
    """What the SDK raises for calls that fail, or replies that it cannot read."""
    min_output = 1
    """The least output limit that the API takes."""
    has_output = True
    """Whether replies have output tokens, which a limit bounds."""
    reads_ahead = False
    """Whether opening a stream reads what it begins with."""
    needs_usage = False
    """Whether it cannot read a stream that reports no usage."""
    names_limit = False
    """Whether the API refuses a request that names no output limit."""
    reserves_attempts = True
    """Whether each attempt of an SDK's own retries is reserved; else only the call as a whole."""
    ends_streams = True
    """Whether it ends a stream at `max_seconds`."""
    is_on_local_model = True
    """Whether the real local model's server speaks the API."""

    def __str__(self):
        return self.name

    @abstractmethod
    def client(
        self, server, *, is_guarded=True, is_guarded_below=False, **options
    ) -> contextlib.AbstractAsyncContextManager[Any]:
        """Open a client of the scripted model that does not retry unless *options* say so.

        Args:
            server: The scripted model, or the address of a server.
            is_guarded: Whether it is guarded.
            is_guarded_below: Whether a framework is given a client of its SDK that is guarded already.
            options: What the SDK's client is made with.
        """

    @abstractmethod
    async def start(self, client: Any, *, model: str | None = "m", output: int | None = 20) -> Any:
        """Send the question; return what comes: a whole reply, or a stream of which nothing was read.

        Args:
            client: The client.
            model: The model; None names none, as far as the SDK has a way to do that.
            output: The output limit; None names none.
        """

    def pieces(self, stream: Any) -> Any:
        """Return an iterator, sync or async, over the events of a stream."""
        return stream

    @abstractmethod
    def text(self, piece: Any) -> str:
        """Return the text that an event of a stream, or a whole reply, carries."""

    @abstractmethod
    def limit_in(self, body: dict[str, Any]) -> int | None:
        """Return the output limit that a request which arrived carries."""

    async def close(self, stream: Any) -> None:
        """Close a stream as the SDK's users do."""
        await done(stream.close())

    async def ask(self, client, **asked):
        """Send the question and read the reply to its end; return its text."""
        reply = await self.start(client, **asked)
        if not self.streams:
            return self.text(reply)
        return "".join([self.text(piece) async for piece in self.iterate(reply)])

    async def iterate(self, stream):
        """Iterate over a stream, sync or async."""
        pieces = self.pieces(stream)
        if hasattr(pieces, "__aiter__"):
            async for piece in pieces:
                yield piece
        else:
            for piece in pieces:
                yield piece


async def done(value):
    """Return a result, awaited where it must be."""
    return await value if inspect.isawaitable(value) else value


def at_once(coroutine):
    """Run a coroutine that never suspends, as those of sync faces, without a loop; return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a sync face has suspended")


def play(scenario):
    """Run a scenario to its end."""
    return asyncio.run(scenario())
