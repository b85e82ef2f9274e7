"""pydantic-ai: agents whose models and tools are under the budget and the policy of the step around."""

import asyncio
import os
import re
import subprocess
import sys

import httpx2
import openai
import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import NativeTool, WebSearch
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.toolsets import DynamicToolset, FunctionToolset
from pydantic_ai.usage import RequestUsage, UsageLimits

import stepwarden as sw
from stepwarden.integrations.pydantic_ai import Guard, GuardedModel, StepModel
from stepwarden.testing import Failure, Reply, ToolCall

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000}}


@pytest.fixture
def make(server):
    """Make a model of a name, on the scripted server."""

    def model(name):
        # Each request has a loop of its own here, so no connection outlives it.
        http = openai.DefaultAsyncHttpxClient(verify=False, limits=httpx2.Limits(max_keepalive_connections=0))
        client = openai.AsyncOpenAI(base_url=server.base_url, api_key="none", http_client=http)
        return OpenAIChatModel(name.removeprefix("openai:"), provider=OpenAIProvider(openai_client=client))

    return model


@pytest.fixture
def agent(make):
    """Give a guarded agent with two tools of its own and one of ours."""
    agent = Agent(StepModel(resolve=make), capabilities=[Guard(side_effects={"look": "read_only"})])

    @agent.tool_plain
    def look(at: int) -> str:
        return f"saw {at}"

    @agent.tool_plain
    def send(to: str) -> str:
        return f"sent to {to}"

    @agent.tool_plain
    @sw.tool(side_effect="read_only")
    def count(of: str) -> int:
        return len(of)

    return agent


def returned(result):
    """Return what the tools of a run returned, by their names."""
    parts = [part for message in result.all_messages() for part in message.parts]
    return {part.tool_name: part.content for part in parts if part.part_kind == "tool-return"}


def test_a_refused_tool_is_not_run_and_the_model_is_told(server, agent):
    """A tool that the step may not use gives the model the reason in its place, and the agent goes on."""
    server.enqueue(
        Reply(
            "",
            tool_calls=[ToolCall("look", {"at": 1}), ToolCall("send", {"to": "x"}), ToolCall("count", {"of": "four"})],
        )
    )

    async def scenario():
        async with sw.Run() as run, sw.step("s", model="openai:m", side_effect_level="read_only"):
            return await agent.run("hello"), run

    result, run = asyncio.run(scenario())
    told = returned(result)
    assert (told["look"], told["count"]) == ("saw 1", 4)
    assert told["send"].startswith("The tool was not run: tool `send` has the side effect network")
    (receipt,) = run.receipts
    outcomes = {tool.name: tool.outcome for tool in receipt.tools}
    assert outcomes == {"look": "completed", "send": "denied", "count": "completed"}
    assert receipt.own.tool_calls == 2


