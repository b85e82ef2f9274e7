"""Amounts: what counts toward the limits, packed into one integer, so that one addition counts it everywhere.

An amount is ``input_tokens * INPUT + output_tokens * OUTPUT + calls * CALL + tool_calls * TOOL + (cost << COST)``. Its
places are so wide that no sum of what `MOST` lets through reaches into the next one; parts may be negative in an amount
that corrects another.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from ._money import Money, picodollars

if TYPE_CHECKING:
    from ._budget import Limits

# Bits of the largest number of tokens that one call may have: 35 million million. More than 100 million such calls fit.
MOST_BITS = 45
# Together 360 bits, which are 12 of the digits that integers are made of.
_TOKENS_WIDTH, _CALLS_WIDTH, _COST_WIDTH = 72, 40, 136

INPUT = 1
OUTPUT = 1 | 1 << _TOKENS_WIDTH  # output tokens are tokens, too
CALL = 1 << 2 * _TOKENS_WIDTH
TOOL = CALL << _CALLS_WIDTH
COST = 2 * _TOKENS_WIDTH + 2 * _CALLS_WIDTH

# Where the part behind each limit begins, and how wide its place is. Nothing lies above the cost.
_PLACES = {
    "max_tokens": (0, _TOKENS_WIDTH),
    "max_output_tokens": (_TOKENS_WIDTH, _TOKENS_WIDTH),
    "max_calls": (2 * _TOKENS_WIDTH, _CALLS_WIDTH),
    "max_tool_calls": (2 * _TOKENS_WIDTH + _CALLS_WIDTH, _CALLS_WIDTH),
    "max_usd": (COST, _COST_WIDTH),
}
# The uppermost bit of each place.
ALARMS = sum(1 << start + width - 1 for start, width in _PLACES.values())
_REMEMBERED = 4_096


def priced_call(cost_usd: Money | None) -> int | None:
    """Return one call that costs so many US dollars, as an amount; None for None, and errors as of `picodollars`."""
    return None if cost_usd is None else CALL + (picodollars(cost_usd, "cost_usd") << COST)


class _PricedCalls(dict[Decimal, int]):
    """Remember calls by their cost: repeated ones are the common case, and converting costs as much as charging."""

    def __missing__(self, cost_usd: Decimal) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        self[cost_usd] = amount = CALL + (picodollars(cost_usd, "cost_usd") << COST)
        return amount


PRICED_CALLS = _PricedCalls()


def part(amount: int, limit: str) -> int:
    """Return how much of an amount counts toward *limit*, in internal units; no part of it may be negative."""
    if limit == "max_input_tokens":
        return part(amount, "max_tokens") - part(amount, "max_output_tokens")
    if limit == "max_usd":
        return amount >> COST
    start, width = _PLACES[limit]
    return amount >> start & (1 << width) - 1


def unpacked(amount: int) -> tuple[int, int, int, int]:
    """Return the input tokens, output tokens, picodollars and calls of an amount."""
    output = part(amount, "max_output_tokens")
    return part(amount, "max_tokens") - output, output, amount >> COST, part(amount, "max_calls")


def headway(limits: Limits | None) -> int:
    """Return what, added to an amount, raises an alarm once the amount passes one of *limits*; or once it may."""
    if limits is None:
        return 0
    ahead = 0
    # What has no place of its own is looked at each time: the alarm of the tokens is always on.
    is_always_on = limits.input is not None or limits.nanoseconds is not None
    for limit, value in limits.items():
        if limit == "max_tokens" and is_always_on:
            ahead += 1 << _TOKENS_WIDTH - 1
        elif value is not None and limit in _PLACES:
            start, width = _PLACES[limit]
            ahead += max(0, (1 << width - 1) - 1 - value) << start
    return ahead
