"""openai-agents: a model provider whose models are guarded, and agents whose tools are under the policy.

A model of OpenAI's own over HTTP is guarded on the wire, so that each of the SDK's own retries is reserved; any other
is guarded request by request. A name is resolved when a model is asked, so an agent without a model has the step's.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from agents import (
    Agent,
    FunctionTool,
    Handoff,
    Model,
    ModelProvider,
    ModelResponse,
    MultiProvider,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    OpenAIResponsesWSModel,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolInputGuardrailData,
)

from stepwarden.core._leaf import default_model
from stepwarden.core._policy import SideEffectLike
from stepwarden.core.errors import BudgetExceededError, ToolDeniedError

from ._agents_request import ASKED, EventReader, attempt_of, limited, reported_by
from ._copies import REMEMBERED, Copies
from ._estimate import Estimate, parse_estimate
from ._gate import Gate, is_tool, refusal
from ._guard import guard, is_guardable
from ._streams import Watch, continued

_T = TypeVar("_T")

_MARK = "stepwarden_gate"


class GuardedModel(Model):
    """Be a model whose requests are reserved before they are sent, and settled after.

    Args:
        wrapped: The model.
        estimate: How the input of a request is estimated, as for `stepwarden.guard`. A function is given the request
            as it is sent, or for a model of no guarded SDK, what the SDK asks with, in the words of the Responses API.

    Raises:
        DefinitionError: If *estimate* is none.
    """

    def __init__(self, wrapped: Model, *, estimate: Estimate = "likely") -> None:
        self._wrapped = wrapped
        self._estimate = how = parse_estimate(estimate)
        self._on_the_wire = Copies[Model, Model | None](lambda model: _with_guarded_client(model, how))

    @property
    def wrapped(self) -> Model:
        """The model that serves the next request."""
        return self._wrapped

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """Make a request that has room, and settle it by the usage of its response."""
        asked = _asked(args, kwargs)
        model = self.wrapped
        wired = self._on_the_wire.of(model)
        if wired is not None:
            return await wired.get_response(**asked)
        async with attempt_of(model, asked, self._estimate) as attempt:
            response = await model.get_response(**limited(asked, attempt))
            attempt.settle(reported_by(response))
        return response

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Stream a request that has room, and settle it by what has come when the stream is left."""
        asked = _asked(args, kwargs)
        model = self.wrapped
        wired = self._on_the_wire.of(model)
        if wired is not None:
            async with aclosing(cast("Any", wired.stream_response(**asked))) as events:
                async for event in events:
                    yield event
            return
        async with attempt_of(model, asked, self._estimate) as attempt:
            source = aiter(model.stream_response(**limited(asked, attempt)))
            first = await anext(source, None)  # only now it is sent, and fails in the way of a call
            watch = Watch(attempt, EventReader())
        async with aclosing(cast("Any", watch.pieces_async(continued(first, source)))) as events:
            async for event in events:
                yield event

    def get_retry_advice(self, request: Any) -> Any:
        """Return what the model advises after a failure."""
        return self.wrapped.get_retry_advice(request)

    async def close(self) -> None:
        """Close the model."""
        await self._wrapped.close()


class _NamedModel(GuardedModel):
    """Be the model that a provider has for a name, or for the step's default where there is none.

    Args:
        provider: The provider.
        name: The name, or None.
        estimate: As for `GuardedModel`.
    """

    def __init__(self, provider: ModelProvider, name: str | None, estimate: Estimate) -> None:
        self._estimate = estimate
        self._provider = provider
        self._name = name
        self._models: dict[str | None, Model] = {}
        self._on_the_wire = Copies(lambda model: _with_guarded_client(model, estimate))

    @property
    def wrapped(self) -> Model:
        name = self._name if self._name is not None else _default_name()
        if name not in self._models:
            self._models[name] = self._provider.get_model(name)
        return self._models[name]

    async def close(self) -> None:
        for model in self._models.values():
            await model.close()


