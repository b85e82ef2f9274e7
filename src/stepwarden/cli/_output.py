"""What a persona gives out, whichever kind of function it is."""

import asyncio
import inspect
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from typing import Any

from ._arguments import Arguments


class Output:
    """Keep what a call returns, and the items of a generator unless somebody shows them as they come.

    Args:
        show: Called with each item of a generator; None to keep them.

    Attributes:
        value: What was returned, the list of items kept so far, or None.
    """

    def __init__(self, show: Callable[[object], None] | None) -> None:
        self.value: object = None
        self._show = show

    def take_from(self, function: Callable[..., Any], arguments: Arguments) -> None:
        """Call a function, coroutine function, generator function or async generator function to its end.

        Whatever it raises, comes out.
        """
        result = function(*arguments.positional, **arguments.by_name)
        if inspect.iscoroutine(result):
            self.value = asyncio.run(result)
        elif inspect.isgenerator(result):
            give = self._begin()
            # Closed here and not by the garbage collector, so that its receipt is there when the run ends.
            with closing(result):
                for item in result:
                    give(item)
        elif inspect.isasyncgen(result):
            asyncio.run(_consume(result, self._begin()))
        else:
            self.value = result

    def _begin(self) -> Callable[[object], None]:
        if self._show is not None:
            return self._show
        kept: list[object] = []
        self.value = kept
        return kept.append


async def _consume(items: AsyncGenerator[Any, Any], give: Callable[[object], None]) -> None:
    async with aclosing(items):
        async for item in items:
            give(item)


def say(text: str) -> None:
    """Print *text* on stdout at once, with escapes for what its encoding does not have."""
    print(escaped(text, sys.stdout.encoding or "utf-8"), flush=True)


def escaped(text: str, encoding: str) -> str:
    """Return *text* with escapes for what an encoding does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)