def test_a_tool_of_ours_vouches_for_no_other_of_its_name(server, make):
    """That a tool's own function asks the policy says nothing of another agent's tool, or another toolset's."""
    guard, ran = Guard(), []

    @sw.tool(side_effect="read_only")
    def ours(of: str) -> str:
        ran.append("ours")
        return of

    def theirs(of: str) -> str:
        ran.append("theirs")
        return of

    plain, checked = FunctionToolset(), FunctionToolset()
    plain.add_function(theirs, name="look")
    checked.add_function(ours, name="look")
    agents = [
        Agent(make("m"), toolsets=[checked], capabilities=[guard]),
        Agent(make("m"), toolsets=[plain], capabilities=[guard]),
        Agent(make("m"), toolsets=[checked.prefixed("a"), plain], capabilities=[guard]),
    ]

    async def scenario():
        async with sw.Run() as run, sw.step("s", side_effect_level="read_only"):
            for agent in agents:
                server.enqueue(Reply("", tool_calls=[ToolCall("look", {"of": "x"})]))
                await agent.run("hello")
        return run

    run = asyncio.run(scenario())
    assert ran == ["ours"]
    assert [(tool.name, tool.outcome) for tool in run.receipts[0].tools] == [
        ("ours", "completed"), ("look", "denied"), ("look", "denied"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "held",
    [
        lambda tools: tools.prefixed("a"),
        lambda tools: tools.renamed({"a_ours": "ours"}),
        lambda tools: tools.filtered(lambda ctx, tool: True).prefixed("a"),
        lambda tools: DynamicToolset(lambda ctx: tools.prefixed("a")),
    ],
    ids=["prefixed", "renamed", "filtered", "dynamic"],
)
def test_a_tool_of_ours_is_asked_about_once_under_another_name(server, make, held):
    """However a toolset calls a tool of ours, it asks the policy by itself, and its call counts once."""

    @sw.tool(side_effect="read_only")
    def ours(of: str) -> str:
        return of

    agent = Agent(make("m"), toolsets=[held(FunctionToolset([ours]))], capabilities=[Guard()])
    server.enqueue(Reply("", tool_calls=[ToolCall("a_ours", {"of": "x"})]))

    async def scenario():
        async with sw.Run() as run, sw.step("s", side_effect_level="read_only"):
            await agent.run("hello")
        return run

    assert [(tool.name, tool.outcome) for tool in asyncio.run(scenario()).receipts[0].tools] == [("ours", "completed")]


def test_a_tool_beyond_the_limit_is_not_run(server, agent):
    """`max_tool_calls` counts an agent's tools, one of ours only once, and lets not one more through."""
    calls = [ToolCall("look", {"at": 1}), ToolCall("count", {"of": "four"}), ToolCall("look", {"at": 2})]
    server.enqueue(Reply("", tool_calls=calls))

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_tool_calls=2)) as run, sw.step("s", model="m"):
            await agent.run("hello")
        return run

    run = asyncio.run(scenario())
    assert run.total.tool_calls == 2
    assert sorted(tool.outcome for tool in run.receipts[0].tools) == ["completed", "completed", "refused"]


@pytest.mark.parametrize("is_guarded", [False, True], ids=["bare", "guarded"])
def test_what_the_provider_runs_itself_is_refused_before_it_is_offered(server, make, is_guarded):
    """No request offers a tool that the policy refuses and that nobody could ask about when it is called."""
    model = OpenAIResponsesModel("m", provider=OpenAIProvider(openai_client=make("m").client))
    model = GuardedModel(model) if is_guarded else model
    has = NativeTool(WebSearchTool())

    async def scenario():
        async with sw.Run() as run, sw.step("s", side_effect_level="read_only"):
            with pytest.raises(sw.ToolDeniedError, match="web_search"):
                await Agent(model, capabilities=[has, Guard()]).run("hello")
            await Agent(model, capabilities=[has, Guard(side_effects={"web_search": "read_only"})]).run("hello")
        return run

    run = asyncio.run(scenario())
    assert run.total.calls == server.count == 1
    assert [tool["type"] for tool in server.requests[0].body["tools"]] == ["web_search"]
    assert [(tool.name, tool.outcome) for tool in run.receipts[0].tools] == [("web_search", "denied")]


def test_what_is_not_offered_is_not_asked_about(server, make):
    """Where a function of the agent's stands for what the provider has not, the policy is asked about that alone."""
    search = WebSearch(native=True, local=FunctionToolset([lambda: "found"]).prefixed("own"))
    agent = Agent(make("m"), capabilities=[search, Guard()])

    async def scenario():
        async with sw.Run(policy=sw.Policy(tools=["own*"])) as run:
            await agent.run("hello")
        return run

    assert asyncio.run(scenario()).total.calls == server.count == 1


def test_a_refusal_may_be_raised(server, make):
    """With *raises_denied* the error leaves the agent as it is."""
    agent = Agent(make("m"), capabilities=[Guard(raises_denied=True)])
    agent.tool_plain(name="send")(lambda: "sent")
    server.enqueue(Reply("", tool_calls=[ToolCall("send", {})]))

    async def scenario():
        with sw.Run(policy=sw.Policy(tools=[])), pytest.raises(sw.ToolDeniedError, match="send"):
            await agent.run("hello")

    asyncio.run(scenario())


