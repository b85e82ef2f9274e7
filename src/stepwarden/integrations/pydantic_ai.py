"""pydantic-ai: a capability that guards an agent's models and tools, and a model that is the step's own.

A model whose client is of a guarded SDK is guarded on the wire, so that each of the SDK's own retries is reserved; any
other is guarded request by request. The capability wraps whichever model serves a request, also one that
``agent.override`` or a fallback puts in.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from pydantic_ai import RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import SkipToolExecution
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, ToolCallPart
from pydantic_ai.models import Model, ModelRequestContext, ModelRequestParameters, StreamedResponse, infer_model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition as AgentToolDefinition

from stepwarden.core._policy import SideEffectLike
from stepwarden.core.errors import BudgetExceededError, DefinitionError, PolicyViolationError, ToolDeniedError

from ._copies import Copies
from ._estimate import Estimate, input_tokens, parse_estimate
from ._gate import Gate, refusal
from ._guard import guard, is_guardable
from ._input import ANY, Conversation
from ._pydantic_ai_request import instructions_of, reported, text_of
from ._seam import Attempt
from ._step_model import current_model

_SEARCHES_TOOLS = "tool_search"
"""The one thing that a provider runs itself that only looks at what the agent has."""


class StepModel(WrapperModel):
    """Stand for the model of the step that is open when a request is made.

    Args:
        fallback: The model where no scope around declares one; a name or a model of pydantic-ai's.
        resolve: Makes a model of a name; by default as pydantic-ai does, from ``"provider:model"``.
    """

    def __init__(self, fallback: Model | str | None = None, *, resolve: Callable[[str], Model] = infer_model) -> None:
        self._fallback = fallback
        self._resolve = resolve
        self._models: dict[str, Model] = {}
        Model.__init__(self)

    @property
    def wrapped(self) -> Model:  # type: ignore[override]
        """The model of the innermost scope that declares one, else the fallback.

        Raises:
            DefinitionError: If there is neither.
        """
        return current_model(self._fallback, self._models, self._resolve)


class LateModel(WrapperModel):
    """Be a model that is found when it is asked, on the event loop that a request is made on.

    Args:
        find: Finds it.
    """

    def __init__(self, find: Callable[[], Model]) -> None:
        self._find = find
        Model.__init__(self)

    @cached_property
    def wrapped(self) -> Model:  # type: ignore[override]
        """The model; found once."""
        return self._find()


class GuardedModel(WrapperModel):
    """Be a model whose requests are reserved before they are sent, and settled after.

    Args:
        wrapped: The model, or its name.
        estimate: How the input of a request is estimated, as for `stepwarden.guard`. A function is given the request
            that the SDK sends, or for a client of no guarded SDK a mapping with *model*, *messages* (the parts of
            pydantic-ai's messages), *tools* and *instructions*.

    A wrapper or a fallback of pydantic-ai's is guarded where it asks the models that it holds. What nothing bounds, a
    batch or the compaction of messages, is refused with a `PolicyViolationError`.

    Raises:
        DefinitionError: If *estimate* is none, or not the one that the model is guarded with.
    """

    def __init__(self, wrapped: Model | str, *, estimate: Estimate = "likely") -> None:
        super().__init__(wrapped)
        self._estimate = how = parse_estimate(estimate)
        if isinstance(wrapped, GuardedModel):
            wrapped.refuse_another(self._estimate)
        self._on_the_wire = Copies[Model, Model | None](lambda model: _guarded_within(model, how))

    def refuse_another(self, estimate: Estimate) -> None:
        """Raise a `DefinitionError` where this model is to be guarded with another estimate than it has."""
        if estimate not in ("likely", self._estimate):
            raise DefinitionError(
                f"estimate={estimate!r}: this model is guarded already, with estimate={self._estimate!r}; guard the "
                "model that it was made of"
            )

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Make a request that has room, and settle it by the usage of its response."""
        model = self._serving()
        wired = self._wired(model)
        if wired is not None:
            return await wired.request(messages, model_settings, model_request_parameters)
        async with self._attempt(model, messages, model_settings, model_request_parameters) as attempt:
            response = await model.request(messages, _limited(model_settings, attempt), model_request_parameters)
            attempt.settle(reported(response, is_whole=True))
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Stream a request that has room, and settle it by what has come when the stream is left."""
        model = self._serving()
        wired = self._wired(model)
        if wired is not None:
            async with wired.request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as streamed:
                yield streamed
            return
        async with self._attempt(model, messages, model_settings, model_request_parameters) as attempt:
            limited = _limited(model_settings, attempt)
            async with model.request_stream(messages, limited, model_request_parameters, run_context) as streamed:
                attempt.keep()
                try:
                    yield streamed
                finally:
                    response = streamed.get()
                    attempt.settle(reported(response, is_whole=response.state == "complete"))

    async def batch_create(self, requests: Sequence[Any]) -> Any:
        """Refuse a batch: nobody knows what it will have cost until long after."""
        raise _not_covered("a batch")

    async def compact_messages(self, request_context: ModelRequestContext, *, instructions: str | None = None) -> Any:
        """Refuse to have messages compacted: nothing bounds what that costs."""
        raise _not_covered("the compaction of messages")

    def _serving(self) -> Model:
        model = self.wrapped
        while isinstance(model, StepModel):
            model = model.wrapped
        return model

    def _wired(self, model: Model) -> Model | None:
        """Return the model guarded further in, at its client or the models that it holds; None where it cannot be."""
        # An agent gives its model new connections where it runs on another event loop than before.
        return self._on_the_wire.of(model, _connections(model))

    def _attempt(
        self,
        model: Model,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> Attempt:
        settings: dict[str, Any] = {**(model.settings or {}), **(model_settings or {})}
        timeout = settings.get("timeout")
        asked = ModelMessagesTypeAdapter.dump_python(messages, mode="json")
        tools = [
            {"name": tool.name, "description": tool.description, "schema": tool.parameters_json_schema}
            for tool in (*parameters.function_tools, *parameters.output_tools)
        ]
        said = [part for message in asked for part in message.get("parts", ())]
        request = {
            "model": model.model_name,
            "messages": [text_of(part) for part in said],
            "tools": tools,
            "instructions": instructions_of(messages),
        }
        return Attempt(
            model=f"{model.system}:{model.model_name}" if _has_price(model) else model.model_name,
            input_tokens=input_tokens(Conversation(request, ANY), self._estimate),
            is_stated=self._estimate != "likely",
            output_tokens=settings.get("max_tokens"),
            timeout=timeout if isinstance(timeout, int | float) else None,
        )


@dataclass
class Guard(AbstractCapability[Any]):
    """Guard an agent: its models' requests are under the budget, and its tools' calls under the policy.

    A tool that the policy refuses is not run, and the model is told why, in the tool's place. Calls of what the
    provider runs itself (web search, code execution) cannot be asked about: an agent that has such a tool, and may not,
    raises `ToolDeniedError` before its next request.

    Args:
        side_effects: What tools may do, by their names, a provider's by its kind, such as ``"web_search"``; a tool that
            is not named here is the network, unless its function is decorated with `stepwarden.tool`.
        raises_denied: Whether a refused tool raises `ToolDeniedError` out of the agent instead of telling the model.
        estimate: How the input of a request is estimated, as for `GuardedModel`.

    Raises:
        DefinitionError: If a side effect is none, or *estimate* is none.
    """

    side_effects: Mapping[str, SideEffectLike] = field(default_factory=dict[str, SideEffectLike])
    raises_denied: bool = False
    estimate: Estimate = "likely"

    def __post_init__(self) -> None:
        parse_estimate(self.estimate)
        self._gate = Gate(self.side_effects, "Guard.side_effects")
        self._guarded = _Guarded(self.estimate)

    def get_wrapper_model(self, model: Model) -> Model | None:
        """Guard whichever model serves a request; None for one that is guarded already."""
        guarded = self._guarded.of(model)
        return None if guarded is model else guarded

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Refuse to offer what the provider runs itself, where the policy does: nobody is asked when it is called.

        Raises:
            ToolDeniedError: If that is so; nothing is sent.
        """
        parameters = request_context.model_request_parameters
        if parameters.native_tools:
            # What the model has not, or a function of the agent's stands for, is not offered.
            _, prepared = request_context.model.prepare_request(request_context.model_settings, parameters)
            for tool in prepared.native_tools:
                if tool.kind != _SEARCHES_TOOLS:
                    self._gate.ask(tool.kind)
        return request_context

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: AgentToolDefinition,
        args: dict[str, Any],
        handler: Any,
    ) -> Any:
        """Ask the policy in force before a tool runs, and count the call."""
        name = call.tool_name
        try:
            with self._gate.open(name, _function_of(ctx, name)):
                return await handler(args)
        except (ToolDeniedError, BudgetExceededError) as error:
            told = None if self.raises_denied else refusal(error)
            if told is None:
                raise
            raise SkipToolExecution(told) from error


