"""openai-agents: runs whose models and tools are under the budget and the policy of the step around."""

import json

import httpx2
import openai
import pytest
from agents import (
    Agent,
    FunctionTool,
    Model,
    ModelResponse,
    OpenAIProvider,
    RunConfig,
    Runner,
    Usage,
    UserError,
    WebSearchTool,
    function_tool,
    handoff,
)
from agents.mcp import MCPServerStdio
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

import stepwarden as sw
from stepwarden.integrations.openai_agents import GuardedModel, GuardedProvider, guarded
from stepwarden.testing import Failure, Reply, ToolCall
from tests.integrations.faces import play

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000}}
SERVER = """
from mcp.server import MCPServer
server = MCPServer("s", log_level="ERROR")
@server.tool()
def look() -> str:
    return "seen"
server.run()
"""


@function_tool
def look(at: int) -> str:
    """Look."""
    return f"saw {at}"


@function_tool
def send(to: str) -> str:
    """Send."""
    return f"sent to {to}"


@function_tool
@sw.tool(side_effect="read_only")
def count(of: str) -> int:
    """Count."""
    return len(of)


@pytest.fixture
def provider(server):
    """Give the SDK's own provider, on the scripted server."""
    # Each run has a loop of its own here, so no connection outlives it.
    http = openai.DefaultAsyncHttpxClient(verify=False, limits=httpx2.Limits(max_keepalive_connections=0))
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key="none", http_client=http)
    return OpenAIProvider(openai_client=client)


@pytest.fixture
def run(provider):
    """Run an agent under a guarded provider, to its end."""
    config = RunConfig(model_provider=GuardedProvider(provider), tracing_disabled=True)

    async def run_out(agent, asked="hello"):
        return await Runner.run(agent, asked, run_config=config)

    return run_out


def agent(*tools, **options):
    """Make a guarded agent."""
    return guarded(Agent("a", tools=list(tools), **options), side_effects={"look": "read_only"})


def returned(result):
    """Return what the tools of a run returned, in order."""
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]


def test_a_refused_tool_is_not_run_and_the_model_is_told(server, run):
    """A tool that the step may not use is rejected by a guardrail, which tells the model why, and the agent goes on."""
    asked = [ToolCall("look", {"at": 1}), ToolCall("send", {"to": "x"}), ToolCall("count", {"of": "four"})]
    server.enqueue(Reply("", tool_calls=asked))

    async def scenario():
        async with sw.Run() as outer, sw.step("s", model="openai:m", side_effect_level="read_only"):
            return await run(agent(look, send, count)), outer

    result, outer = play(scenario)
    looked, sent, counted = returned(result)
    assert (looked, counted) == ("saw 1", 4)
    assert sent.startswith("The tool was not run: tool `send` has the side effect network")
    assert [one.output.behavior["type"] for one in result.tool_input_guardrail_results].count("reject_content") == 1
    assert "The tool was not run" in json.dumps(server.requests[1].body)
    assert sorted((tool.name, tool.outcome) for tool in outer.receipts[0].tools) == [
        ("count", "completed"), ("look", "completed"), ("send", "denied"),
    ]  # fmt: skip
    assert outer.total.tool_calls == 2


def test_a_batch_of_tools_beyond_the_limit_is_not_run(server, run):
    """Of a batch that is called at the same time, as many run as there is room for; the model is told of the others."""
    server.enqueue(Reply("", tool_calls=[ToolCall("look", {"at": at}) for at in range(5)]))

    async def scenario():
        async with sw.Run() as outer, sw.step("s", model="openai:m", budget=sw.Budget(max_tool_calls=2)):
            return await run(agent(look)), outer

    result, outer = play(scenario)
    told = [text for text in returned(result) if "not run" in text]
    assert len(told) == 3
    assert all("has no room in max_tool_calls" in text for text in told)
    assert outer.total.tool_calls == 2


