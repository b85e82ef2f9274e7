"""LangChain: agents whose models and tools are under the budget and the policy of the step around."""

import asyncio
import contextlib

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain.tools import tool
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

import stepwarden as sw
from stepwarden.integrations.langchain import Guard, StepModel, guarded
from stepwarden.testing import Failure, Reply, ToolCall

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000}}
HELLO = {"messages": [("user", "hello")]}


@pytest.fixture
def make(server):
    """Make a chat model of a name, on the scripted server."""
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(openai.DefaultHttpxClient(verify=False))

        def model(name, **options):
            # Each request has a loop of its own here, so no connection outlives it.
            http_async = openai.DefaultAsyncHttpxClient(verify=False, headers={"connection": "close"})
            return ChatOpenAI(
                model=name.removeprefix("openai:"), base_url=server.base_url, api_key="none",
                http_client=http, http_async_client=http_async, **{"max_retries": 0, **options},
            )  # fmt: skip

        yield model


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Give each way of asking an agent, a graph or a model."""
    if request.param == "sync":
        return lambda asked, *args, **kwargs: asked.invoke(*args, **kwargs)
    return lambda asked, *args, **kwargs: asyncio.run(asked.ainvoke(*args, **kwargs))


@tool
def look(at: int) -> str:
    """Look at something."""
    return f"saw {at}"


@tool
def send(to: str) -> str:
    """Send something."""
    raise AssertionError("the policy keeps this from running")


@tool
@sw.tool(side_effect="read_only")
def count(of: str) -> int:
    """Count the letters."""
    return len(of)


TOOLS = [look, send, count]
THREE_CALLS = [ToolCall("look", {"at": 1}), ToolCall("send", {"to": "x"}), ToolCall("count", {"of": "four"})]


@pytest.fixture
def agent(make):
    """Give a guarded agent with two tools of its own and one of ours."""
    return create_agent(StepModel(resolve=make), TOOLS, middleware=[Guard(side_effects={"look": "read_only"})])


def told(result):
    """Return what was said in the place of tools, and with which status, by their names."""
    return {one.name: (one.status, one.content) for one in result["messages"] if isinstance(one, ToolMessage)}


def test_a_refused_tool_is_not_run_and_the_model_is_told(server, agent, ask):
    """A tool that the step may not use gives an error message with the reason in its place, and the agent goes on."""
    server.enqueue(Reply("", tool_calls=THREE_CALLS))
    with sw.Run() as run, sw.step("s", model="openai:m", side_effect_level="read_only"):
        result = ask(agent, HELLO)
    messages = told(result)
    assert (messages["look"], messages["count"]) == (("success", "saw 1"), ("success", "4"))
    assert messages["send"][0] == "error"
    assert messages["send"][1].startswith("The tool was not run: tool `send` has the side effect network")
    assert result["messages"][-1].text == "ok"
    assert "not run" in str(server.requests[-1].body["messages"])
    (receipt,) = run.receipts
    outcomes = {one.name: one.outcome for one in receipt.tools}
    assert outcomes == {"look": "completed", "send": "denied", "count": "completed"}
    assert (receipt.own.calls, receipt.own.tool_calls) == (2, 2)


def test_a_batch_of_tools_beyond_the_limit_is_not_run(server, agent, ask):
    """`max_tool_calls` counts tools that run at the same time, one of ours only once, and lets not one more through."""
    calls = [ToolCall("look", {"at": at}) for at in range(6)] + [ToolCall("count", {"of": "four"}) for _ in range(6)]
    server.enqueue(Reply("", tool_calls=calls))
    with sw.Run(budget=sw.Budget(max_tool_calls=4)) as run, sw.step("s", model="m"):
        result = ask(agent, HELLO)
    said = [one for one in result["messages"] if isinstance(one, ToolMessage)]
    assert sorted(one.status for one in said) == ["error"] * 8 + ["success"] * 4
    assert run.total.tool_calls == 4
    assert sorted(one.outcome for one in run.receipts[0].tools) == ["completed"] * 4 + ["refused"] * 8


def test_a_refusal_may_be_raised(server, make, ask):
    """With *raises_denied* the error leaves the agent as it is."""
    agent = create_agent(make("m"), TOOLS, middleware=[Guard(raises_denied=True)])
    server.enqueue(Reply("", tool_calls=[ToolCall("send", {"to": "x"})]))
    with sw.Run(policy=sw.Policy(tools=[])), pytest.raises(sw.ToolDeniedError, match="send") as caught:
        ask(agent, HELLO)
    assert caught.value.__cause__ is None
    assert server.count == 1


def test_what_the_provider_runs_itself_is_refused_before_it_is_offered(server, make, ask):
    """No request offers a tool that the policy refuses and that nobody could ask about when it is called."""
    model, search = make("m"), {"type": "web_search"}
    described = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {}}}
    guards = [Guard(), Guard(side_effects={"web_search": "read_only"})]
    refused, allowed = (create_agent(model, [search, described], middleware=[guard]) for guard in guards)
    with sw.Run() as run, sw.step("s", side_effect_level="read_only"):
        with pytest.raises(sw.ToolDeniedError, match="web_search"):
            ask(refused, HELLO)
        ask(allowed, HELLO)
    assert run.total.calls == server.count == 1
    assert [one["type"] for one in server.requests[0].body["tools"]] == ["web_search", "function"]
    assert [(one.name, one.outcome) for one in run.receipts[0].tools] == [("web_search", "denied")]


def test_a_graphs_own_tool_node_is_guarded_by_the_same_object(ask):
    """Where there is no agent, the middleware's methods are what a `ToolNode` is given."""
    guard = Guard(side_effects={"look": "read_only"})
    graph = StateGraph(MessagesState)
    graph.add_node(ToolNode(TOOLS, wrap_tool_call=guard.wrap_tool_call, awrap_tool_call=guard.awrap_tool_call))
    graph.add_edge(START, "tools")
    calls = [{"name": one.name, "args": one.arguments, "id": one.name, "type": "tool_call"} for one in THREE_CALLS]
    with sw.Run(policy=sw.Policy(side_effect_level="read_only")) as run:
        messages = told(ask(graph.compile(), {"messages": [AIMessage("", tool_calls=calls)]}))
    assert {name: status for name, (status, _) in messages.items()} == {
        "look": "success", "send": "error", "count": "success",
    }  # fmt: skip
    assert run.total.tool_calls == 2


