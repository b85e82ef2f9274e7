"""Agents with every guard that they can have at once: a request is one hold, and a tool's call is one call."""

import contextlib
from dataclasses import dataclass

import openai
import pytest
from agents import Agent as RunnersAgent
from agents import OpenAIProvider as RunnersProvider
from agents import RunConfig, Runner, function_tool
from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from mcp.server import MCPServer
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import stepwarden as sw
from stepwarden.integrations import langchain, openai_agents, pydantic_ai
from stepwarden.integrations.mcp import GuardedClient
from stepwarden.testing import Failure, Reply, ToolCall
from tests.integrations.faces import play

LEVELS = {"look": "read_only"}


@dataclass(frozen=True)
class Below:
    """Be what agents are made of: a guarded client of the SDK, and a guarded client of an MCP server."""

    client: openai.AsyncOpenAI
    sync: openai.OpenAI
    mcp: GuardedClient

    async def look(self, at: int) -> str:
        """Look, where the server does."""
        return (await self.mcp.call_tool("look", {"at": at})).content[0].text


@contextlib.asynccontextmanager
async def opened(server, **options):
    """Open both clients, with the SDK installed as well."""
    served = MCPServer("s", log_level="CRITICAL")
    served.tool(name="look")(lambda at: f"saw {at}")
    sw.install("openai")
    try:
        # Nothing here is encrypted, and loading certificates takes longer than all else.
        http, http_sync = openai.DefaultAsyncHttpxClient(verify=False), openai.DefaultHttpxClient(verify=False)
        given = {"base_url": server.base_url, "api_key": "none"}
        async with openai.AsyncOpenAI(http_client=http, **given) as client:
            with openai.OpenAI(http_client=http_sync, **given) as sync:
                async with GuardedClient(served, **{"side_effects": LEVELS, **options}) as mcp:
                    yield Below(sw.guard(client), sw.guard(sync), mcp)
    finally:
        sw.uninstall("openai")


def of_pydantic_ai(below):
    """Make an agent of pydantic-ai's with its guard, of a guarded model of the step's."""

    def make(name):
        return OpenAIChatModel(name.removeprefix("openai:"), provider=OpenAIProvider(openai_client=below.client))

    model = pydantic_ai.GuardedModel(pydantic_ai.StepModel(resolve=make))
    agent = Agent(model, capabilities=[pydantic_ai.Guard(side_effects=LEVELS)])
    agent.tool_plain(name="look")(below.look)

    async def ask():
        return (await agent.run("hello")).output

    return ask


def of_langchain(below):
    """Make an agent of LangChain's with a guard, of a guarded model of the step's, whose models are guarded too."""

    def make(name):
        clients = {"root_async_client": below.client, "root_client": below.sync}
        resources = {"async_client": below.client.chat.completions, "client": below.sync.chat.completions}
        return langchain.guarded(ChatOpenAI(model=name.removeprefix("openai:"), api_key="none", **clients, **resources))

    model = langchain.guarded(langchain.StepModel(resolve=make))
    agent = create_agent(model, [tool("look")(below.look)], middleware=[langchain.Guard(side_effects=LEVELS)])

    async def ask():
        return (await agent.ainvoke({"messages": [("user", "hello")]}))["messages"][-1].text

    return ask


def of_openai_agents(below):
    """Make an agent of openai-agents that is guarded twice, from a guarded provider of a guarded provider."""
    looking = function_tool(below.look, name_override="look")
    agent = openai_agents.guarded(RunnersAgent("a", tools=[looking]), side_effects=LEVELS)
    agent = openai_agents.guarded(agent, side_effects=LEVELS)
    provider = RunnersProvider(openai_client=below.client, use_responses=False)
    provider = openai_agents.GuardedProvider(openai_agents.GuardedProvider(provider))
    config = RunConfig(model_provider=provider, tracing_disabled=True)

    async def ask():
        return (await Runner.run(agent, "hello", run_config=config)).final_output

    return ask