def test_the_agents_handed_off_to_are_guarded_too(server, run):
    """A hand-off, however it is declared, leads to a guarded agent, and agents that hand off in a circle still do."""
    first, second = Agent("first"), Agent("second", tools=[send])
    first.handoffs, second.handoffs = [second], [handoff(first)]
    first.tools = [look]
    server.enqueue(
        Reply("", tool_calls=[ToolCall("transfer_to_second", {})]),
        Reply("", tool_calls=[ToolCall("send", {"to": "x"})]),
        Reply("", tool_calls=[ToolCall("transfer_to_first", {})]),
        Reply("", tool_calls=[ToolCall("look", {"at": 1})]),
    )

    async def scenario():
        async with sw.Run() as outer, sw.step("s", model="openai:m", tools=["look"]):
            return await run(guarded(first)), outer

    result, outer = play(scenario)
    assert [(tool.name, tool.outcome) for tool in outer.receipts[0].tools] == [
        ("send", "denied"),
        ("look", "completed"),
    ]
    assert result.last_agent.name == "first"
    assert (first.tools, second.tools, first.handoffs) == ([look], [send], [second])


@pytest.mark.parametrize("how", ["appended", "set", "cloned", "declared and cloned"])
def test_an_agent_named_later_is_guarded_too(server, run, how):
    """What a guarded agent, or a clone of one, is told to hand off to afterwards has its tools under the policy."""
    second = Agent("second", tools=[send])
    first = agent()
    theirs = [handoff(second)] if how == "declared and cloned" else [second]
    if how == "appended":
        first.handoffs.append(second)
    elif how == "set":
        first.handoffs = theirs
    else:
        first = first.clone(handoffs=theirs).clone()
    server.enqueue(
        Reply("", tool_calls=[ToolCall("transfer_to_second", {})]),
        Reply("", tool_calls=[ToolCall("send", {"to": "x"})]),
    )

    async def scenario():
        async with sw.Run() as outer, sw.step("s", model="openai:m", tools=["look"]):
            return await run(first), outer

    result, outer = play(scenario)
    assert result.last_agent.name == "second"
    assert [(tool.name, tool.outcome) for tool in outer.receipts[0].tools] == [("send", "denied")]
    assert second.tools == [send]
    assert theirs[0] is second or how == "declared and cloned"


@pytest.mark.parametrize("how", ["set", "cloned"])
def test_a_model_given_later_is_guarded_too(server, run, provider, how):
    """A model object that a guarded agent, or a clone of one, is given afterwards asks only under the budget."""
    first = agent()
    if how == "set":
        first.model = provider.get_model("m")
    else:
        first = first.clone(model=provider.get_model("m"))

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_calls=1)) as outer:
            await run(first)
            with pytest.raises(sw.BudgetExceededError):
                await run(first)
        return outer

    assert play(scenario).total.calls == server.count == 1


def test_tools_of_mcp_servers_are_guarded_too(server, run, tmp_path):
    """What an agent's MCP server offers is under the policy like its own tools."""
    import sys

    server.enqueue(Reply("", tool_calls=[ToolCall("look", {})]))
    (tmp_path / "served.py").write_text(SERVER)

    async def scenario():
        async with MCPServerStdio({"command": sys.executable, "args": [str(tmp_path / "served.py")]}) as tools:
            async with sw.Run() as outer, sw.step("s", model="openai:m", tools=[]):
                result = await run(agent(mcp_servers=[tools]))
        return result, outer

    result, outer = play(scenario)
    assert "not among the allowed tools" in returned(result)[0]
    assert [(tool.name, tool.outcome) for tool in outer.receipts[0].tools] == [("look", "denied")]


def test_an_approved_tool_is_counted_once(server, run):
    """A call that waits for approval is counted when it runs, and by the limit of that time."""
    server.enqueue(Reply("", tool_calls=[ToolCall("pay", {"sum": 1})]))

    @function_tool(needs_approval=True)
    def pay(sum: int) -> str:  # noqa: A002 - the tool's own word
        """Pay."""
        return "paid"

    async def scenario():
        async with sw.Run() as outer, sw.step("s", model="openai:m"):
            result = await run(agent(pay))
            before = outer.total.tool_calls
            state = result.to_state()
            state.approve(result.interruptions[0])
            return before, await run(result.last_agent, state), outer

    before, result, outer = play(scenario)
    assert (before, outer.total.tool_calls) == (0, 1)
    assert returned(result) == ["paid"]