def test_each_step_has_its_own_model(server, agent, ask):
    """One agent asks the model of whichever step is open; where none declares one, it says what to do."""
    with sw.Run(prices=PRICES):
        for name in ("openai:small", "large"):
            with sw.step("s", model=name):
                ask(agent, HELLO)
        with pytest.raises(sw.DefinitionError, match="no step or persona around declares a model"):
            ask(agent, HELLO)
    assert [request.body["model"] for request in server.requests] == ["small", "large"]


def test_a_fallback_serves_where_no_step_declares_a_model(server, make, ask):
    """StepModel's own fallback is a name or a chat model, guarded by the agent or by itself."""
    with sw.Run() as run:
        ask(create_agent(StepModel("spare", resolve=make), middleware=[Guard()]), HELLO)
        ask(create_agent(StepModel(make("other")), middleware=[Guard()]), HELLO)
        ask(guarded(StepModel(make("third"))), "hello")
    assert run.total.calls == server.count == 3
    assert [request.body["model"] for request in server.requests] == ["spare", "other", "third"]


@pytest.mark.filterwarnings(
    "ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"
)  # events are in beta, and used
def test_the_steps_model_is_reached_by_every_way_in(server, make):
    """Called, streamed, with tools, in batches and for events, one model is asked, and each request is reserved."""
    model = guarded(StepModel(make("m")))

    async def asynchronously():
        await model.ainvoke("hello")
        assert "".join([piece.text async for piece in model.astream("hello")]) == "ok"
        await model.abatch(["hello", "again"])
        await model.agenerate([[HumanMessage("hello")]])
        events = await model.astream_events("hello", version="v3")
        assert (await events).text == "ok"

    with sw.Run(budget=sw.Budget(max_tokens=99_999)) as run:
        assert "".join(piece.text for piece in model.stream("hello")) == "ok"
        assert model.bind_tools(TOOLS).invoke("hello").text == "ok"
        model.batch(["hello", "again"])
        model.generate([[HumanMessage("hello")]])
        assert model.stream_events("hello", version="v3").output.text == "ok"
        asyncio.run(asynchronously())
    assert run.total.calls == server.count == 12
    assert (run.total.estimated_calls, run.held) == (0, sw.Usage())
    assert {len(request.body.get("tools", ())) for request in server.requests} == {0, 3}


