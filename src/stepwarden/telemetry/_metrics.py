"""Metrics: how far budgets are used, which calls are refused, and how long others wait."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry import metrics

from stepwarden.core.errors import BudgetExceededError, ReserveTimeoutError, StepwardenError, UnpricedModelError

from . import _names as names
from ._provider import is_set_up, our_version
from ._turn import in_turn

if TYPE_CHECKING:
    from stepwarden.core._scope import Scope

# What was spent already when a limit was met is no call that was refused.
_AFTER_THE_FACT = ("record", "settle")
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.1, 1.5, 2.0)
_SECONDS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Instruments(NamedTuple):
    """Be what is measured with.

    Args:
        utilization: The share of a limit that was spent when its scope closed.
        refused: Calls that were not made.
        waits: Seconds that calls waited for other calls' holds.
    """

    utilization: metrics.Histogram
    refused: metrics.Counter
    waits: metrics.Histogram


def instruments() -> Instruments | None:
    """Return the instruments of the meter provider that the application has set up; None where it has none."""
    provider = metrics.get_meter_provider()
    return _instruments_of(provider) if is_set_up(provider) else None


@functools.lru_cache(maxsize=1)
def _instruments_of(provider: metrics.MeterProvider) -> Instruments | None:
    meter = provider.get_meter(names.SCOPE, our_version())
    if not is_set_up(meter):
        return None
    return Instruments(
        meter.create_histogram(
            names.UTILIZATION,
            unit="1",
            description="The share of a limit that was spent when its scope closed.",
            explicit_bucket_boundaries_advisory=_SHARES,
        ),
        meter.create_counter(
            names.REFUSED_CALLS, unit="{call}", description="Calls that were not made for want of budget."
        ),
        meter.create_histogram(
            names.WAITS,
            unit="s",
            description="How long calls waited for other calls' holds, granted or not.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        ),
    )


class Utilization:
    """Measure every limit under one run when its scope closes.

    Args:
        instruments: What it measures with.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._histogram = instruments.utilization

    def opened(self, scope: Scope) -> None:
        """Measure nothing yet."""

    def suspended(self, scope: Scope) -> None:
        """Measure nothing yet."""

    def resumed(self, scope: Scope) -> None:
        """Measure nothing yet."""

    def closed(self, scope: Scope) -> None:
        """Measure the share of each limit that was spent; of a limit 0 there is none."""
        if scope.limits is None:
            return
        for limit, value in scope.limits.items():
            if value:
                spent = scope.elapsed_ns() if limit == "max_seconds" else scope.spent(limit)
                attributes = {names.KIND: scope.kind, names.NAME: scope.name, names.LIMIT: limit}
                in_turn(functools.partial(self._histogram.record, spent / value, attributes))


def count_refusal(error: StepwardenError) -> None:
    """Count a call that was not made; an error that refuses no call is none.

    Args:
        error: What the caller is about to meet.
    """
    match error:
        case BudgetExceededError() if error.phase not in _AFTER_THE_FACT:
            limit, reason = error.limit, error.reason
        case ReserveTimeoutError():
            limit, reason = error.limit, "timeout"
        case UnpricedModelError():
            limit, reason = "max_usd", "unpriced"
        case _:
            return
    measured = instruments()
    if measured is not None:
        in_turn(functools.partial(measured.refused.add, 1, {names.LIMIT: limit, names.REASON: reason}))


def measure_wait(limit: str, seconds: float) -> None:
    """Measure how long a call waited for other calls' holds.

    Args:
        limit: The `Budget` field that had no room.
        seconds: How long it waited.
    """
    measured = instruments()
    if measured is not None:
        in_turn(functools.partial(measured.waits.record, seconds, {names.LIMIT: limit}))
