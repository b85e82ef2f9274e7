"""Timing against the floor, and the tables that the numbers are shown in."""

import gc
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from benchmarks.floor import run_floor

ROUNDS = 9

Loop = Callable[[int], None]
"""Runs what is measured as many times as it is told: no call of ours stands between the repetitions."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one repetition took, and how that compares with the floor; medians over the rounds."""

    nanoseconds: float
    ratio: float


def time_against_floor(loop: Loop, repetitions: int) -> Timing:
    """Time *loop* and the floor in turns, so that a busy machine slows both, and compare round by round."""
    loop(repetitions // 10 + 1)
    run_floor(repetitions // 10 + 1)
    times, ratios = [], []
    for _ in range(ROUNDS):
        floor = time_once(run_floor, repetitions)
        subject = time_once(loop, repetitions)
        times.append(subject)
        ratios.append(subject / floor)
    return Timing(statistics.median(times), statistics.median(ratios))


def time_once(loop: Loop, repetitions: int) -> float:
    """Give the nanoseconds of one repetition."""
    gc.collect()  # every round starts with the same heap; while it runs, the collector works as it does for users
    start = perf_counter_ns()
    loop(repetitions)
    return (perf_counter_ns() - start) / repetitions


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of times: a ratio to the floor and the most that it may be."""

    what: str
    nanoseconds: float
    ratio: float
    goal: float | None = None

    @property
    def is_met(self) -> bool:
        """Tell whether the goal is met; what has none always does."""
        return self.goal is None or self.ratio <= self.goal

    def cells(self) -> Sequence[str]:
        """Give the texts of the row's columns."""
        goal, met = ("", "") if self.goal is None else (f"≤ {self.goal:g}", yes_or_no(self.is_met))
        return (self.what, f"{self.nanoseconds:,.0f}", f"{self.ratio:.2f}", goal, met)


ROW_HEADINGS = ("what", "measured (ns)", "ratio to the floor", "goal", "met")


def yes_or_no(value: bool) -> str:  # noqa: FBT001 - it formats a bool
    """Write *value* as a word for a table."""
    return "yes" if value else "**no**"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out *rows* under *headings* as a Markdown table, the first column left, the others right."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def join(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return f"| {' | '.join(cells)} |"

    return "\n".join(join(line) for line in (lines[0], rule, *lines[1:]))