def test_each_step_has_its_own_model(server, agent):
    """One agent asks the model of whichever step is open; where none declares one, it says what to do."""

    async def scenario():
        async with sw.Run(prices=PRICES):
            for name in ("openai:small", "large"):
                async with sw.step("s", model=name):
                    await agent.run("hello")
            with pytest.raises(sw.DefinitionError, match="no step or persona around declares a model"):
                await agent.run("hello")

    asyncio.run(scenario())
    assert [request.body["model"] for request in server.requests] == ["small", "large"]


def test_a_fallback_serves_where_no_step_declares_a_model(server, make):
    """StepModel's own fallback is a name or a model."""

    async def scenario():
        with sw.Run() as run:
            await Agent(StepModel("spare", resolve=make), capabilities=[Guard()]).run("hello")
            await Agent(StepModel(make("other")), capabilities=[Guard()]).run("hello")
        return run

    assert asyncio.run(scenario()).total.calls == 2
    assert [request.body["model"] for request in server.requests] == ["spare", "other"]


def test_a_model_that_is_put_in_later_is_guarded_too(server, agent, make):
    """Neither `agent.override` nor a model given to the run escapes the budget."""

    async def scenario():
        with sw.Run(budget=sw.Budget(max_calls=2)) as run:
            with agent.override(model=make("over")):
                await agent.run("hello")
            await agent.run("hello", model=make("given"))
            with pytest.raises(sw.BudgetExceededError, match="max_calls"):
                await agent.run("hello", model=make("third"))
        return run

    assert asyncio.run(scenario()).total.calls == server.count == 2


def test_the_sdks_own_retries_are_reserved(server, make):
    """Holds taken are requests that arrived, those that the client below sends again too."""
    server.enqueue(
        Failure(500, retry_after=0.01), Failure(429, retry_after=0.01), Reply(input_tokens=3, output_tokens=2)
    )

    async def scenario():
        with sw.Run(budget=sw.Budget(max_tokens=9_000)) as run:
            await Agent(make("m"), capabilities=[Guard()]).run("hello")
        return run

    run = asyncio.run(scenario())
    assert server.count == 3
    assert (run.total.calls, run.total.estimated_calls) == (2, 1)  # the 429 was given back
    assert run.held == sw.Usage()


def speak(messages, info):
    """Be a model of no SDK."""
    limit = info.model_settings["max_tokens"] if info.model_settings else 30
    return ModelResponse([TextPart("x" * limit)], usage=RequestUsage(input_tokens=7, output_tokens=limit))


async def speak_in_pieces(messages, info):
    """Be a model of no SDK that streams."""
    for _ in range(30):
        yield "word "


def test_a_model_of_no_sdk_is_guarded_request_by_request():
    """Any model is reserved, limited and settled, though nobody knows its client."""

    async def scenario():
        agent = Agent(FunctionModel(speak, model_name="m"), capabilities=[Guard()])
        async with sw.Run(budget=sw.Budget(max_output_tokens=25), prices=PRICES) as run, sw.step("s"):
            result = await agent.run("hello")
            with pytest.raises(sw.BudgetExceededError):
                await agent.run("hello")
        return result, run

    result, run = asyncio.run(scenario())
    assert len(result.output) == 25
    assert run.receipts[0].own == sw.Usage(input_tokens=7, output_tokens=25, cost_usd=57, calls=1)


def test_a_stream_of_no_sdk_is_settled_by_what_came():
    """Read out or left early, the call is settled by what has arrived, and nothing stays held."""

    async def scenario(pieces):
        agent = Agent(FunctionModel(stream_function=speak_in_pieces, model_name="m"), capabilities=[Guard()])
        async with sw.Run(budget=sw.Budget(max_tokens=900)) as run:
            async with agent.run_stream("hello") as stream:
                async for _ in stream.stream_text(delta=True, debounce_by=None):
                    pieces -= 1
                    if not pieces:
                        break
            assert run.held == sw.Usage()
        return run.total

    whole, left = asyncio.run(scenario(99)), asyncio.run(scenario(3))
    assert (whole.calls, left.calls) == (1, 1)
    assert 0 < left.output_tokens < whole.output_tokens


