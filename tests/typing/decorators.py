"""Decorators keep signatures exactly, and `continue` adds the fallback; checked by mypy and pyright, never run."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, assert_type

import stepwarden as sw


@sw.step
def bare(number: int, /, *rest: str, scale: float = 1.0) -> str:
    """Be a step."""
    return f"{number}{rest}{scale}"


@sw.step()
def empty(number: int) -> str:
    """Be a step."""
    return str(number)


@sw.step("named", model="m", budget=sw.Budget(max_usd="0.05"), tools=["a"], side_effect_level="read_only")
def named(number: int) -> str:
    """Be a step."""
    return str(number)


@sw.step(name="escalating", budget={"max_tokens": 5}, error_boundary="escalate", default_max_output_tokens=512)
async def coroutine(number: int, *, flag: bool = False) -> str:
    """Be a step."""
    return f"{number}{flag}"


@sw.step
def generator(number: int) -> Generator[int, str, bytes]:
    """Be a step."""
    sent = yield number
    return sent.encode()


@sw.step
async def async_generator(number: int) -> AsyncGenerator[int, str]:
    """Be a step."""
    yield number


@sw.persona(name="triage", stages=[sw.Stage(named, allowed_tools=["a"]), sw.Stage("bare")], tools=["a"])
async def persona(issue: str) -> int:
    """Be a persona."""
    return len(issue)


@sw.persona
def bare_persona(issue: str) -> int:
    """Be a persona."""
    return len(issue)


@sw.tool(side_effect="workspace_write")
def tool(path: str, text: str) -> None:
    """Be a tool."""


@sw.tool
async def bare_tool(path: str) -> bytes:
    """Be a tool."""
    return path.encode()


class Agent:
    """Have every kind of method."""

    @sw.step
    def method(self, number: int) -> str:
        """Be a step."""
        return str(number)

    @sw.step(name="of_coroutine")
    async def coroutine(self, number: int) -> str:
        """Be a step."""
        return str(number)

    @classmethod
    @sw.step
    def of_class(cls, number: int) -> str:
        """Be a step."""
        return str(number)

    @staticmethod
    @sw.step(error_boundary="continue", fallback=0)
    def static(number: int) -> str:
        """Be a step."""
        return str(number)


@sw.step
@sw.persona
def stacked(number: int) -> str:
    """Be both."""
    return str(number)


@sw.step(error_boundary="continue", fallback=b"")
def continuing(number: int) -> str:
    """Be a step."""
    return str(number)


@sw.step(error_boundary=sw.ErrorBoundary.CONTINUE)
def without_fallback(number: int) -> str:
    """Be a step."""
    return str(number)


@sw.step(error_boundary="continue", fallback=7)
async def continuing_coroutine(number: int) -> str:
    """Be a step."""
    return str(number)


@sw.step(error_boundary="continue", fallback="short")
def continuing_generator(number: int) -> Generator[int, float, bytes]:
    """Be a step."""
    yield number
    return b""


@sw.step(error_boundary="continue", fallback="short")
async def continuing_async_generator(number: int) -> AsyncGenerator[int, float]:
    """Be a step."""
    yield number


@sw.step(error_boundary="fail", fallback=5)
def failing(number: int) -> str:
    """Be a step."""
    return str(number)


def signatures(agent: Agent) -> None:
    """Arguments and results are what they were."""
    assert_type(bare(1), str)
    assert_type(bare(1, "a", "b", scale=2.0), str)
    assert_type(empty(1), str)
    assert_type(named(number=1), str)
    assert_type(failing(1), str)
    assert_type(generator(1), Generator[int, str, bytes])
    assert_type(async_generator(1), AsyncGenerator[int, str])
    assert_type(bare_persona(issue="a"), int)
    assert_type(agent.method(1), str)
    assert_type(agent.of_class(1), str)
    assert_type(Agent.of_class(1), str)
    assert_type(Agent.method(agent, 1), str)
    assert_type(agent.static(1), str | int)
    assert_type(stacked(1), str)


def fallbacks() -> None:
    """`continue` adds the type of the fallback to what is returned, inside a coroutine and a generator too."""
    assert_type(continuing(1), str | bytes)
    assert_type(without_fallback(1), str | None)
    assert_type(continuing_generator(1), Generator[int, float, bytes | str])
    assert_type(continuing_async_generator(1), AsyncGenerator[int, float])


def registered(step: sw.StepDefinition, persona: sw.PersonaDefinition) -> None:
    """Registration and mappings keep the function's type."""

    def function(number: int) -> str:
        return str(number)

    assert_type(sw.register_step(function, step)(number=1), str)
    assert_type(sw.register_persona(function, persona)(number=1), str)
    assert_type(sw.step_from_dict(function, {"name": "a"})(number=1), str)
    assert_type(sw.persona_from_dict(function, {"name": "a"})(number=1), str)
    assert_type(sw.propagate(function)(number=1), str)
    assert_type(sw.definition(bare), sw.StepDefinition | sw.PersonaDefinition)
    taken: Callable[[int], str] = sw.step(function)
    assert_type(taken(1), str)


async def awaited(agent: Agent) -> None:
    """A coroutine function stays one, and awaiting gives what it returns, or the fallback."""
    started: Coroutine[Any, Any, str] = coroutine(1)
    assert_type(await started, str)
    continued: Coroutine[Any, Any, str | int] = continuing_coroutine(1)
    assert_type(await continued, str | int)
    assert_type(await coroutine(1, flag=True), str)
    assert_type(await agent.coroutine(1), str)
    assert_type(await persona("a"), int)
    assert_type(await bare_tool("a"), bytes)
    assert_type(await continuing_coroutine(1), str | int)
    async for item in continuing_async_generator(1):
        assert_type(item, int)
    for item in continuing_generator(1):
        assert_type(item, int)