def _function_of(ctx: RunContext[Any], name: str) -> object:
    """Return the function that this run's tool of a name calls, where that is known."""
    tool: Any = (getattr(ctx.tool_manager, "tools", None) or {}).get(name)
    while hasattr(tool, "source_tool"):
        tool = tool.source_tool
    schema = getattr(getattr(tool, "call_func", None), "__self__", None)
    return getattr(schema, "function", None)


def _guarded_within(model: Model, estimate: Estimate) -> Model | None:
    if isinstance(model, GuardedModel):
        return model
    # Looked at before the client, which a wrapper would show as its own.
    if isinstance(model, WrapperModel | FallbackModel):
        return _asking_guarded(model, _Guarded(estimate))
    return _with_guarded_client(model, estimate)


def _asking_guarded(model: WrapperModel | FallbackModel, guarded: _Guarded) -> Model:
    """Return a model that asks others, so that it asks them guarded.

    It is told of them by a property that stands before what it has, and has all else in common with the model, so that
    what that counts or remembers is found where the user looks.
    """
    if isinstance(model, FallbackModel):
        asked = {"models": property(lambda _: [guarded.of(one) for one in model.models])}
    else:
        asked = {"wrapped": property(lambda _: guarded.of(model.wrapped))}
    kind: Any = type(model)
    asking: Any = object.__new__(type(kind)(kind.__name__, (kind,), asked))
    asking.__dict__ = model.__dict__
    return cast("Model", asking)