class Weather(BaseModel):
    """What the weather is like."""

    place: str
    degrees: int


@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy])
def test_an_agents_structured_output_is_guarded(server, make, ask, strategy):
    """The request that asks for a schema is bounded and settled like any other, and its answer is read."""
    answer = {"place": "Oslo", "degrees": 7}
    server.enqueue(
        Reply('{"place": "Oslo", "degrees": 7}', input_tokens=9, output_tokens=8)
        if strategy is ProviderStrategy
        else Reply("", tool_calls=[ToolCall("Weather", answer)], input_tokens=9, output_tokens=8)
    )
    agent = create_agent(StepModel(make("m")), response_format=strategy(Weather), middleware=[Guard()])
    with sw.Run(budget=sw.Budget(max_output_tokens=40)) as run:
        assert ask(agent, HELLO)["structured_response"] == Weather(**answer)
    assert (run.total.calls, run.total.input_tokens, run.total.output_tokens) == (1, 9, 8)
    assert server.requests[0].body["max_completion_tokens"] == 40
    assert run.total.tool_calls == 0


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_models_structured_output_is_guarded(server, make, ask, method):
    """`with_structured_output` of a guarded model goes out guarded."""
    server.default = (
        Reply('{"place": "Oslo", "degrees": 7}')
        if method == "json_schema"
        else Reply("", tool_calls=[ToolCall("Weather", {"place": "Oslo", "degrees": 7})])
    )
    with sw.Run(budget=sw.Budget(max_calls=1)) as run:
        asked = guarded(make("m")).with_structured_output(Weather, method=method)
        assert ask(asked, "hello").place == "Oslo"
        with pytest.raises(sw.BudgetExceededError):
            ask(asked, "hello")
    assert run.total.calls == server.count == 1


def test_a_model_that_falls_in_is_guarded_too(server, make, ask):
    """What a fallback middleware before the guard puts in is reserved, and what failed before it is not charged."""
    server.enqueue(Failure(400), Reply(input_tokens=3, output_tokens=2))
    agent = create_agent(make("first"), middleware=[ModelFallbackMiddleware(make("second")), Guard()])
    with sw.Run(budget=sw.Budget(max_tokens=9_000)) as run:
        ask(agent, HELLO)
    assert [request.body["model"] for request in server.requests] == ["first", "second"]
    assert (run.total.calls, run.total.total_tokens, run.held, run.uncertain) == (1, 5, sw.Usage(), sw.Usage())


def test_a_fallback_does_not_get_around_a_budget(server, make, ask):
    """When there is no room for the first model there is none for the next, and the last refusal is ours."""
    agent = create_agent(make("first"), middleware=[ModelFallbackMiddleware(make("second")), Guard()])
    chain = guarded(make("first")).with_fallbacks([guarded(make("second"))])
    with sw.Run(budget=sw.Budget(max_tokens=5)):
        for asked, said in ((agent, HELLO), (chain, "hello")):
            with pytest.raises(sw.BudgetExceededError):
                ask(asked, said)
    assert server.count == 0


def test_a_budget_that_ends_in_the_middle_of_an_agent_stops_it(server, agent, ask):
    """The next request of an agent is refused with the step's own error, which its boundary absorbs."""
    server.default = Reply("", tool_calls=[ToolCall("look", {"at": 1})])
    budget = sw.Budget(max_calls=3)
    with sw.Run() as run:
        with sw.step("s", model="m", budget=budget, error_boundary="continue"):
            ask(agent, HELLO)
        with sw.step("s", model="m", budget=budget), pytest.raises(sw.BudgetExceededError) as caught:
            ask(agent, HELLO)
    assert (caught.value.limit, caught.value.phase, caught.value.__cause__) == ("max_calls", "reserve", None)
    assert server.count == run.total.calls == 6
    assert [receipt.status for receipt in run.receipts] == [sw.Status.SKIPPED, sw.Status.COMPLETED]


def test_guards_on_one_another_take_one_hold_for_each_request(server, make, ask):
    """A guarded SDK, a guarded client, a guarded model and a guarded agent together reserve each request once."""
    server.enqueue(Failure(500, retry_after=0.01))
    model = guarded(guarded(make("m", max_retries=1)))
    sw.install("openai")
    try:
        with sw.Run(budget=sw.Budget(max_calls=4, max_tokens=9_999)) as run:
            for asked in (create_agent(model, middleware=[Guard()]), create_agent(guarded(make("m")))):
                ask(asked, HELLO)
            ask(make("m"), "hello")
            with pytest.raises(sw.BudgetExceededError):
                ask(model, "hello")
    finally:
        sw.uninstall("openai")
    assert run.total.calls == server.count == 4
    assert (run.total.estimated_calls, run.held) == (1, sw.Usage())


