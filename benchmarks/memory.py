"""How much memory a run takes for each step: open, open with a call recorded in it, and finished."""

import contextvars
import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import stepwarden as sw
from benchmarks._tree import AMPLE

HEADINGS = ("what", "how many", "measured (bytes each)")


@dataclass(frozen=True, slots=True)
class Size:
    """What each of many takes."""

    what: str
    number: int
    each: float

    def cells(self) -> tuple[str, ...]:
        """Give the texts of the row's columns."""
        return (self.what, f"{self.number:,}", f"{self.each:,.0f}")


def sizes(number: int) -> list[Size]:
    """Measure with *number* steps, each in a context of its own, as the steps of tasks are."""
    sw.record_usage("gpt-5-mini", input_tokens=1, output_tokens=1, cost_usd=0)  # what is made once is no part of it
    return [
        Size("an open step", number, _taken(number, lambda: None, is_left=False)),
        Size("an open step with a recorded call", number, _taken(number, _record, is_left=False)),
        Size("a finished step", number, _taken(number, lambda: None, is_left=True)),
        Size("a finished step with a recorded call", number, _taken(number, _record, is_left=True)),
    ]


def _record() -> None:
    sw.record_usage("gpt-5-mini", input_tokens=120, output_tokens=40, cost_usd="0.000125")


def _taken(number: int, body: Callable[[], None], *, is_left: bool) -> float:
    step = sw.step("measured", budget=AMPLE)

    def enter_and_leave() -> None:
        with step:
            body()

    def enter() -> None:
        step.__enter__()
        body()

    with sw.Run(budget=AMPLE, max_receipts=number):
        contexts = [contextvars.copy_context() for _ in range(number)]
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for context in contexts:
                context.run(enter_and_leave if is_left else enter)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        if not is_left:
            for context in contexts:
                context.run(step.__exit__, None, None, None)
    return (after - before) / number
