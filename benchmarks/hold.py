"""Taking a hold for a call's worst case and settling it to what the call cost."""

from decimal import Decimal
from itertools import repeat

import stepwarden as sw
from benchmarks._measure import Row, time_against_floor
from benchmarks._tree import nested_steps

WORST_CASE = Decimal("0.0008")
COST = Decimal("0.0005")


def run_holds(repetitions: int) -> None:
    """Reserve and settle *repetitions* times."""
    reserve, worst_case, cost = sw.reserve, WORST_CASE, COST
    for _ in repeat(None, repetitions):
        with reserve(input_tokens=120, output_tokens=512, cost_usd=worst_case) as hold:
            hold.settle(input_tokens=118, output_tokens=300, cost_usd=cost)


def rows(repetitions: int) -> list[Row]:
    """Measure in one step under a run, and three steps deep."""
    measured = []
    for depth, what, goal in ((1, "one step under a run", 3.5), (3, "three steps deep", 5.0)):
        with nested_steps(depth):
            timing = time_against_floor(run_holds, repetitions)
        measured.append(Row(f"hold taken and settled, {what}", timing.nanoseconds, timing.ratio, goal))
    return measured