def test_the_model_that_was_given_stays_as_it_was(server, make, ask):
    """`guarded` gives a copy of the same class; what was given sends what it is told to."""
    plain = make("m")
    copied = guarded(plain)
    assert isinstance(copied, ChatOpenAI)
    with sw.Run(budget=sw.Budget(max_tokens=0)):
        ask(plain, "hello")
        with pytest.raises(sw.BudgetExceededError):
            ask(copied, "hello")
    assert server.count == 1


def test_what_only_holds_a_model_is_not_guarded(make):
    """Neither a binding nor a chain is taken for a model: what they hold is to be guarded before."""
    with pytest.raises(TypeError, match="takes a chat model, not _ChatModelBinding; guard the model before tools"):
        guarded(make("m").bind_tools(TOOLS))


def test_an_unknown_level_is_refused():
    """A side effect that there is not is a DefinitionError that names the tool."""
    with pytest.raises(sw.DefinitionError, match=r"Guard.side_effects\['look'\]"):
        Guard(side_effects={"look": "reading"})


class Speaking(BaseChatModel):
    """Be a model of no SDK."""

    model: str = "m"
    max_tokens: int = 30
    reports: bool = True

    def _generate(self, messages, stop=None, run_manager=None, *, max_tokens=None, **kwargs):
        message = AIMessage("x" * (max_tokens or self.max_tokens), usage_metadata=self.usage(max_tokens))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def usage(self, limit):
        """Report the usage of a reply that is as long as it may be."""
        output = limit or self.max_tokens
        details = {"input_token_details": {"cache_read": 2}, "output_token_details": {"reasoning": 1}}
        whole = {"input_tokens": 7, "output_tokens": output, "total_tokens": 7 + output, **details}
        return whole if self.reports else None

    @property
    def _llm_type(self):
        return "speaking"


class Streaming(Speaking):
    """Be one that streams."""

    def _stream(self, messages, stop=None, run_manager=None, *, max_tokens=None, **kwargs):
        for _ in range(max_tokens or self.max_tokens):
            yield ChatGenerationChunk(message=AIMessageChunk("word "))
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=self.usage(max_tokens)))


class Awaited(Streaming):
    """Be one that streams without blocking, too."""

    async def _astream(self, messages, stop=None, run_manager=None, *, max_tokens=None, **kwargs):
        for chunk in self._stream(messages, max_tokens=max_tokens):
            yield chunk


def test_a_model_of_no_sdk_is_guarded_request_by_request(ask):
    """Any chat model is reserved, limited and settled, though nobody knows its client."""
    agent = create_agent(Speaking(), middleware=[Guard()])
    with sw.Run(budget=sw.Budget(max_output_tokens=25), prices=PRICES) as run, sw.step("s"):
        assert len(ask(agent, HELLO)["messages"][-1].text) == 25
        with pytest.raises(sw.BudgetExceededError):
            ask(agent, HELLO)
    assert run.receipts[0].own == sw.Usage(
        input_tokens=7, output_tokens=25, cache_read_tokens=2, reasoning_tokens=1, cost_usd=57, calls=1
    )