class GuardedProvider(ModelProvider):
    """Provide guarded models, the step's default model where an agent names none.

    Give it to a run: ``RunConfig(model_provider=GuardedProvider())``. An agent that is given a model object asks no
    provider; `guarded` wraps such a model.

    Args:
        provider: Where the models come from; by default the SDK's own provider.
        estimate: How the input of a request is estimated, as for `GuardedModel`.

    Raises:
        DefinitionError: If *estimate* is none.
    """

    def __init__(self, provider: ModelProvider | None = None, *, estimate: Estimate = "likely") -> None:
        self._estimate = parse_estimate(estimate)
        self._provider = MultiProvider() if provider is None else provider
        self._models: dict[str | None, GuardedModel] = {}

    def get_model(self, model_name: str | None) -> GuardedModel:
        """Return the guarded model of a name; of none, the model of the step that is open when it is asked."""
        if model_name not in self._models:
            if len(self._models) >= REMEMBERED:
                self._models.clear()
            self._models[model_name] = _NamedModel(self._provider, model_name, self._estimate)
        return self._models[model_name]

    async def aclose(self) -> None:
        """Close the provider."""
        await self._provider.aclose()


def guarded(
    agent: Agent[_T], *, side_effects: Mapping[str, SideEffectLike] | None = None, estimate: Estimate = "likely"
) -> Agent[_T]:
    """Return a copy of an agent whose tools are under the policy, and so of every agent that it hands off to.

    A tool that the policy refuses is rejected in the form of a tool guardrail, and one beyond `max_tool_calls` is not
    run either; the model is told why in the tool's place. Calls of what OpenAI or the SDK runs itself (web search, code
    interpreter, shell, computer) cannot be asked about: an agent that has such a tool, and may not, raises
    `ToolDeniedError` before its next request. A model object of an agent's is guarded; models by name are guarded by a
    `GuardedProvider` of the run.

    Args:
        agent: The agent; it stays as it was. Tools of its MCP servers are covered. An agent that is a tool of its own
            is one tool here: guard that agent before `as_tool`.
        side_effects: What tools may do, by their names; a tool that is not named here is the network, unless its
            function is decorated with `stepwarden.tool`.
        estimate: How the input of a model object's requests is estimated, as for `GuardedModel`; one that is guarded
            already keeps its own.

    Raises:
        DefinitionError: If a side effect is none, or *estimate* is none.
    """
    gate = Gate(side_effects or {}, "guarded.side_effects")
    return cast("Agent[_T]", _Guarding(gate, parse_estimate(estimate)).agent(agent))


class _Guarding:
    """Copy agents, each once, so that agents that hand off to one another in a circle still do."""

    def __init__(self, gate: Gate, estimate: Estimate) -> None:
        self._gate = gate
        self._estimate = estimate
        self._agents: dict[int, tuple[Any, Any]] = {}
        self._tools = Copies[FunctionTool, FunctionTool](lambda tool: _guarded_tool(tool, gate))
        self._models = Copies[Model, GuardedModel](lambda model: GuardedModel(model, estimate=estimate))

    def agent(self, agent: Any) -> Any:
        if isinstance(agent, _Guarded):
            return agent
        known = self._agents.get(id(agent))
        if known is not None:
            return known[1]
        kind = type(agent)
        # Of the class, and not of the object, so that a clone of the copy is guarded, too.
        of_class = {"__module__": kind.__module__, "stepwarden_guarding": self}
        guarding: Any = type(kind.__name__, (_Guarded, kind), of_class)
        copied = object.__new__(guarding)
        copied.__dict__.update(agent.__dict__)
        # Agents are kept with their copies, so that their ids stay their own.
        self._agents[id(agent)] = agent, copied
        copied.tools = [self.tool(tool) for tool in agent.tools]
        copied.handoffs = agent.handoffs
        return copied

    def model(self, model: Any) -> Any:
        """Return an agent's model, guarded where it is an object; a name is the provider's."""
        is_bare = isinstance(model, Model) and not isinstance(model, GuardedModel)
        return self._models.of(model) if is_bare else model

    def tool(self, tool: Any) -> Any:
        """Return the guarded copy of a function tool; any other, and one whose function is of ours, as it is."""
        if not isinstance(tool, FunctionTool) or hasattr(tool.on_invoke_tool, _MARK):
            return tool
        if is_tool(getattr(tool, "__wrapped__", None)):
            return tool
        return self._tools.of(tool)

    def check(self, tool: Any) -> Any:
        """Refuse a tool whose calls nobody is asked about, where the policy does."""
        if not isinstance(tool, FunctionTool):
            self._gate.ask(tool.name)
        return self.tool(tool)

    def handoff(self, handoff: Any) -> Any:
        """Return what an agent hands off to, guarded."""
        if not isinstance(handoff, Handoff):
            return self.agent(handoff)
        if hasattr(handoff.on_invoke_handoff, _MARK):
            return handoff
        copied, invoke = copy.copy(handoff), handoff.on_invoke_handoff

        @functools.wraps(invoke)
        async def on_invoke_handoff(*args: Any) -> Any:
            return self.agent(await invoke(*args))

        setattr(on_invoke_handoff, _MARK, True)
        copied.on_invoke_handoff = on_invoke_handoff
        return copied


