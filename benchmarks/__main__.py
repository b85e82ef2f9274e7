"""Run every benchmark and print the results as Markdown: `python -m benchmarks [--short]`."""

import argparse
import os
import platform
import sys

from benchmarks import (
    growth,
    guard,
    guard_frameworks,
    hold,
    importing,
    ledger,
    ledger_growth,
    memory,
    parallel,
    record,
    step,
    verify,
)
from benchmarks._measure import ROUNDS, ROW_HEADINGS, Row, markdown_table, time_against_floor
from benchmarks.floor import run_floor

REPETITIONS = 20_000
SHORT_REPETITIONS = 1_000
VERIFIED = {True: (1_000,), False: (1_000, 10_000, 100_000)}
"""How many receipts are verified, in a short look and in a measurement."""
LARGEST = {True: 100, False: 100_000}
"""How large runs grow."""


def main() -> int:
    """Measure and print.

    Returns:
        The exit status: with `--check`, 1 if a goal is missed; otherwise 0, since times on a machine that does other
        work at the same time are for a reader to judge.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer repetitions: a look, not a measurement")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a goal is missed")
    options = parser.parse_args()
    repetitions = SHORT_REPETITIONS if options.short else REPETITIONS

    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; ", end="")
    print(f"medians of {ROUNDS} rounds of {repetitions:,}\n")

    floor = time_against_floor(run_floor, repetitions)
    times = [
        Row("the floor, against itself", floor.nanoseconds, floor.ratio),
        *step.rows(repetitions),
        *record.rows(repetitions),
        *hold.rows(repetitions),
    ]
    print(markdown_table(ROW_HEADINGS, [row.cells() for row in times]), end="\n\n")

    import_cost = importing.measure()
    print(markdown_table(importing.HEADINGS, [import_cost.cells()]), end="\n\n")

    cases = parallel.cases()
    print(markdown_table(parallel.HEADINGS, [case.cells() for case in cases]), end="\n\n")

    speeds = [speed for receipts in VERIFIED[options.short] for speed in verify.speeds(receipts)]
    print(markdown_table(verify.HEADINGS, [speed.cells() for speed in speeds]), end="\n\n")

    durable = ledger.cases(repetitions // 10)
    print(markdown_table(ledger.HEADINGS, [case.cells() for case in durable]), end="\n\n")

    grown = ledger_growth.cases(ledger_growth.SIZES[:2] if options.short else ledger_growth.SIZES)
    print(markdown_table(ledger_growth.HEADINGS, [size.cells() for size in grown]), end="\n\n")

    calls = [each for module in (guard, guard_frameworks) for each in module.cases(20 if options.short else 100)]
    print(markdown_table(guard.HEADINGS, [case.cells() for case in calls]), end="\n\n")

    curves = growth.curves(100, LARGEST[options.short])
    print(markdown_table(growth.HEADINGS, [curve.cells() for curve in curves]), end="\n\n")

    sizes = memory.sizes(repetitions // 2)
    print(markdown_table(memory.HEADINGS, [size.cells() for size in sizes]))

    met = [
        *(row.is_met for row in times),
        import_cost.is_met,
        *(case.is_met for case in cases),
        *(speed.is_met for speed in speeds),
        *(case.is_met for case in durable),
        *(size.is_met for size in grown),
        *(curve.is_met for curve in curves),
        *(case.is_met for case in calls),
    ]
    return 1 if options.check and not all(met) else 0


if __name__ == "__main__":
    sys.exit(main())