def test_what_the_provider_runs_itself_is_refused_before_it_is_offered(server, run):
    """No request offers a tool that the policy refuses and that nobody could ask about when it is called."""

    async def scenario():
        async with sw.Run() as outer, sw.step("s", model="openai:m", side_effect_level="read_only"):
            with pytest.raises(sw.ToolDeniedError, match="web_search"):
                await run(agent(WebSearchTool()))
            await run(guarded(Agent("a", tools=[WebSearchTool()]), side_effects={"web_search": "read_only"}))
        return outer

    assert play(scenario).total.calls == server.count == 1


def test_each_step_has_its_own_model(server, run):
    """An agent without a model asks that of the step in which it is asked; a name of its own is its own."""

    async def scenario():
        plain = Agent("a")
        async with sw.Run():
            for model in ("openai:m", "n", "ft:gpt-4o:us::1"):
                async with sw.step("s", model=model):
                    await run(plain)
                    await run(Agent("b", model="own"))

    play(scenario)
    assert [request.body["model"] for request in server.requests] == ["m", "own", "n", "own", "ft:gpt-4o:us::1", "own"]


def test_a_refusal_leaves_the_run_unchanged(server, run):
    """What a budget refuses is not sent, and leaves `Runner.run` as our error, whole and streamed; a boundary takes it."""

    @sw.step(model="openai:m", budget=sw.Budget(max_calls=1), error_boundary="continue", fallback="fell back")
    async def twice():
        await run(Agent("a"))
        await run(Agent("a"))

    async def scenario():
        async with sw.Run():
            return await twice()

    assert play(scenario) == "fell back"
    assert server.count == 1


def test_a_streamed_run_is_guarded(server, provider):
    """A streamed run is granted its limit, settled by its usage, and refused with our error."""
    server.default = Reply("one two three", input_tokens=7, output_tokens=3)
    config = RunConfig(model_provider=GuardedProvider(provider), tracing_disabled=True)

    async def stream():
        streamed = Runner.run_streamed(Agent("a", model="m"), "hello", run_config=config)
        return [event async for event in streamed.stream_events()]

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_output_tokens=18)) as run:
            await stream()
            with pytest.raises(sw.BudgetExceededError) as caught:
                await stream()
        return run, caught.value

    run, error = play(scenario)
    assert (error.limit, error.phase, server.count) == ("max_output_tokens", "reserve", 1)
    assert server.requests[0].body["max_output_tokens"] == 18
    assert (run.total, run.held) == (
        sw.Usage(input_tokens=7, output_tokens=3, calls=1, unpriced_calls=1), sw.Usage(),
    )  # fmt: skip


def test_the_sdks_own_retries_are_reserved(server, run):
    """A client's retries take a hold each."""
    server.enqueue(Failure(500, retry_after=0.01))

    async def scenario():
        async with sw.Run() as outer:
            await run(Agent("a", model="m"))
        return outer.total

    total = play(scenario)
    assert (server.count, total.calls, total.estimated_calls) == (2, 2, 1)


class Parrot(Model):
    """Be a model of nobody's client, which says what it was allowed."""

    def __init__(self, usage):
        self.model = "m"
        self.usage = usage
        self.limits = []

    async def get_response(self, system_instructions, input, model_settings, *rest, **kwargs):  # noqa: A002 - its name
        self.limits.append(model_settings.max_tokens)
        said = ResponseOutputText(text="word " * 6, type="output_text", annotations=[])
        message = ResponseOutputMessage(id="1", content=[said], role="assistant", status="completed", type="message")
        return ModelResponse(output=[message], usage=self.usage, response_id=None)

    async def stream_response(self, system_instructions, input, model_settings, *rest, **kwargs):  # noqa: A002
        from openai.types.responses import ResponseTextDeltaEvent

        self.limits.append(model_settings.max_tokens)
        for at in range(6):
            yield ResponseTextDeltaEvent(
                content_index=0, delta="word ", item_id="1", output_index=0, sequence_number=at, logprobs=[],
                type="response.output_text.delta",
            )  # fmt: skip


