"""A full step: budget, persona, policy and receipt, around a body that does nothing."""

from itertools import repeat

import stepwarden as sw
from benchmarks._measure import Row, time_against_floor


@sw.step(
    budget=sw.Budget(max_tokens=2_000, max_usd="0.05"),
    tools=["github", "ci"],
    side_effect_level="workspace_write",
)
def classify(number: int) -> int:
    """Do nothing: what is measured is the contract around it."""
    return number


def run_steps(repetitions: int) -> None:
    """Call the step *repetitions* times."""
    for _ in repeat(None, repetitions):
        classify(1)


@sw.persona(
    tools=["github", "ci", "shell"],
    budget=sw.Budget(max_usd=1),
    stages=[sw.Stage(classify, allowed_tools=["github"], side_effect_level="read_only")],
)
def captain(repetitions: int) -> Row:
    """Measure the step where steps belong: under a persona that narrows it further."""
    timing = time_against_floor(run_steps, repetitions)
    return Row("a full step", timing.nanoseconds, timing.ratio, goal=2.0)


def rows(repetitions: int) -> list[Row]:
    """Measure a step called by a persona inside a run."""
    with sw.Run(budget=sw.Budget(max_usd=10)):
        return [captain(repetitions)]
