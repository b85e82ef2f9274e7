"""What the policy is asked before a framework runs a tool, and what the model is told where it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from stepwarden.core._leaf import current_policy
from stepwarden.core._policy import SideEffect, SideEffectLike, parse_side_effect
from stepwarden.core._tool import ToolDefinition, tool_call
from stepwarden.core.errors import BudgetExceededError, ToolDeniedError

_running: ContextVar[list[str]] = ContextVar("stepwarden_running")
"""The name of the framework's tool that is running, until a call of an MCP server's is taken for it."""


class Gate:
    """Be what the calls of a framework's tools go through.

    Args:
        side_effects: What tools may do, by their names; a tool that is not named is the network.
        field: What the mapping is called where it is wrong.

    Raises:
        DefinitionError: If a level is none.
    """

    def __init__(self, side_effects: Mapping[str, SideEffectLike], field: str) -> None:
        self._levels = {name: parse_side_effect(level, f"{field}[{name!r}]") for name, level in side_effects.items()}

    def open(self, name: str, *functions: object) -> AbstractContextManager[None]:
        """Return the block to run a tool in: entering asks the policy, and counts the call.

        Args:
            name: What the framework calls the tool.
            functions: What it runs, where that is known; a function that is a tool of ours asks by itself.
        """
        if any(is_tool(function) for function in functions):
            return nullcontext()
        return _run(name, self._level(name))

    def forward(self, name: str) -> AbstractContextManager[None]:
        """Return the block to send a tool's call in; the first that a framework's tool of that name sends is its own.

        The policy is asked all the same: who sends the call may know better what the tool does.

        Args:
            name: What policies call the tool.

        Raises:
            ToolDeniedError: If that is so, and the policy refuses it.
        """
        running = _running.get(None)
        if not running or running[0] != name:
            return tool_call(name, self._level(name))
        try:
            running.pop()
        except IndexError:  # another call was first
            return tool_call(name, self._level(name))
        self.ask(name)
        return nullcontext()

    def ask(self, name: str) -> None:
        """Ask the policy in force about a tool, without counting a call of it.

        Args:
            name: What the framework calls the tool.

        Raises:
            ToolDeniedError: If the policy refuses it; that is on the receipt.
        """
        if current_policy().refusal(name, self._level(name)) is not None:
            with tool_call(name, self._level(name)):
                pass  # never: entering raises, notes and tells it

    def _level(self, name: str) -> SideEffect:
        return self._levels.get(name, SideEffect.NETWORK)


@contextmanager
def _run(name: str, level: SideEffect) -> Iterator[None]:
    with tool_call(name, level):
        token = _running.set([name])
        try:
            yield
        finally:
            _running.reset(token)


def is_tool(function: object) -> bool:
    """Tell whether a function is decorated with `stepwarden.tool`."""
    return isinstance(getattr(function, "definition", None), ToolDefinition)


def refusal(error: BaseException) -> str | None:
    """Return what to tell the model in a tool's place, where an error is the refusal of a tool call; else None."""
    if isinstance(error, ToolDeniedError):
        return f"The tool was not run: {error.reason}"
    if isinstance(error, BudgetExceededError) and error.phase == "tool":
        return f"The tool was not run: {error}"
    return None
