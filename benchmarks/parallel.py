"""Parallel callers under one cap: 20 of them, three calls each, $0.10 a call, $1.00 in all. Ten calls are right."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

import stepwarden as sw
from benchmarks._measure import yes_or_no

CALLERS = 20
CALLS_EACH = 3
COST = Decimal("0.10")
CAP = Decimal("1.00")
RIGHT = 10
ANSWER_SECONDS = 0.005  # long enough for every caller to be under way before the first call is paid for

HEADINGS = ("callers", "calls made", "spent", "held after", "goal", "met")


@dataclass(frozen=True, slots=True)
class Case:
    """What came of the callers, once all of them were done or refused."""

    kind: str
    made: int
    spent: Decimal
    held: Decimal

    @property
    def is_met(self) -> bool:
        """Tell whether the cap was used up, not passed, and nothing is left held."""
        return self.made == RIGHT and self.spent == CAP and self.held == 0

    def cells(self) -> tuple[str, ...]:
        """Give the texts of the row's columns."""
        goal = f"{RIGHT} calls, ${CAP}, $0.00"
        spent, held = f"${self.spent:.2f}", f"${self.held:.2f}"
        return (f"{CALLERS} in {self.kind}", str(self.made), spent, held, goal, yes_or_no(self.is_met))


def cases() -> list[Case]:
    """Run the callers in threads, then in asyncio."""
    return [_case("threads", _call_in_threads), _case("asyncio", lambda: asyncio.run(_call_in_tasks()))]


def _case(kind: str, call_all: Callable[[], int]) -> Case:
    with sw.Run(budget=sw.Budget(max_usd=CAP)) as run:
        made = call_all()
        return Case(kind, made, run.total.cost_usd, run.held.cost_usd)


def _call_in_threads() -> int:
    def caller() -> int:
        made = 0
        for _ in range(CALLS_EACH):
            try:
                with sw.reserve(cost_usd=COST) as hold:
                    time.sleep(ANSWER_SECONDS)
                    hold.settle(input_tokens=0, output_tokens=0, cost_usd=COST)
            except sw.BudgetExceededError:
                break
            made += 1
        return made

    with ThreadPoolExecutor(CALLERS) as pool:
        futures = [pool.submit(sw.propagate(caller)) for _ in range(CALLERS)]
        return sum(future.result() for future in futures)


async def _call_in_tasks() -> int:
    async def caller() -> int:
        made = 0
        for _ in range(CALLS_EACH):
            try:
                async with sw.reserve(cost_usd=COST) as hold:
                    await asyncio.sleep(ANSWER_SECONDS)
                    hold.settle(input_tokens=0, output_tokens=0, cost_usd=COST)
            except sw.BudgetExceededError:
                break
            made += 1
        return made

    return sum(await asyncio.gather(*(caller() for _ in range(CALLERS))))