@pytest.mark.parametrize("kind", [Speaking, Streaming, Awaited])
@pytest.mark.parametrize("reports", [True, False])
def test_a_stream_of_no_sdk_is_settled_by_what_came(kind, reports):
    """Read out or left early, a stream is settled by what it reports or what has arrived, and nothing stays held."""
    model = guarded(kind(reports=reports))

    async def scenario(pieces, *, is_async):
        async with sw.Run(budget=sw.Budget(max_output_tokens=20)) as run:
            stream = model.astream("hello") if is_async else model.stream("hello")
            for _ in range(pieces):
                if (await anext(stream, None) if is_async else next(stream, None)) is None:
                    break
            await stream.aclose() if is_async else stream.close()
            while run.held != sw.Usage():  # noqa: ASYNC110 - nothing tells when LangChain's generators are closed
                await asyncio.sleep(0)
        return run.total

    for is_async in (False, True):
        whole, left = (asyncio.run(scenario(pieces, is_async=is_async)) for pieces in (99, 3))
        assert (whole.calls, left.calls) == (1, 1)
        if reports:
            assert (whole.input_tokens, whole.output_tokens, whole.estimated_calls) == (7, 20, 0)
        assert whole.estimated_calls == (0 if reports else 1)
        assert 0 < left.output_tokens <= whole.output_tokens
        if kind is not Speaking:
            assert (left.estimated_calls, left.output_tokens) == (1, 5)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_of_no_sdk_is_ended_at_max_seconds(clock, is_async):
    """When `max_seconds` is over, the error that ends the stream carries the text that was received."""
    model = guarded(Awaited())

    async def scenario():
        said = []
        with sw.Run(budget=sw.Budget(max_seconds=600)) as run, pytest.raises(sw.BudgetExceededError) as caught:
            stream = model.astream("hello") if is_async else model.stream("hello")
            while True:
                said.append((await anext(stream) if is_async else next(stream)).text)
                if len(said) == 3:
                    clock.advance(601)
        return caught.value, run

    error, run = asyncio.run(scenario())
    assert (error.limit, error.phase) == ("max_seconds", "deadline")
    assert error.partial.startswith("word word word ")
    assert (run.total.calls, run.total.estimated_calls, run.held) == (1, 1, sw.Usage())


class Failing(Awaited):
    """Be one whose server is never reached."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        raise ConnectionRefusedError

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        raise ConnectionRefusedError
        yield


def test_a_call_of_no_sdk_that_was_never_made_costs_nothing():
    """A failure of which the table says that nothing was sent gives the hold back, streamed or not."""
    model = guarded(Failing())

    async def scenario():
        with sw.Run(budget=sw.Budget(max_tokens=900)) as run:
            for asked in (model.invoke, lambda said: next(model.stream(said))):
                with pytest.raises(ConnectionRefusedError):
                    asked("hello")
            for asked in (model.ainvoke, lambda said: anext(model.astream(said))):
                with pytest.raises(ConnectionRefusedError):
                    await asked("hello")
        return run

    run = asyncio.run(scenario())
    assert (run.total, run.held, run.uncertain) == (sw.Usage(), sw.Usage(), sw.Usage())


def test_what_an_agent_streams_is_guarded(server, agent):
    """An agent that streams its model's tokens is settled by what the stream reports."""
    server.default = Reply("a longer reply", input_tokens=9, output_tokens=4)

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_tokens=900)) as run, sw.step("s", model="m"):
            pieces = [piece async for piece, _ in agent.astream(HELLO, stream_mode="messages")]
            pieces += [piece for piece, _ in agent.stream(HELLO, stream_mode="messages")]
        return "".join(piece.text for piece in pieces if isinstance(piece, AIMessageChunk)), run.total

    said, total = asyncio.run(scenario())
    assert said == "a longer reply" * 2
    assert (total.calls, total.estimated_calls, total.input_tokens, total.output_tokens) == (2, 0, 18, 8)


def test_input_is_estimated_as_the_user_says(server, make, ask):
    """A function of the user's estimates requests on the wire, and those of a model of no SDK, alone and in an agent."""
    asked = []

    def estimate(request):
        asked.append(request["messages"][-1]["content"])
        return 41

    other = Speaking()
    with sw.Run(budget=sw.Budget(max_input_tokens=40)):
        for model in (make("m"), other):
            agent = create_agent(model, [], middleware=[Guard(estimate=estimate)])
            for way, question in ((guarded(model, estimate=estimate), "hello"), (agent, HELLO)):
                with pytest.raises(sw.BudgetExceededError) as caught:
                    ask(way, question)
                assert caught.value.requested == 41
    assert (asked, server.count) == (["hello"] * 4, 0)


def test_an_estimate_that_is_none_or_another_one_is_refused():
    """A misspelt estimate is an error, and so is another one for a model that is guarded already."""
    with pytest.raises(sw.DefinitionError, match="estimate must be"):
        Guard(estimate="most")
    bounded = guarded(Speaking(), estimate="upper_bound")
    assert guarded(bounded) is guarded(bounded, estimate="upper_bound") is bounded
    with pytest.raises(sw.DefinitionError, match="guarded already"):
        guarded(guarded(Speaking()), estimate="upper_bound")