if TYPE_CHECKING:
    _Mixed = Agent[Any]
else:
    # What is mixed in before an agent's class must not bring fields of its own.
    _Mixed = object


class _Guarded(_Mixed):
    """Be the class of a guarded agent, mixed in before the agent's own."""

    stepwarden_guarding: ClassVar[_Guarding]

    # Agents are told of others, and given models, after they were made and in clones, so these are guarded when read.

    @property
    def handoffs(self) -> Any:
        """What the agent hands off to, guarded; what is appended is guarded when it is read next."""
        held = self.__dict__["handoffs"]
        if isinstance(held, list):
            held[:] = map(self.stepwarden_guarding.handoff, held)
        return held

    @handoffs.setter
    def handoffs(self, given: Any) -> None:
        # A list of its own: the user's keeps the agents that the user has.
        self.__dict__["handoffs"] = list(given) if isinstance(given, list) else given

    @property
    def model(self) -> Any:
        """The agent's model, guarded where it is an object."""
        return self.stepwarden_guarding.model(self.__dict__["model"])

    @model.setter
    def model(self, given: Any) -> None:
        self.__dict__["model"] = given

    async def get_all_tools(self, run_context: Any) -> Any:
        """Return the agent's tools and its MCP servers', guarded."""
        return [self.stepwarden_guarding.check(tool) for tool in await super().get_all_tools(run_context)]


def _guarded_tool(tool: FunctionTool, gate: Gate) -> FunctionTool:
    invoke = tool.on_invoke_tool

    def ask(_: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        try:
            gate.ask(tool.name)
        except ToolDeniedError as denied:
            return ToolGuardrailFunctionOutput.reject_content(
                str(refusal(denied)), {"tool": denied.tool, "reason": denied.reason}
            )
        return ToolGuardrailFunctionOutput.allow()

    # Counted only here: a guardrail may be run once more before a call is approved, and another one reject it.
    @functools.wraps(invoke)
    async def on_invoke_tool(*args: Any) -> Any:
        try:
            with gate.open(tool.name):
                return await invoke(*args)
        except (ToolDeniedError, BudgetExceededError) as error:
            told = refusal(error)
            if told is None:
                raise
            return told

    setattr(on_invoke_tool, _MARK, True)
    copied = copy.copy(tool)
    copied.on_invoke_tool = on_invoke_tool
    copied.tool_input_guardrails = [*(tool.tool_input_guardrails or ()), ToolInputGuardrail(ask, name="stepwarden")]
    return copied


def _default_name() -> str | None:
    """Return the step's model by the name that the SDK's providers know: with a slash, and OpenAI's with none."""
    named = default_model()
    if named is None:
        return None
    provider, colon, name = named.partition(":")
    if provider == "openai" and colon:
        return name
    # The other names with a colon are those of models that were fine-tuned.
    return f"{provider}/{name}" if colon and provider != "ft" else named


def _with_guarded_client(model: Model, estimate: Estimate) -> Model | None:
    if not isinstance(model, OpenAIResponsesModel | OpenAIChatCompletionsModel):
        return None
    client = getattr(model, "_client", None)
    # A WebSocket that a client opens is not watched by its guard.
    if isinstance(model, OpenAIResponsesWSModel) or not is_guardable(client):
        return None
    copied = copy.copy(model)
    cast("Any", copied)._client = guard(client, estimate=estimate)  # noqa: SLF001 - where the SDK's models keep it
    return copied


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(ASKED, args, strict=False)), **kwargs}