class _Guarded:
    """Give each model a guarded one of its own."""

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._made = Copies[Model, GuardedModel](lambda model: GuardedModel(model, estimate=estimate))

    def of(self, model: Model) -> GuardedModel:
        if isinstance(model, GuardedModel):
            model.refuse_another(self._estimate)
            return model
        return self._made.of(model)


def _connections(model: Model) -> Any:
    return None if isinstance(model, WrapperModel) else getattr(getattr(model, "client", None), "_client", None)


def _with_guarded_client(model: Model, estimate: Estimate) -> Model | None:
    client, provider = getattr(model, "client", None), getattr(model, "_provider", None)
    if provider is None or not is_guardable(client) or getattr(provider, "_client", None) is not client:
        return None
    guarded, beside = copy.copy(model), copy.copy(provider)
    beside._client = guard(client, estimate=estimate)  # noqa: SLF001 - where pydantic-ai's providers keep it; checked just above
    cast("Any", guarded)._provider = beside  # noqa: SLF001
    return guarded


def _not_covered(what: str) -> PolicyViolationError:
    return PolicyViolationError(f"{what} costs money and is not covered by the guard of this model; it was not sent")


def _limited(settings: ModelSettings | None, attempt: Attempt) -> ModelSettings | None:
    if attempt.output_limit is None:
        return settings
    return cast("ModelSettings", {**(settings or {}), "max_tokens": attempt.output_limit})


def _has_price(model: Model) -> bool:
    from stepwarden import prices

    return prices.lookup(f"{model.system}:{model.model_name}") is not None
