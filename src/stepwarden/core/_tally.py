"""The counters beside a scope's own: what most activations never have, and what is set apart from the spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

from ._budget import Usage
from ._receipt import Receipt, ReceiptError, ToolRecord

KEPT_RECORDS = 1_000
MOST_RECORDS = 2 * KEPT_RECORDS  # many at once, since that moves all that stay
T = TypeVar("T")
CallEntry = tuple[str | None, int, str, bool]
"""The model of a call, its amount, what became of it, and whether it was granted less output than it asked for."""


@dataclass(slots=True, eq=False)
class Extra:
    """Count what most calls do not have, so that the hot path does not carry it.

    What is uncertain, an amount, is set aside and not spent; it stands here since it comes and goes with a charge.
    """

    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    unpriced: int = 0
    estimated: int = 0
    uncertain: int = 0

    def add(self, other: Extra) -> None:
        """Add *other*, in one go: nothing is called in between."""
        self.cache_read += other.cache_read
        self.cache_write += other.cache_write
        self.reasoning += other.reasoning
        self.unpriced += other.unpriced
        self.estimated += other.estimated
        self.uncertain += other.uncertain


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
NO_EXTRA = Extra()


class Detail:
    """Hold what only some scopes ever have; made when it is first needed.

    A run keeps thousands of these, and most need little. So it has no slots: what was never set is the class's, and
    the same for all.
    """

    own = total = NO_EXTRA
    late = 0
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
