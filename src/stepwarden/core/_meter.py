"""What one activation and everything under it spent and set aside: as amounts, for the hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._amount import headway, part
from ._budget import Usage
from ._money import dollars
from ._tally import NO_EXTRA, NO_USAGE

if TYPE_CHECKING:
    from ._budget import Limits
    from ._scope import Scope
    from ._tally import Extra


class Meter:
    """Count for one scope; made when something is first charged or held in or under it.

    It is one class for runs, personas and steps alike, so that the loops over a chain stay fast. It counts in amounts
    (`_amount`). `total` keeps counting after the scope has closed, since whoever outlives it stays under its limits.
    `own` is counted once others count in the total too (`is_shared`); until then it is the total. `taken` is spent,
    held and uncertain together, what no further call may have, and a `headway` which raises an alarm in it as soon as
    a limit is passed: one look tells where nothing is.

    Args:
        scope: The scope.
        parent: The meter of the scope around it, or None.
    """

    __slots__ = ("headway", "is_late", "is_shared", "own", "parent", "scope", "taken", "total")

    def __init__(self, scope: Scope, parent: Meter | None) -> None:
        self.scope = scope
        self.parent = parent
        self.is_shared = False
        self.is_late = scope.status is not None and scope.kind != "run"
        self.own = self.total = 0
        self.headway = self.taken = headway(scope.limits)

    def put_under(self, limits: Limits | None) -> None:
        """Raise the alarm at these limits from now on."""
        ahead = headway(limits)
        self.taken += ahead - self.headway
        self.headway = ahead

    def share(self) -> None:
        """Count what is its own apart from now on: others are to count in its total."""
        if not self.is_shared:
            # Nothing is called here, so that nobody can come between and be counted in a part of it.
            self.own = self.total
            self.is_shared = True

    def spent(self, limit: str) -> int:
        """Return what is spent of *limit*, late usage included, in internal units."""
        return part(self.total, limit)

    def aside(self, limit: str) -> int:
        """Return what is held and uncertain of *limit*, in internal units."""
        return 0 if limit == "max_seconds" else part(self.taken - self.headway - self.total, limit)

    def usage(self, which: str, extra: Extra) -> Usage:
        """Return ``"own"`` or ``"total"`` as users see it."""
        return shown(self.own if which == "own" and self.is_shared else self.total, extra)


def shown(amount: int, extra: Extra = NO_EXTRA) -> Usage:
    """Return an amount, and what most calls do not have, as users see it."""
    if not amount:
        return NO_USAGE
    return Usage(
        input_tokens=part(amount, "max_input_tokens"),
        output_tokens=part(amount, "max_output_tokens"),
        cache_read_tokens=extra.cache_read,
        cache_write_tokens=extra.cache_write,
        reasoning_tokens=extra.reasoning,
        cost_usd=dollars(part(amount, "max_usd")),
        calls=part(amount, "max_calls"),
        tool_calls=part(amount, "max_tool_calls"),
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
