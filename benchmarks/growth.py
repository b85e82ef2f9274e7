"""What a step, a record and a hold cost as a run grows: deeper, longer, with more open holds and more who wait."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import stepwarden as sw
from benchmarks._measure import Loop, time_once, yes_or_no
from benchmarks._tree import AMPLE, nested_steps
from benchmarks.hold import run_holds
from benchmarks.record import run_records
from benchmarks.step import run_steps

ROUNDS = 9  # short ones, of which the best counts: what is asked is how a cost grows, not how busy the machine is
SIZES = {
    "depth": (1, 2, 4, 8, 16, 32),
    "finished steps": (0, 100, 1_000, 10_000, 100_000),
    "open holds": (0, 10, 100, 1_000, 10_000),
    "waiting calls": (1, 10, 100, 1_000),
}
OPERATIONS: dict[str, Loop] = {"a step": run_steps, "a record": run_records, "a hold": run_holds}
# Times the cost at the smallest size. Among ten thousand others memory is cold, which doubles what takes microseconds;
# what grew with the size would be a hundred times as dear.
MOST = 3.0
HEADINGS = ("what", "against", "from", "it costs (µs)", "to", "it costs (µs)", "goal", "met")


@dataclass(frozen=True, slots=True)
class Curve:
    """What one operation costs at each size; only depth may make it dearer."""

    what: str
    against: str
    sizes: Sequence[int]
    microseconds: Sequence[float]

    @property
    def is_met(self) -> bool:
        """Tell whether it costs as much at the largest size as at the smallest, where it should."""
        return self.against == "depth" or self.microseconds[-1] <= MOST * self.microseconds[0]

    def cells(self) -> tuple[str, ...]:
        """Give the texts of the row's columns."""
        ends = [text for at in (0, -1) for text in (f"{self.sizes[at]:,}", f"{self.microseconds[at]:.1f}")]
        goal, met = ("", "") if self.against == "depth" else (f"≤ {MOST:g} times", yes_or_no(self.is_met))
        return (self.what, self.against, *ends, goal, met)


def curves(repetitions: int, largest: int) -> list[Curve]:
    """Measure each operation in runs of each size up to *largest*, and what it takes to wake one caller of many."""
    drawn = []
    for against, sizes in SIZES.items():
        measured = [size for size in sizes if size <= largest]
        points = [_costs(against, size, repetitions) for size in measured]
        drawn += [Curve(what, against, measured, [point[what] for point in points]) for what in OPERATIONS]
    woken = [size for size in SIZES["waiting calls"] if size <= largest]
    drawn.append(Curve("a wake-up", "waiting calls", woken, [min(_wake(size) for _ in range(3)) for size in woken]))
    return drawn


def _costs(against: str, size: int, repetitions: int) -> dict[str, float]:
    if against == "waiting calls":
        return asyncio.run(_beside_waiting(size, repetitions))
    with nested_steps(size if against == "depth" else 1):
        if against == "finished steps":
            run_steps(size)
        with _open_holds(size if against == "open holds" else 0):
            return _measured(repetitions)


def _measured(repetitions: int) -> dict[str, float]:
    return {what: min(time_once(loop, repetitions) for _ in range(ROUNDS)) / 1_000 for what, loop in OPERATIONS.items()}


@contextmanager
def _open_holds(number: int) -> Iterator[None]:
    # Each in a context of its own, as the calls of other tasks are.
    reservation = sw.reserve(input_tokens=10, output_tokens=10, cost_usd=0)
    holds = [contextvars.copy_context().run(reservation.acquire) for _ in range(number)]
    yield
    for hold in holds:
        hold.release()


@asynccontextmanager
async def _waiting(number: int) -> AsyncIterator[sw.Hold]:
    """Let *number* calls wait for the one hold that a step has room for; each is settled as soon as it is granted."""

    async def call() -> None:
        async with sw.reserve(output_tokens=1, cost_usd=0) as granted:
            granted.settle(input_tokens=0, output_tokens=0)

    async with sw.step("crowded", budget=sw.Budget(max_output_tokens=1)):
        held = contextvars.copy_context().run(sw.reserve(output_tokens=1, cost_usd=0).acquire)
        calls = [asyncio.ensure_future(call()) for _ in range(number)]
        await asyncio.sleep(0)  # every task runs up to its place in the queue
        yield held
        if held.is_open:
            held.release()
        await asyncio.gather(*calls)


async def _beside_waiting(number: int, repetitions: int) -> dict[str, float]:
    with sw.Run(budget=AMPLE):
        beside = contextvars.copy_context()
        async with _waiting(number):
            return beside.run(_in_a_step, repetitions)


def _in_a_step(repetitions: int) -> dict[str, float]:
    with sw.step("beside", budget=AMPLE):
        return _measured(repetitions)


def _wake(number: int) -> float:
    """Give the microseconds of giving back a hold that *number* wait for, where one of them has room then."""

    async def measure() -> float:
        with sw.Run(budget=AMPLE):
            async with _waiting(number) as held:
                start = perf_counter_ns()
                held.release()
                return (perf_counter_ns() - start) / 1_000

    return asyncio.run(measure())
