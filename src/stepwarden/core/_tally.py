"""The counters beside a scope's own: what most activations never have, and what is set apart from the spent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ._budget import Usage
from ._money import dollars
from ._receipt import Receipt, ReceiptError, ToolRecord

_KEPT_RECORDS = 1_000
CallEntry = tuple[str | None, int, int, int, str, bool]


class Extra:
    """Count what most calls do not have, so that the hot path does not carry it.

    What is uncertain is set aside and not spent; it stands here since it comes and goes with a charge.
    """

    __slots__ = (
        "cache_read", "cache_write", "estimated", "reasoning", "uncertain_cost", "uncertain_output", "unpriced",
    )  # fmt: skip

    def __init__(
        self,
        cache_read: int = 0,
        cache_write: int = 0,
        reasoning: int = 0,
        unpriced: int = 0,
        estimated: int = 0,
        uncertain_output: int = 0,
        uncertain_cost: int = 0,
    ) -> None:
        self.cache_read = cache_read
        self.cache_write = cache_write
        self.reasoning = reasoning
        self.unpriced = unpriced
        self.estimated = estimated
        self.uncertain_output = uncertain_output
        self.uncertain_cost = uncertain_cost

    def add(self, other: Extra) -> None:
        """Add *other*, in one go: nothing is called in between."""
        self.cache_read += other.cache_read
        self.cache_write += other.cache_write
        self.reasoning += other.reasoning
        self.unpriced += other.unpriced
        self.estimated += other.estimated
        self.uncertain_output += other.uncertain_output
        self.uncertain_cost += other.uncertain_cost


class Tally:
    """Count what came late."""

    __slots__ = ("calls", "cost", "input", "output", "tools")

    def __init__(self) -> None:
        self.input = self.output = self.cost = self.calls = self.tools = 0

    def add(self, input_tokens: int, output_tokens: int, cost: int, calls: int, tools: int = 0) -> None:
        """Add an amount; negative numbers take away."""
        self.input += input_tokens
        self.output += output_tokens
        self.cost += cost
        self.calls += calls
        self.tools += tools

    @property
    def usage(self) -> Usage:
        """The amount as users see it."""
        if not (self.input or self.output or self.cost or self.calls or self.tools):
            return NO_USAGE
        return Usage(
            input_tokens=self.input,
            output_tokens=self.output,
            cost_usd=dollars(self.cost),
            calls=self.calls,
            tool_calls=self.tools,
        )


def missed_warning(calls: int, tokens: int, most: int) -> tuple[str, ...]:
    """Say on a receipt by how much input estimates were too low; nothing where none was.

    Args:
        calls: How many calls had more input than was estimated.
        tokens: How many tokens more all of them had.
        most: How many more one of them had.
    """
    more = f"input estimate too low for {calls} call{'s' * (calls > 1)}: {tokens} tokens more"
    return (f"{more} in all, at most {most} in one" if calls > 1 else more,) if calls else ()


class Detail:
    """Hold what only some scopes ever have; made when it is first needed."""

    __slots__ = (
        "calls", "clamped", "deadline", "error", "fired", "frozen", "handed_over", "late", "missed", "own",
        "reschedule", "tools", "total", "warnings",
    )  # fmt: skip

    def __init__(self) -> None:
        self.own = Extra()
        self.total = Extra()
        self.late = Tally()
        self.calls: deque[CallEntry] = deque(maxlen=_KEPT_RECORDS)
        self.tools: deque[ToolRecord] = deque(maxlen=_KEPT_RECORDS)
        self.clamped = 0
        self.deadline: AbstractAsyncContextManager[object] | None = None
        self.reschedule: Callable[[], None] | None = None
        self.handed_over = 0
        self.error: ReceiptError | None = None
        self.fired: set[object] | None = None
        self.frozen: Receipt | None = None
        self.warnings: list[str] = []
        self.missed = (0, 0, 0)

    def miss(self, tokens: int) -> None:
        """Count a call that had so many input tokens more than were estimated."""
        self.missed = (self.missed[0] + 1, self.missed[1] + tokens, max(self.missed[2], tokens))


NO_EXTRA = Extra()
NO_DETAIL = Detail()
NO_USAGE = Usage()