def test_usage_limits_keep_working_beside_ours(server, make):
    """pydantic-ai's own limits refuse as before, and our budget stays as it is."""

    async def scenario():
        agent = Agent(make("m"), capabilities=[Guard()])
        with sw.Run(budget=sw.Budget(max_tokens=9_000)) as run:
            with pytest.raises(UsageLimitExceeded):
                await agent.run("hello", usage_limits=UsageLimits(request_limit=0))
            await agent.run("hello", usage_limits=UsageLimits(request_limit=1))
        return run

    assert asyncio.run(scenario()).total.calls == server.count == 1


def test_a_guarded_model_of_several_is_reserved_once(server, make):
    """A fallback of two models reserves each request that is sent, and the outer guard does not add one."""
    server.enqueue(Failure(400), Reply(input_tokens=3, output_tokens=2))

    async def scenario():
        both = FallbackModel(GuardedModel(make("first")), GuardedModel(make("second")))
        with sw.Run(budget=sw.Budget(max_tokens=9_000)) as run:
            await Agent(both, capabilities=[Guard()]).run("hello")
        return run

    run = asyncio.run(scenario())
    assert (server.count, run.total.calls, run.held) == (2, 1, sw.Usage())


@pytest.mark.parametrize("way", ["agent", "model", "llm_call"])
@pytest.mark.parametrize("holder", ["wrapper", "wrapper in a wrapper", "around the step's", "around a guarded one"])
def test_a_wrapper_of_a_model_is_no_way_around_the_guard(server, make, way, holder):
    """A model that holds the one which asks is reserved on the wire like that one, and refused like it."""
    server.enqueue(Failure(500, retry_after=0.01))
    wrapper = {
        "wrapper": lambda: WrapperModel(make("m")),
        "wrapper in a wrapper": lambda: WrapperModel(WrapperModel(make("m"))),
        "around the step's": lambda: WrapperModel(StepModel(resolve=make)),
        "around a guarded one": lambda: WrapperModel(GuardedModel(make("m"))),
    }[holder]()
    ask = {
        "agent": Agent(wrapper, capabilities=[Guard()]).run,
        "model": Agent(GuardedModel(wrapper)).run,
        "llm_call": lambda prompt: sw.llm_call_async(prompt, model=wrapper),
    }[way]

    async def scenario():
        async with (
            sw.Run(budget=sw.Budget(max_output_tokens=2_000, max_calls=3)) as run,
            sw.step("s", model="openai:m"),
        ):
            await ask("hello")
            await ask("hello")
            with pytest.raises(sw.BudgetExceededError):
                await ask("hello")
        return run

    run = asyncio.run(scenario())
    assert (run.total.calls, run.total.estimated_calls, run.held) == (3, 1, sw.Usage())
    assert server.count == 3
    assert all(request.body["max_completion_tokens"] <= 2_000 for request in server.requests)


def test_a_wrapper_remains_the_users_own(server, make):
    """What a wrapper counts, and the model that it holds now, are those of the wrapper that the user has."""

    class Counting(WrapperModel):
        asked = 0

        async def request(self, *args):
            self.asked += 1
            return await super().request(*args)

    wrapper = Counting(make("first"))
    agent = Agent(wrapper, capabilities=[Guard()])

    async def scenario():
        with sw.Run(budget=sw.Budget(max_tokens=9_000)) as run:
            await agent.run("hello")
            wrapper.wrapped = make("second")
            await agent.run("hello")
        return run

    run = asyncio.run(scenario())
    assert wrapper.asked == run.total.calls == 2
    assert [request.body["model"] for request in server.requests] == ["first", "second"]


