"""What a guard adds to one call of an SDK, on the scripted server: against the same call without it.

The calls with and without the guard take turns, one by one, so that a busy machine slows both; which of a pair comes
first takes turns, too. Of each round the medians are compared, since one call that another process interrupted would
otherwise outweigh the whole difference. The server is a thread of the same process, and MCP's is a task of the same
loop: what a provider takes in reality, hundreds of times as long, is not in the call that the ratio is of. CPU is that
of the thread that makes the calls, which the scripted server does not share.
"""

import asyncio
import gc
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import perf_counter_ns, thread_time_ns
from typing import Any

import stepwarden as sw
from benchmarks._measure import ROUNDS, yes_or_no
from stepwarden.testing import Reply, ScriptedModel

MODEL = "m"
PRICES = {MODEL: {"input": 1, "output": 2}}
BUDGET = sw.Budget(max_tokens=1_000_000_000, max_usd=1_000_000)
SYSTEM = "You answer in one sentence. " * 20
QUESTION = "Which river flows through the most capitals?"
MESSAGES: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
MAX_TOKENS = 60
REPLY = Reply("The Danube.", input_tokens=150, output_tokens=4)
MOST_RATIO = 1.03
MOST_CPU_MICROSECONDS = 100.0

HEADINGS = ("one call", "unguarded (µs)", "guarded, as a ratio", "CPU that the guard adds (µs)", "goal", "met")

Call = Callable[[], Any]
AsyncCall = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """What a guard added to one SDK's calls; medians over the rounds of the medians of each."""

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


class Turns:
    """Let calls with and without a guard take turns, and compare the times that they took."""

    def __init__(self, repetitions: int) -> None:
        self._repetitions = repetitions
        self._wall: tuple[list[int], list[int]] = ([], [])
        self._cpu: tuple[list[int], list[int]] = ([], [])
        self._which = 0
        self._found: list[tuple[float, float, float]] = []

    def __iter__(self) -> Iterator[int]:
        """Give which of the two is to be called, 0 for the one without a guard; tell of each with `took`."""
        for round_number in range(ROUNDS + 1):
            gc.collect()
            self._wall, self._cpu = ([], []), ([], [])
            for number in range(self._repetitions):
                for self._which in (0, 1) if number % 2 else (1, 0):
                    yield self._which
            if round_number:  # the first one only warms up
                plain, guarded = (statistics.median(each) for each in self._wall)
                added = statistics.median(self._cpu[1]) - statistics.median(self._cpu[0])
                self._found.append((plain / 1_000, guarded / plain, added / 1_000))

    def took(self, wall: int, cpu: int) -> None:
        """Note how long a call took, in nanoseconds of wall time and of CPU."""
        self._wall[self._which].append(wall)
        self._cpu[self._which].append(cpu)

    def case(self, name: str) -> Case:
        """Give what was found."""
        return Case(name, *map(statistics.median, zip(*self._found, strict=True)))


def compare(name: str, plain: Call, guarded: Call, repetitions: int) -> Case:
    """Time two functions.

    Args:
        name: What the row is called.
        plain: Makes one call without a guard.
        guarded: Makes the same call with one.
        repetitions: How many calls of each kind a round has.
    """
    calls, turns = (plain, guarded), Turns(repetitions)
    with sw.Run(budget=BUDGET, prices=PRICES), sw.step("ask"):
        for which in turns:
            call, wall, cpu = calls[which], perf_counter_ns(), thread_time_ns()
            call()
            turns.took(perf_counter_ns() - wall, thread_time_ns() - cpu)
    return turns.case(name)


async def compare_async(name: str, plain: AsyncCall, guarded: AsyncCall, repetitions: int) -> Case:
    """Time two coroutine functions; arguments as for `compare`."""
    calls, turns = (plain, guarded), Turns(repetitions)
    async with sw.Run(budget=BUDGET, prices=PRICES), sw.step("ask"):
        for which in turns:
            call, wall, cpu = calls[which], perf_counter_ns(), thread_time_ns()
            await call()
            turns.took(perf_counter_ns() - wall, thread_time_ns() - cpu)
    return turns.case(name)


def cases(repetitions: int) -> list[Case]:
    """Measure the clients of each SDK.

    Args:
        repetitions: How many calls of each kind a round has.
    """
    import anthropic
    import openai

    with ScriptedModel(default=REPLY) as server:
        plain: dict[str, Any] = {"api_key": "none", "max_retries": 0}
        with openai.OpenAI(base_url=server.base_url, **plain) as client:
            chats = _chat(client), _chat(sw.guard(client))
            found = [compare("openai, sync", *chats, repetitions)]
        with anthropic.Anthropic(base_url=server.origin, **plain) as client:
            messages = _message(client), _message(sw.guard(client))
            found.append(compare("anthropic, sync", *messages, repetitions))
        found += asyncio.run(_async_cases(server, repetitions))
    return found


async def _async_cases(server: ScriptedModel, repetitions: int) -> list[Case]:
    import anthropic
    import openai

    plain: dict[str, Any] = {"api_key": "none", "max_retries": 0}
    async with AsyncExitStack() as stack:
        chat = await stack.enter_async_context(openai.AsyncOpenAI(base_url=server.base_url, **plain))
        message = await stack.enter_async_context(anthropic.AsyncAnthropic(base_url=server.origin, **plain))
        return [
            await compare_async("openai, async", _chat(chat), _chat(sw.guard(chat)), repetitions),
            await compare_async("anthropic, async", _message(message), _message(sw.guard(message)), repetitions),
        ]


def _chat(client: Any) -> Call:
    create = client.chat.completions.create
    return lambda: create(model=MODEL, messages=MESSAGES, max_completion_tokens=MAX_TOKENS)


def _message(client: Any) -> Call:
    create = client.messages.create
    return lambda: create(model=MODEL, system=SYSTEM, messages=MESSAGES[1:], max_tokens=MAX_TOKENS)
