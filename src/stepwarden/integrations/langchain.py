"""LangChain and LangGraph: a middleware that guards an agent's models and tools, and chat models that are guarded.

A chat model whose clients are of a guarded SDK is guarded on the wire, so that each of the SDK's own retries is
reserved; any other is guarded request by request. A node of a graph needs nothing from here: `stepwarden.step` goes
on its function.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.chat_models import init_chat_model
from langchain.tools.tool_node import ToolCallRequest
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.types import Command
from pydantic import PrivateAttr

from stepwarden.core._policy import SideEffectLike
from stepwarden.core.errors import BudgetExceededError, ToolDeniedError

from ._copies import Copies
from ._estimate import Estimate, parse_estimate
from ._gate import Gate, refusal
from ._guard import guard, is_guardable
from ._langchain_request import ByRequest, guarding, refuse_another_estimate
from ._step_model import current_model

_M = TypeVar("_M", bound=BaseChatModel)

_CLIENTS = ("root_client", "root_async_client", "client", "async_client", "_client", "_async_client")
"""Where chat models keep the clients of SDKs, and resources that are made of them."""
_OWN_TOOLS = frozenset({"function", "custom"})
"""The types of tools that the application runs, where a tool is a description of one."""
_TOOLS = "stepwarden_tools"
_UNTOLD: RunnableConfig = {"callbacks": []}
"""What a call is made with inside one that callbacks are told of already."""


def guarded(model: _M, *, estimate: Estimate = "likely") -> _M:
    """Return a guarded copy of a chat model: each request is reserved before it is sent, and settled after.

    Args:
        model: A chat model of any integration, or a `StepModel`; it stays as it was.
        estimate: How the input of a request is estimated, as for `stepwarden.guard`; a function is given the request
            as the SDK sends it, or its messages and options where nobody knows the client.

    Returns:
        The copy, which is an instance of the model's own class and shares its connections.

    Raises:
        TypeError: If it is no chat model, but something that holds one.
        DefinitionError: If *estimate* is none, or not the one that the model is guarded with.
    """
    how = parse_estimate(estimate)
    if not isinstance(model, BaseChatModel):
        raise TypeError(
            f"guarded() takes a chat model, not {type(model).__name__}; guard the model before tools or options are "
            "bound to it"
        )
    if isinstance(model, StepModel):
        return cast("_M", model.guarded(estimate=how))
    if isinstance(model, ByRequest):
        refuse_another_estimate(model, how)
        return model
    found = _guarded_clients(model, how)
    copied = model.model_copy()
    if found is None:
        object.__setattr__(copied, "__class__", guarding(type(model), how))
    else:
        copied.__dict__.update(found)
    return copied


class StepModel(BaseChatModel):
    """Stand for the model of the step that is open when it is called.

    Args:
        fallback: The model where no scope around declares one; a name or a chat model.
        resolve: Makes a chat model of a name; by default as LangChain does, from ``"provider:model"``.
    """

    fallback: BaseChatModel | str | None = None
    resolve: Callable[[str], BaseChatModel]
    _models: dict[str, BaseChatModel] = PrivateAttr(default_factory=dict)

    def __init__(
        self,
        fallback: BaseChatModel | str | None = None,
        *,
        resolve: Callable[[str], BaseChatModel] = init_chat_model,
        **options: Any,
    ) -> None:
        super().__init__(fallback=fallback, resolve=resolve, **options)  # type: ignore[call-arg]

    @property
    def current(self) -> BaseChatModel:
        """The chat model of the innermost scope that declares one, else the fallback.

        Raises:
            DefinitionError: If there is neither.
        """
        return current_model(self.fallback, self._models, self.resolve)

    def guarded(self, *, estimate: Estimate = "likely") -> StepModel:
        """Return one whose models are guarded; *estimate* as for the function `guarded`."""
        resolve, fallback = self.resolve, self.fallback
        if isinstance(fallback, BaseChatModel):
            fallback = guarded(fallback, estimate=estimate)
        return StepModel(fallback, resolve=lambda name: guarded(resolve(name), estimate=estimate))

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools to whichever model it will be."""
        return self.bind(**{_TOOLS: (tools, options)})

    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: list[str] | None = None,  # noqa: A002 - LangChain's own name
        **kwargs: Any,
    ) -> AIMessage:  # fmt: skip
        """Ask the model of the step."""
        model = self._bound(kwargs)
        return model.invoke(input, config, stop=stop, **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: list[str] | None = None,  # noqa: A002
        **kwargs: Any,
    ) -> AIMessage:  # fmt: skip
        """Ask the model of the step."""
        model = self._bound(kwargs)
        return await model.ainvoke(input, config, stop=stop, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: list[str] | None = None,  # noqa: A002
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:  # fmt: skip
        """Stream the reply of the model of the step."""
        model = self._bound(kwargs)
        yield from cast("Iterator[AIMessageChunk]", model.stream(input, config, stop=stop, **kwargs))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: list[str] | None = None,  # noqa: A002
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:  # fmt: skip
        """Stream the reply of the model of the step."""
        model = self._bound(kwargs)
        async with aclosing(cast("Any", model.astream(input, config, stop=stop, **kwargs))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _bound(self, kwargs: dict[str, Any]) -> Runnable[LanguageModelInput, AIMessage]:
        tools, options = kwargs.pop(_TOOLS, (None, {}))
        return self.current if tools is None else self.current.bind_tools(tools, **options)

    # What LangChain calls itself where none of the above is: for several prompts at once, and for events.

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        message = self.invoke(messages, _UNTOLD, stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        message = await self.ainvoke(messages, _UNTOLD, stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        for chunk in self.stream(messages, _UNTOLD, stop=stop, **kwargs):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        async with aclosing(cast("Any", self.astream(messages, _UNTOLD, stop=stop, **kwargs))) as chunks:
            async for chunk in chunks:
                yield ChatGenerationChunk(message=chunk)

    @property
    def _llm_type(self) -> str:
        return "stepwarden-step-model"


class Guard(AgentMiddleware[Any, Any, Any]):
    """Guard an agent: its model calls are under the budget, and its tool calls under the policy.

    Put it last in the agent's list of middleware: one that comes after it is nearer to the model, and what that
    sends again or elsewhere is not seen. A tool that the policy refuses is not run, and the model is told why, in a
    tool message that is an error. Calls of what the provider runs itself (web search, code execution) cannot be asked
    about: an agent that has such a tool, and may not, raises `ToolDeniedError` before its next request.

    Args:
        side_effects: What tools may do, by their names, a provider's by its name or else its type; a tool that is not
            named here is the network, unless its function is decorated with `stepwarden.tool`.
        raises_denied: Whether a refused tool raises `ToolDeniedError` out of the agent instead of telling the model.
        estimate: How the input of a request is estimated, as for `guarded`.

    Raises:
        DefinitionError: If a side effect is none, or *estimate* is none.
    """

    def __init__(
        self,
        *,
        side_effects: Mapping[str, SideEffectLike] | None = None,
        raises_denied: bool = False,
        estimate: Estimate = "likely",
    ) -> None:
        super().__init__()
        how = parse_estimate(estimate)
        self._gate = Gate(side_effects or {}, "Guard.side_effects")
        self._raises_denied = raises_denied
        self._models = Copies[BaseChatModel, BaseChatModel](lambda model: guarded(model, estimate=how))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model through its guarded copy."""
        self._ask(request)
        return handler(request.override(model=self._guarded(request.model)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Call the model through its guarded copy."""
        self._ask(request)
        return await handler(request.override(model=self._guarded(request.model)))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Ask the policy in force before a tool runs, and count the call."""
        try:
            with self._gate.open(request.tool_call["name"], *_functions(request)):
                return handler(request)
        except (ToolDeniedError, BudgetExceededError) as error:
            return self._told(request, error)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Ask the policy in force before a tool runs, and count the call."""
        try:
            with self._gate.open(request.tool_call["name"], *_functions(request)):
                return await handler(request)
        except (ToolDeniedError, BudgetExceededError) as error:
            return self._told(request, error)

    def _ask(self, request: ModelRequest[Any]) -> None:
        """Refuse to offer what the provider runs itself, where the policy does: nobody is asked when it is called."""
        for tool in request.tools:
            if isinstance(tool, dict) and tool.get("type", "function") not in _OWN_TOOLS:
                self._gate.ask(tool.get("name") or tool["type"])

    def _told(self, request: ToolCallRequest, error: Exception) -> ToolMessage:
        told = None if self._raises_denied else refusal(error)
        if told is None:
            raise error
        call = request.tool_call
        return ToolMessage(told, name=call["name"], tool_call_id=call["id"] or "", status="error")

    def _guarded(self, model: BaseChatModel) -> BaseChatModel:
        while isinstance(model, StepModel):
            model = model.current  # so that tools are bound as the real one takes them
        return self._models.of(model)


def _functions(request: ToolCallRequest) -> tuple[object, object]:
    return getattr(request.tool, "func", None), getattr(request.tool, "coroutine", None)


def _guarded_clients(model: BaseChatModel, estimate: Estimate) -> dict[str, Any] | None:
    """Return a model's clients, guarded, by the names of their attributes; None where not all of them can be."""
    found: dict[str, Any] = {}
    known: dict[int, Any] = {}
    for name in _CLIENTS:
        held = getattr(model, name, None)
        if held is None:
            continue
        client = held if is_guardable(held) else getattr(held, "_client", None)
        if name not in model.__dict__ or not is_guardable(client):
            return None
        if id(client) not in known:
            known[id(client)] = guard(client, estimate=estimate)
        found[name] = known[id(client)] if client is held else type(held)(known[id(client)])
    return found or None
