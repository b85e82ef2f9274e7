"""What a guard adds to one call of each framework, on the scripted server; as in `guard`, which tells how."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import stepwarden as sw
from benchmarks.guard import (
    MAX_TOKENS,
    MODEL,
    QUESTION,
    REPLY,
    SYSTEM,
    AsyncCall,
    Call,
    Case,
    compare,
    compare_async,
)
from stepwarden.testing import ScriptedModel


def cases(repetitions: int) -> list[Case]:
    """Measure each framework.

    Args:
        repetitions: How many calls of each kind a round has.
    """
    with ScriptedModel(default=REPLY) as server:
        return [
            _sync_llm_call(server, repetitions),
            compare("langchain model, sync", *_chat_model(_langchain_model(server), "invoke"), repetitions),
            compare("langchain agent, sync", *_langchain_agent(_langchain_model(server)), repetitions),
            *asyncio.run(_async_cases(server, repetitions)),
        ]


async def _async_cases(server: ScriptedModel, repetitions: int) -> list[Case]:
    import openai

    async with (
        openai.DefaultAsyncHttpxClient() as http,
        openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, http_client=http) as client,
    ):
        return [
            await compare_async("llm_call, async", *_llm_async(_pydantic_model(client)), repetitions),
            await compare_async(
                "langchain model, async", *_chat_model(_langchain_model(server, http), "ainvoke"), repetitions
            ),
            await compare_async("pydantic-ai agent", *_pydantic_agent(_pydantic_model(client)), repetitions),
            await compare_async("openai-agents run", *_openai_agent(client), repetitions),
            await _tool_call(repetitions),
        ]


def _sync_llm_call(server: ScriptedModel, repetitions: int) -> Case:
    import openai

    # pydantic-ai's sync calls take the thread's own loop, which the client's connections then belong to.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    try:
        return compare("llm_call, sync", *_llm(_pydantic_model(client)), repetitions)
    finally:
        loop.run_until_complete(client.close())
        asyncio.set_event_loop(None)
        loop.close()


def _pydantic_model(client: Any) -> Any:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))


def _llm(model: Any) -> tuple[Call, Call]:
    from pydantic_ai.direct import model_request_sync
    from pydantic_ai.messages import ModelRequest
    from pydantic_ai.settings import ModelSettings

    def plain() -> Any:
        asked = [ModelRequest.user_text_prompt(QUESTION, instructions=SYSTEM)]
        return model_request_sync(model, asked, model_settings=ModelSettings(max_tokens=MAX_TOKENS))

    return plain, lambda: sw.llm_call(QUESTION, system=SYSTEM, model=model, max_tokens=MAX_TOKENS)


def _llm_async(model: Any) -> tuple[AsyncCall, AsyncCall]:
    from pydantic_ai.direct import model_request
    from pydantic_ai.messages import ModelRequest
    from pydantic_ai.settings import ModelSettings

    def plain() -> Awaitable[Any]:
        asked = [ModelRequest.user_text_prompt(QUESTION, instructions=SYSTEM)]
        return model_request(model, asked, model_settings=ModelSettings(max_tokens=MAX_TOKENS))

    return plain, lambda: sw.llm_call_async(QUESTION, system=SYSTEM, model=model, max_tokens=MAX_TOKENS)


def _pydantic_agent(model: Any) -> tuple[AsyncCall, AsyncCall]:
    from pydantic_ai import Agent

    from stepwarden.integrations.pydantic_ai import Guard

    settings: Any = {"max_tokens": MAX_TOKENS}
    plain = Agent(model, instructions=SYSTEM, model_settings=settings)
    guarded = Agent(model, instructions=SYSTEM, model_settings=settings, capabilities=[Guard()])
    return lambda: plain.run(QUESTION), lambda: guarded.run(QUESTION)


def _langchain_model(server: ScriptedModel, http: Any = None) -> Any:
    from langchain_openai import ChatOpenAI

    options: Any = {"model": MODEL, "base_url": server.base_url, "api_key": "none", "max_tokens": MAX_TOKENS}
    return ChatOpenAI(max_retries=0, http_async_client=http, **options)


def _chat_model(model: Any, method: str) -> tuple[Call, Call]:
    from stepwarden.integrations.langchain import guarded

    asked = [("system", SYSTEM), ("user", QUESTION)]
    plain, wrapped = (getattr(each, method) for each in (model, guarded(model)))
    return lambda: plain(asked), lambda: wrapped(asked)


def _langchain_agent(model: Any) -> tuple[Call, Call]:
    from langchain.agents import create_agent

    from stepwarden.integrations.langchain import Guard

    plain: Any = create_agent(model, system_prompt=SYSTEM)
    guarded: Any = create_agent(model, system_prompt=SYSTEM, middleware=[Guard()])
    asked = {"messages": [("user", QUESTION)]}
    return lambda: plain.invoke(asked), lambda: guarded.invoke(asked)


def _openai_agent(client: Any) -> tuple[AsyncCall, AsyncCall]:
    from agents import Agent, ModelSettings, OpenAIProvider, RunConfig, Runner

    from stepwarden.integrations.openai_agents import GuardedProvider

    provider = OpenAIProvider(openai_client=client, use_responses=True)
    plain = RunConfig(model_provider=provider, tracing_disabled=True)
    guarded = RunConfig(model_provider=GuardedProvider(provider), tracing_disabled=True)
    agent = Agent("a", instructions=SYSTEM, model=MODEL, model_settings=ModelSettings(max_tokens=MAX_TOKENS))
    return (
        lambda: Runner.run(agent, QUESTION, run_config=plain),
        lambda: Runner.run(agent, QUESTION, run_config=guarded),
    )


async def _tool_call(repetitions: int) -> Case:
    from mcp import Client
    from mcp.server import MCPServer

    from stepwarden.integrations.mcp import GuardedClient

    server: Any = MCPServer("s", log_level="CRITICAL")

    @server.tool()  # type: ignore[untyped-decorator]
    def look(at: int) -> str:
        """Look."""
        return f"saw {at}"

    async with Client(server) as plain, GuardedClient(server, side_effects={"look": "read_only"}) as guarded:
        return await compare_async(
            "mcp tool call",
            lambda: plain.call_tool("look", {"at": 1}),
            lambda: guarded.call_tool("look", {"at": 1}),
            repetitions,
        )