def test_a_model_of_no_sdk_is_guarded_request_by_request():
    """A model that an agent is given as an object is reserved, limited and settled; without usage, it is estimated."""
    told = Parrot(Usage(requests=1, input_tokens=10, output_tokens=4, total_tokens=14))
    untold = Parrot(Usage())
    config = RunConfig(tracing_disabled=True)

    async def scenario():
        async with sw.Run(prices=PRICES, budget=sw.Budget(max_output_tokens=200, max_usd=1_000)) as run:
            await Runner.run(guarded(Agent("a", model=told)), "hello", run_config=config)
            first = run.total
            await Runner.run(guarded(Agent("a", model=GuardedModel(untold))), "hello", run_config=config)
        return first, run

    first, run = play(scenario)
    assert first == sw.Usage(input_tokens=10, output_tokens=4, cost_usd=18, calls=1)
    assert (told.limits, untold.limits) == ([200], [196])
    assert (run.total.calls, run.total.estimated_calls, run.held) == (2, 1, sw.Usage())
    assert run.total.output_tokens > 4


def test_a_stream_of_no_sdk_is_settled_by_what_came():
    """A stream that reports nothing is counted from what arrived, also when it is left early."""
    parrot = Parrot(Usage())

    async def scenario():
        from agents import ModelSettings

        async with sw.Run(budget=sw.Budget(max_output_tokens=300)) as run:
            async for _ in GuardedModel(parrot).stream_response(
                None, "hi", ModelSettings(max_tokens=50), [], None, [], None
            ):
                pass
            whole = run.total
            events = GuardedModel(parrot).stream_response(None, "hi", ModelSettings(), [], None, [], None)
            await anext(events)
            await events.aclose()
        return whole, run

    whole, run = play(scenario)
    assert parrot.limits == [50, 290]
    assert (whole.output_tokens, whole.estimated_calls) == (10, 1)
    assert (run.total.output_tokens, run.total.calls, run.held) == (12, 2, sw.Usage())


def test_input_is_estimated_as_the_user_says(server, provider):
    """A function of the user's estimates requests on the wire, and those of a model of no SDK."""
    asked = []

    def estimate(request):
        asked.append(request["input"] if isinstance(request["input"], str) else request["input"][0]["content"])
        return 41

    parrot = Parrot(Usage())

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_input_tokens=40)):
            config = RunConfig(model_provider=GuardedProvider(provider, estimate=estimate), tracing_disabled=True)
            agents = [Agent("a", model=model) for model in ("m", GuardedModel(parrot, estimate=estimate))]
            for one in (*agents, guarded(Agent("a", model=parrot), estimate=estimate)):
                with pytest.raises(sw.BudgetExceededError) as caught:
                    await Runner.run(one, "hello", run_config=config)
                assert caught.value.requested == 41

    play(scenario)
    assert (asked, server.count, parrot.limits) == (["hello"] * 3, 0, [])
    for guard in (GuardedProvider, lambda _, estimate: guarded(Agent("a"), estimate=estimate)):
        with pytest.raises(sw.DefinitionError, match="estimate must be"):
            guard(provider, estimate="most")


def test_an_error_within_a_tool_is_the_tools_own(server, run):
    """What a tool raises is told or raised as the SDK does; our own error for a call within it is not taken for a refusal."""

    async def spend(context, arguments):
        sw.record_usage(input_tokens=100)

    tool = FunctionTool("spend", "Spend.", {"type": "object", "properties": {}}, spend, strict_json_schema=False)
    server.enqueue(Reply("", tool_calls=[ToolCall("spend", {})]))

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_input_tokens=90)) as outer, sw.step("s", model="openai:m"):
            with pytest.raises(UserError) as caught:
                await run(agent(tool))
        return caught.value, outer

    error, outer = play(scenario)
    assert isinstance(error.__cause__, sw.BudgetExceededError)
    assert [(tool.name, tool.outcome) for tool in outer.receipts[0].tools] == [("spend", "failed")]


def test_an_agent_is_guarded_once(server, run):
    """Guarding again changes nothing, and a clone of a guarded agent is guarded."""
    once = agent(look)
    assert guarded(once) is once
    server.enqueue(Reply("", tool_calls=[ToolCall("look", {"at": 1}), ToolCall("send", {"to": "x"})]))

    async def scenario():
        async with sw.Run() as outer, sw.step("s", model="openai:m"):
            await run(once.clone(tools=[*once.tools, send]))
        return outer.total

    assert play(scenario).tool_calls == 2


def test_an_unknown_level_is_refused():
    """A side effect that is none is an error that names the tool."""
    with pytest.raises(sw.DefinitionError, match=r"guarded.side_effects\['look'\]"):
        guarded(Agent("a"), side_effects={"look": "reading"})
