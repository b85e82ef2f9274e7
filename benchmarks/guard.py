"""What a guard adds to one call of an SDK's client, on the scripted server: against the same client without it.

The calls with and without the guard take turns, one by one, so that a busy machine slows both. CPU is that of the
thread that makes the calls, which the server does not share.
"""

import asyncio
import gc
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter_ns, thread_time_ns
from typing import Any

import stepwarden as sw
from benchmarks._measure import ROUNDS, yes_or_no
from stepwarden.testing import Reply, ScriptedModel

MODEL = "m"
PRICES = {MODEL: {"input": 1, "output": 2}}
BUDGET = sw.Budget(max_tokens=1_000_000_000, max_usd=1_000_000)
MESSAGES: Any = [
    {"role": "system", "content": "You answer in one sentence. " * 20},
    {"role": "user", "content": "Which river flows through the most capitals?"},
]
MOST_RATIO = 1.03
MOST_CPU_MICROSECONDS = 100.0

HEADINGS = ("one call", "unguarded (µs)", "guarded, as a ratio", "CPU that the guard adds (µs)", "goal", "met")

Timed = tuple[int, int]
"""Nanoseconds of wall time, and of CPU."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a guard added to one client's calls; medians over the rounds."""

    client: str
    microseconds: float
    ratio: float
    cpu_microseconds: float

    @property
    def is_met(self) -> bool:
        """Tell whether both goals are met."""
        return self.ratio <= MOST_RATIO and self.cpu_microseconds <= MOST_CPU_MICROSECONDS

    def cells(self) -> tuple[str, ...]:
        """Give the texts of the row's columns."""
        numbers = (f"{self.microseconds:,.0f}", f"{self.ratio:.3f}", f"{self.cpu_microseconds:.0f}")
        goal = f"≤ {MOST_RATIO:g}, ≤ {MOST_CPU_MICROSECONDS:g}"
        return (self.client, *numbers, goal, yes_or_no(self.is_met))


def cases(repetitions: int) -> list[Case]:
    """Measure each SDK's two clients.

    Args:
        repetitions: How many calls of each kind a round has.
    """
    import anthropic
    import openai

    with ScriptedModel(default=Reply("The Danube.", input_tokens=150, output_tokens=4)) as server:
        host = server.base_url.removesuffix("/v1")
        plain: dict[str, Any] = {"api_key": "none", "max_retries": 0}
        with openai.OpenAI(base_url=server.base_url, **plain) as client:
            found = [_sync("openai, sync", client, _chat, repetitions)]
        found.append(asyncio.run(_opened("openai, async", openai.AsyncOpenAI, server.base_url, _chat, repetitions)))
        with anthropic.Anthropic(base_url=host, **plain) as messages:
            found.append(_sync("anthropic, sync", messages, _message, repetitions))
        found.append(asyncio.run(_opened("anthropic, async", anthropic.AsyncAnthropic, host, _message, repetitions)))
    return found


def _chat(client: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=60)


def _message(client: Any) -> Any:
    return client.messages.create(model=MODEL, system=MESSAGES[0]["content"], messages=MESSAGES[1:], max_tokens=60)


def _sync(name: str, client: Any, call: Callable[[Any], Any], repetitions: int) -> Case:
    async def awaited(one: Any) -> None:
        call(one)

    # Nothing is awaited inside, so this loop adds the same few nanoseconds to both.
    return asyncio.run(_case(name, client, awaited, repetitions))


async def _opened(
    name: str, kind: Callable[..., Any], address: str, call: Callable[[Any], Any], repetitions: int
) -> Case:
    async with kind(base_url=address, api_key="none", max_retries=0) as client:
        return await _case(name, client, call, repetitions)


async def _case(name: str, client: Any, call: Callable[[Any], Awaitable[Any]], repetitions: int) -> Case:
    guarded = sw.guard(client)
    walls, ratios, cpus = [], [], []
    async with sw.Run(budget=BUDGET, prices=PRICES), sw.step("ask"):
        for round_number in range(ROUNDS + 1):
            gc.collect()
            plain_wall = plain_cpu = guarded_wall = guarded_cpu = 0
            for _ in range(repetitions):
                wall, cpu = await _timed(client, call)
                plain_wall, plain_cpu = plain_wall + wall, plain_cpu + cpu
                wall, cpu = await _timed(guarded, call)
                guarded_wall, guarded_cpu = guarded_wall + wall, guarded_cpu + cpu
            if round_number:  # the first one only warms up
                walls.append(plain_wall / repetitions / 1_000)
                ratios.append(guarded_wall / plain_wall)
                cpus.append((guarded_cpu - plain_cpu) / repetitions / 1_000)
    return Case(name, statistics.median(walls), statistics.median(ratios), statistics.median(cpus))


async def _timed(client: Any, call: Callable[[Any], Awaitable[Any]]) -> Timed:
    wall, cpu = perf_counter_ns(), thread_time_ns()
    await call(client)
    return perf_counter_ns() - wall, thread_time_ns() - cpu