def in_a_node(make):
    """Put an agent of another framework's into a graph of LangGraph's."""

    def made(below):
        ask = make(below)

        async def node(state: MessagesState):
            return {"messages": [("ai", await ask())]}

        graph = StateGraph(MessagesState)
        graph.add_node("node", node)
        graph.add_edge(START, "node")
        compiled = graph.compile()

        async def ask_graph():
            return (await compiled.ainvoke({"messages": []}))["messages"][-1].text

        return ask_graph

    return made


def in_a_guarded_call(make):
    """Put an agent into a call that is guarded itself."""

    def made(below):
        return sw.guarded_call(
            estimate=lambda: {"input_tokens": 40, "output_tokens": 40},
            settle=lambda said: {"input_tokens": 999, "output_tokens": 999},
        )(make(below))

    return made


AGENTS = {
    "pydantic-ai": of_pydantic_ai,
    "langchain": of_langchain,
    "openai-agents": of_openai_agents,
    "pydantic-ai in a node": in_a_node(of_pydantic_ai),
    "openai-agents in a node": in_a_node(of_openai_agents),
    "pydantic-ai in a guarded call": in_a_guarded_call(of_pydantic_ai),
    "langchain in a guarded call": in_a_guarded_call(of_langchain),
    "openai-agents in a guarded call": in_a_guarded_call(of_openai_agents),
}


@pytest.fixture(params=AGENTS)
def make(request):
    """Give each way to make an agent in turn."""
    return AGENTS[request.param]


def test_a_request_through_every_guard_is_one_hold_and_a_tool_one_call(server, make):
    """Holds taken are requests that arrived, retries included; a tool that passes a call on is counted once."""
    calls = [ToolCall("look", {"at": 1}), ToolCall("look", {"at": 2})]
    server.enqueue(Failure(500, retry_after=0.01), Reply("", tool_calls=calls), Reply("done"))

    async def scenario():
        async with opened(server) as below:
            ask = make(below)
            budget = sw.Budget(max_calls=3, max_tool_calls=2, max_tokens=99_999)
            async with sw.Run(budget=budget) as run, sw.step("s", model="openai:m", side_effect_level="read_only"):
                assert await ask() == "done"
                assert run.held == sw.Usage()
                with pytest.raises(sw.BudgetExceededError, match="max_calls"):
                    await ask()
        return run

    run = play(scenario)
    assert run.total.calls == server.count == 3
    assert (run.total.estimated_calls, run.uncertain.calls, run.held) == (1, 0, sw.Usage())
    assert run.total.output_tokens == server.usage.output_tokens
    assert run.total.tool_calls == 2
    assert [(one.name, one.outcome) for one in run.receipts[0].tools] == [("look", "completed")] * 2


def test_what_passes_a_call_on_asks_the_policy_too(server, make):
    """A client of a server that says a tool may do more than the agent says refuses it, and the model is told."""
    server.enqueue(Reply("", tool_calls=[ToolCall("look", {"at": 1})]), Reply("done"))

    async def scenario():
        async with opened(server, side_effects={"look": "workspace_write"}) as below:
            async with sw.Run() as run, sw.step("s", model="openai:m", side_effect_level="read_only"):
                assert await make(below)() == "done"
        return run

    run = play(scenario)
    assert run.total.tool_calls == 1
    assert [(one.name, one.outcome) for one in run.receipts[0].tools] == [("look", "denied"), ("look", "completed")]
    assert "has the side effect workspace_write" in str(server.requests[-1].body)


def test_a_second_call_that_a_tool_passes_on_is_a_call_of_its_own(server):
    """Only the first call of its own name is the tool's: a limit is not passed by a tool that calls again."""

    async def scenario():
        async with opened(server) as below:

            async def look(at: int) -> str:
                return "".join([await below.look(at), await below.look(at)])

            agent = Agent(
                OpenAIChatModel("m", provider=OpenAIProvider(openai_client=below.client)),
                capabilities=[pydantic_ai.Guard(side_effects=LEVELS)],
            )
            agent.tool_plain(name="look")(look)
            server.enqueue(Reply("", tool_calls=[ToolCall("look", {"at": 1})]), Reply("done"))
            async with sw.Run(budget=sw.Budget(max_tool_calls=5)) as run:
                await agent.run("hello")
        return run

    assert play(scenario).total.tool_calls == 2