@pytest.mark.parametrize("way", ["agent", "llm_call"])
def test_a_fallback_reserves_each_request_that_it_sends(server, make, way):
    """What the first of several models was asked is one hold, and what the second is asked is another."""
    server.enqueue(*[Failure(500, retry_after=0.01)] * 3)
    both = FallbackModel(make("first"), make("second"))

    async def scenario():
        with sw.Run(budget=sw.Budget(max_tokens=9_000)) as run:
            if way == "agent":
                await Agent(both, capabilities=[Guard()]).run("hello")
            else:
                await sw.llm_call_async("hello", model=both)
        return run

    run = asyncio.run(scenario())
    assert [request.body["model"] for request in server.requests] == ["first"] * 3 + ["second"]
    assert (run.total.calls, run.total.estimated_calls, run.held) == (4, 3, sw.Usage())


def test_what_nothing_bounds_is_refused(make):
    """A batch and the compaction of messages do not go around the guard of a model."""
    model = GuardedModel(WrapperModel(make("m")))
    with pytest.raises(sw.PolicyViolationError, match="a batch costs money"):
        asyncio.run(model.batch_create([]))
    with pytest.raises(sw.PolicyViolationError, match="the compaction of messages costs money"):
        asyncio.run(model.compact_messages(None))


def test_a_guarded_model_keeps_the_estimate_that_it_has(make):
    """Another estimate for a model that is guarded already is refused, and not taken in silence."""
    model = GuardedModel(make("m"), estimate="upper_bound")
    GuardedModel(GuardedModel(model), estimate="likely")
    assert Guard(estimate="upper_bound").get_wrapper_model(model) is None  # it serves as it is
    for guard in (lambda: GuardedModel(model, estimate=len), lambda: Guard(estimate=len).get_wrapper_model(model)):
        with pytest.raises(sw.DefinitionError, match="guarded already, with estimate='upper_bound'"):
            guard()


def test_an_unknown_level_is_refused():
    """A side effect that there is not is a DefinitionError that names the tool."""
    with pytest.raises(sw.DefinitionError, match="look"):
        Guard(side_effects={"look": "reading"})


def test_a_call_of_the_steps_model(server, make):
    """`llm_call_async` asks the model given, under the budget, and tells what it used."""
    server.default = Reply("four", input_tokens=5, output_tokens=1)

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_output_tokens=9), prices=PRICES) as run, sw.step("s"):
            reply = await sw.llm_call_async("2 + 2?", system="Be brief.", model=make("m"), temperature=0)
        return reply, run

    reply, run = asyncio.run(scenario())
    assert (reply.text, reply.model, reply.usage.output_tokens, reply.finish_reason) == ("four", "m", 1, "stop")
    body = server.requests[-1].body
    assert (body["max_completion_tokens"], body["temperature"]) == (9, 0)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert run.receipts[0].own.cost_usd == 7


def test_a_sync_call_of_the_steps_model(server):
    """`llm_call` takes the step's default model by its name, again and again, in a program with nothing else."""
    script = """
import stepwarden as sw

@sw.step(model="openai-chat:m")
def ask():
    return sw.llm_call("hello", max_tokens=5).text

with sw.Run() as run:
    print(ask(), ask(), run.total.calls)
"""
    environment = {**os.environ, "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "none"}
    ran = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=60, env=environment, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["ok", "ok", "2"]
    assert [request.body["model"] for request in server.requests] == ["m", "m"]


def test_the_client_of_a_model_is_copied_once(make, monkeypatch):
    """A model that is asked again is not guarded again: copying its client takes as long as a call."""
    model = make("m")
    copies, copy = [], model.client.copy
    monkeypatch.setattr(model.client, "copy", lambda *given, **named: copies.append(1) or copy(*given, **named))

    async def scenario():
        for _ in range(3):
            await sw.llm_call_async("hello", model=model)

    with sw.Run():
        asyncio.run(scenario())
    assert copies == [1]


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "object"])
@pytest.mark.parametrize("estimate", ["likely", "upper_bound", lambda request: 7_777])
def test_the_input_of_a_call_is_estimated_as_the_user_says(server, make, monkeypatch, is_named, estimate):
    """`llm_call` and `llm_call_async` hold what `estimate=` comes to, each time."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    # A name of its own, since what is made of one is kept.
    model = "openai-chat:estimated" if is_named else make("m")
    needed = []

    async def scenario():
        for _ in range(2):
            with pytest.raises(sw.BudgetExceededError) as caught:
                await sw.llm_call_async("hello", model=model, estimate=estimate)
            needed.append(caught.value.requested)

    with sw.Run(budget=sw.Budget(max_input_tokens=0)):
        asyncio.run(scenario())
        for _ in range(2):
            with pytest.raises(sw.BudgetExceededError) as caught:
                sw.llm_call("hello", model=model, estimate=estimate)
            needed.append(caught.value.requested)
    assert server.count == 0
    assert len(set(needed)) == 1
    low, high = {"likely": (10, 60), "upper_bound": (512, 1_000)}.get(estimate, (7_777, 7_777))
    assert low <= needed[0] <= high


def test_an_estimate_that_is_none_is_refused():
    """`llm_call` says what an estimate can be, before anything is sent."""
    with sw.Run(), pytest.raises(sw.DefinitionError, match="estimate must be 'likely', 'upper_bound' or a function"):
        sw.llm_call("hello", model=TestModel(), estimate="exact")


def test_a_refused_call_is_not_sent(server, make):
    """Without room, `llm_call` raises our error, and nothing arrives."""
    with sw.Run(budget=sw.Budget(max_tokens=5)), pytest.raises(sw.BudgetExceededError):
        sw.llm_call("hello", model=make("m"))
    assert server.count == 0


def test_one_event_loop_after_another_asks(server):
    """As unguarded, a model serves on one loop after another, with sync calls in between and in threads."""
    script = """
