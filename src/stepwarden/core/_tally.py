"""The counters beside a scope's own: what most activations never have, and what is set apart from the spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

from ._budget import Usage
from ._money import dollars
from ._receipt import Receipt, ReceiptError, ToolRecord

KEPT_RECORDS = 1_000
MOST_RECORDS = 2 * KEPT_RECORDS  # many at once, since that moves all that stay
T = TypeVar("T")
CallEntry = tuple[str | None, int, int, int, str, bool]


@dataclass(slots=True, eq=False)
class Extra:
    """Count what most calls do not have, so that the hot path does not carry it.

    What is uncertain is set aside and not spent; it stands here since it comes and goes with a charge.
    """

    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    unpriced: int = 0
    estimated: int = 0
    uncertain_output: int = 0
    uncertain_cost: int = 0

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


NO_USAGE = Usage()
_NO_TALLY = Tally()
NO_EXTRA = Extra()


class Detail:
    """Hold what only some scopes ever have; made when it is first needed.

    A run keeps thousands of these, and most need little. So it has no slots: what was never set is the class's, and
    the same for all.
    """

    own = total = NO_EXTRA
    late = _NO_TALLY
    tools: Sequence[ToolRecord] = ()
    warnings: tuple[str, ...] = ()
    clamped = handed_over = 0
    deadline: AbstractAsyncContextManager[object] | None = None
    partial: str | None = None
    reschedule: Callable[[], None] | None = None
    error: ReceiptError | None = None
    missed = (0, 0, 0)
    fired: set[object] | None = None
    frozen: Receipt | None = None

    def __init__(self) -> None:
        self.calls: list[CallEntry] = []

    def made(self, name: str, make: Callable[[], T]) -> T:
        """Return one of these that is the scope's own and may be added to, making it where it is missing."""
        mine = vars(self)
        found = mine.get(name)
        # A finaliser or another thread may have made one meanwhile, and counted in it; the first one counts.
        return mine.setdefault(name, make()) if found is None else found  # type: ignore[no-any-return]

    def miss(self, tokens: int) -> None:
        """Count a call that had so many input tokens more than were estimated."""
        self.missed = (self.missed[0] + 1, self.missed[1] + tokens, max(self.missed[2], tokens))


def keep(records: list[T], record: T) -> None:
    """Keep a record, one of the newest."""
    records.append(record)
    if len(records) > MOST_RECORDS:
        del records[:-KEPT_RECORDS]


NO_DETAIL = Detail()
