"""Recording usage after the fact, with a cost in dollars: in one step, and what each further level adds."""

from decimal import Decimal
from itertools import repeat

import stepwarden as sw
from benchmarks._measure import Row, time_against_floor
from benchmarks._tree import nested_steps

COST = Decimal("0.000125")
DEEP = 9


def run_records(repetitions: int) -> None:
    """Record one call's usage *repetitions* times."""
    record_usage, cost = sw.record_usage, COST
    for _ in repeat(None, repetitions):
        record_usage("openai:gpt-5-mini", input_tokens=120, output_tokens=40, cost_usd=cost)


def rows(repetitions: int) -> list[Row]:
    """Measure in one step under a run, and per level from the difference to a deep tree."""
    with nested_steps(1):
        flat = time_against_floor(run_records, repetitions)
    with nested_steps(DEEP):
        deep = time_against_floor(run_records, repetitions)
    more = DEEP - 1
    return [
        Row("record_usage, one step under a run", flat.nanoseconds, flat.ratio, goal=2.0),
        Row(
            "record_usage, each further level",
            (deep.nanoseconds - flat.nanoseconds) / more,
            (deep.ratio - flat.ratio) / more,
            goal=0.25,
        ),
    ]