import asyncio, threading
import stepwarden as sw
from pydantic_ai import Agent
from pydantic_ai.capabilities import NativeTool, WebSearch
from stepwarden.integrations.pydantic_ai import Guard, GuardedModel, StepModel

NAME = "openai-chat:m"
agents = [Agent(NAME, capabilities=[Guard()]), Agent(GuardedModel(NAME)), Agent(StepModel(), capabilities=[Guard()])]
ways = [(agent.run, agent.run_sync) for agent in agents] + [(sw.llm_call_async, sw.llm_call)]
with sw.Run(budget=sw.Budget(max_tokens=90_000)) as run, sw.step("s", model=NAME):
    for ask, ask_sync in ways:
        asyncio.run(ask("hello"))
        ask_sync("hello")
        asyncio.run(ask("hello"))
        asyncio.run(ask("hello"))
        thread = threading.Thread(target=sw.propagate(ask_sync), args=("hello",))
        thread.start()
        thread.join()
        ask_sync("hello")
        print(run.total.calls, run.total.estimated_calls)
"""
    environment = {**os.environ, "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "none"}
    ran = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=60, env=environment, capture_output=True, text=True
    )
    assert ran.stdout.splitlines() == ["6 0", "12 0", "18 0", "24 0"]
    assert server.count == 24


def test_a_call_without_any_model_says_what_to_do():
    """Where nobody names a model, the error says so."""
    with sw.Run(), pytest.raises(sw.DefinitionError, match=r"llm_call: no model is named"):
        sw.llm_call("hello")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"prompt": 5}, TypeError, "prompt must be a str, not 5"),
        ({"system": 5}, TypeError, "system must be a str or None, not 5"),
        ({"model": 5}, TypeError, 'model must be "provider:model", a model of pydantic-ai\'s or None, not 5'),
        ({"settings": 5}, TypeError, "settings must be a mapping of pydantic-ai's settings or None, not 5"),
        ({"max_tokens": True}, TypeError, "max_tokens must be an int or None, not True"),
        ({"max_tokens": 0}, ValueError, "max_tokens must be >= 1, not 0"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number or None, not 'hot'"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds or None, not '5'"),
        ({"timeout": -1}, ValueError, "timeout must be a number of seconds > 0, not -1"),
    ],
)
def test_an_argument_that_cannot_be_right_is_named(given, error, says):
    """What `llm_call` cannot take is an error that names it and what would be right, and nothing is counted."""
    with sw.Run() as run, pytest.raises(error, match=re.escape(says)):
        sw.llm_call(**{"prompt": "hello", "model": TestModel(), **given})
    assert run.total == sw.Usage()
