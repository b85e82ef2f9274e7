"""MCP: client sessions whose tool calls are under the policy, and a middleware that guards a server's tools.

A refusal is a tool's result that is an error, which is how MCP tells a model what went wrong; nothing is sent to the
server, or run by it. A call that a guarded agent's tool of the same name passes on is counted once, as the tool's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from mcp import Client, ClientSession
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import CallToolResult, TextContent

from stepwarden.core._budget import Budget
from stepwarden.core._policy import SideEffectLike
from stepwarden.core._run import Run
from stepwarden.core._step import step
from stepwarden.core.errors import BudgetExceededError, HookDeniedError, ToolDeniedError

from ._gate import Gate, refusal


class ToolResultError(Exception):
    """Be what the receipt says of a tool whose result was an error; nobody outside meets it."""


class _GuardedCalls:
    """Guard the tool calls of a client, mixed in before its class; `GuardedSession` tells what it takes."""

    def __init__(
        self,
        *args: Any,
        side_effects: Mapping[str, SideEffectLike] | None = None,
        prefix: str = "",
        raises_denied: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._gate = Gate(side_effects or {}, f"{type(self).__name__}.side_effects")
        self._prefix = prefix
        self._raises_denied = raises_denied

    async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Ask the policy in force, count the call, and make it."""
        call: Callable[..., Awaitable[Any]] = super().call_tool  # type: ignore[misc]
        result: Any = None
        try:
            with _failing(), self._gate.forward(f"{self._prefix}{name}"):
                result = await call(name, *args, **kwargs)
                _raise_failed(result)
        except (ToolDeniedError, BudgetExceededError) as error:
            told = None if self._raises_denied else refusal(error)
            if told is None:
                raise
            return _error(told)
        return result


class GuardedSession(_GuardedCalls, ClientSession):
    """Open a session whose tool calls are checked against the policy, and counted.

    Args:
        side_effects: What tools may do, by the names that policies call them; a tool that is not named here is the
            network. What a server says of its tools is not trusted.
        prefix: What policies call a tool is this and then its name, so that servers may have tools of the same name.
        raises_denied: Whether a refused call raises `ToolDeniedError`, or `BudgetExceededError` beyond
            `max_tool_calls`, instead of returning a result that is an error.

    The other arguments are those of `ClientSession`.

    Raises:
        DefinitionError: If a side effect is none.
    """


class GuardedClient(_GuardedCalls, Client):
    """Guard the SDK's `Client` like `GuardedSession`: a call counts once, however many rounds it takes.

    What is called on its ``session`` itself is not asked about.
    """


class ServerGuard:
    """Guard a server's tools: each call is a step of the tool's name, asks the policy, and is counted.

    Give it to a server, ``MCPServer("files", middleware=[ServerGuard(run)])``, or append it to the ``middleware`` of
    one. A function that is decorated with `stepwarden.tool` would be asked about twice.

    Args:
        run: The open run that the calls are a part of; None: what is open where a call arrives, else one of its own.
        side_effects: What tools may do, by their names; a tool that is not named here is the network.
        budget: What each call may spend, a new one each time.

    Raises:
        DefinitionError: If a side effect is none.
    """

    def __init__(
        self,
        run: Run | None = None,
        *,
        side_effects: Mapping[str, SideEffectLike] | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._run = run
        self._gate = Gate(side_effects or {}, "ServerGuard.side_effects")
        self._budget = budget

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Let a message through; the call of a tool within its step, where the policy allows it."""
        name = (ctx.params or {}).get("name")
        if ctx.method != "tools/call" or not isinstance(name, str):
            return await call_next(ctx)
        result: HandlerResult = None
        try:
            with _failing(), self._attached():
                async with step(name, budget=self._budget):
                    with self._gate.open(name):
                        result = await call_next(ctx)
                        _raise_failed(result)
        except HookDeniedError as denied:
            return _error(f"The tool was not run: {denied.reason}")
        except (ToolDeniedError, BudgetExceededError) as error:
            told = refusal(error)
            if told is None:
                raise
            return _error(told)
        return result

    def _attached(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._run is None else self._run.attach()


@contextmanager
def _failing() -> Iterator[None]:
    """Stop what only tells the receipt that a tool failed."""
    try:
        yield
    except ToolResultError:
        return


def _raise_failed(result: Any) -> None:
    is_error = result.get("isError") if isinstance(result, Mapping) else getattr(result, "is_error", False)
    if is_error:
        raise ToolResultError("the tool's result is an error")


def _error(told: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=told)], is_error=True)
