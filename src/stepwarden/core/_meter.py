"""What one activation and everything under it spent and set aside: plain integers, laid out for the hot path."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ._budget import Usage
from ._money import dollars

if TYPE_CHECKING:
    from ._budget import Limits
    from ._scope import Scope
    from ._tally import Extra

# The counter behind each limit, and the limits that a hold counts toward.
_COUNTER = {
    "max_tokens": "tokens",
    "max_output_tokens": "output",
    "max_usd": "cost",
    "max_calls": "calls",
    "max_tool_calls": "tools",
}
_RESERVED = frozenset({"max_tokens", "max_output_tokens", "max_usd"})


class Meter:
    """Count for one scope; made when something is first charged or held in or under it.

    It is one class for runs, personas and steps alike, so that the loops over a chain stay fast. `total_*` keeps
    counting after the scope has closed, since whoever outlives it stays under its limits. `own_*` is counted once
    others count in the total too (`is_shared`); until then it is the total. `aside_*` is held and uncertain together,
    what no further call may have; `taken_calls` is spent and aside, so that settling a hold, a call that becomes one,
    changes nothing there. `*_tokens` is input and output together: that is what is compared most.

    Args:
        scope: The scope.
        parent: The meter of the scope around it, or None.
    """

    __slots__ = (
        "aside_cost", "aside_output", "aside_tokens", "is_late", "is_shared", "most_cost", "most_tokens", "own_calls",
        "own_cost", "own_output", "own_tokens", "own_tools", "parent", "scope", "taken_calls", "total_calls",
        "total_cost", "total_output", "total_tokens", "total_tools",
    )  # fmt: skip

    most_tokens: float
    most_cost: float

    def __init__(self, scope: Scope, parent: Meter | None) -> None:
        self.scope = scope
        self.parent = parent
        self.put_under(scope.limits)
        self.is_shared = False
        self.is_late = scope.status is not None and scope.kind != "run"
        self.own_tokens = self.own_output = self.own_cost = self.own_calls = self.own_tools = 0
        self.total_tokens = self.total_output = self.total_cost = self.total_calls = self.total_tools = 0
        self.aside_tokens = self.aside_output = self.aside_cost = self.taken_calls = 0

    def put_under(self, limits: Limits | None) -> None:
        """Let the hot path look closer at what passes these limits: two comparisons tell it where it must."""
        self.most_tokens = inf if limits is None or limits.tokens is None else limits.tokens
        self.most_cost = inf if limits is None or limits.usd is None else limits.usd
        if limits is not None and limits.rare:
            self.most_tokens = -inf

    def share(self) -> None:
        """Count what is its own apart from now on: others are to count in its total."""
        if not self.is_shared:
            # Nothing is called here, so that nobody can come between and be counted in a part of it.
            self.own_tokens, self.own_output, self.own_cost = self.total_tokens, self.total_output, self.total_cost
            self.own_calls, self.own_tools = self.total_calls, self.total_tools
            self.is_shared = True

    def spent(self, limit: str) -> int:
        """Return what is spent of *limit*, late usage included, in internal units."""
        if limit == "max_input_tokens":
            return self.total_tokens - self.total_output
        return int(getattr(self, f"total_{_COUNTER[limit]}"))

    def aside(self, limit: str) -> int:
        """Return what is held and uncertain of *limit*, in internal units."""
        if limit == "max_input_tokens":
            return self.aside_tokens - self.aside_output
        if limit == "max_calls":
            return self.taken_calls - self.total_calls
        return int(getattr(self, f"aside_{_COUNTER[limit]}")) if limit in _RESERVED else 0

    def usage(self, which: str, extra: Extra) -> Usage:
        """Return ``"own"`` or ``"total"`` as users see it."""
        which = which if self.is_shared else "total"
        return Usage(
            input_tokens=getattr(self, f"{which}_tokens") - getattr(self, f"{which}_output"),
            output_tokens=getattr(self, f"{which}_output"),
            cache_read_tokens=extra.cache_read,
            cache_write_tokens=extra.cache_write,
            reasoning_tokens=extra.reasoning,
            cost_usd=dollars(getattr(self, f"{which}_cost")),
            calls=getattr(self, f"{which}_calls"),
            tool_calls=getattr(self, f"{which}_tools"),
            unpriced_calls=extra.unpriced,
            estimated_calls=extra.estimated,
        )


def meter_of(scope: Scope) -> Meter:
    """Return the meter of a scope, making those of its chain that are missing; under the tree's lock."""
    missing = []
    at: Scope | None = scope
    while at is not None and at.meter is None:
        missing.append(at)
        at = at.parent
    meter = None if at is None else at.meter
    for one in reversed(missing):
        if meter is not None:
            meter.share()
        made = Meter(one, meter)
        # A finaliser may have made one meanwhile, and counted in it; the first one counts.
        if one.meter is None:
            one.meter = made
        meter = one.meter
    assert meter is not None
    return meter
