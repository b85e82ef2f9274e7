"""MCP: tool calls of a client and of a server are under the policy, in one process and over stdio."""

import asyncio
import sys
from pathlib import Path

import mcp_types
import pytest
from mcp import Client, ClientSession, StdioServerParameters, stdio_client
from mcp.server import MCPServer, Server
from mcp.shared.memory import create_client_server_memory_streams

import stepwarden as sw
from stepwarden.integrations.mcp import GuardedClient, GuardedSession, ServerGuard
from tests.integrations.faces import play

SERVED = Path(__file__).with_name("mcp_server.py")
LEVELS = {"look": "read_only", "break": "read_only"}


@pytest.fixture
def ran():
    """Tell which tools of the server ran."""
    return []


def make_server(ran, *guards):
    """Make a server with a few tools."""
    server = MCPServer("s", log_level="CRITICAL", middleware=list(guards))

    @server.tool()
    def look(at: int) -> str:
        ran.append("look")
        return f"saw {at}"

    @server.tool()
    def send(to: str) -> str:
        ran.append("send")
        return f"sent to {to}"

    @server.tool(name="break")
    def break_() -> str:
        raise ValueError("broken")

    return server


def said(result):
    """Return whether a result is an error, and its text."""
    return result.is_error, result.content[0].text


def told(receipt):
    """Return the tools on a receipt, with what came of them."""
    return [(tool.name, tool.outcome) for tool in receipt.tools]


@pytest.fixture(params=["client", "session"])
def connected(request, ran):
    """Connect to a server in memory, by either of the SDK's clients."""
    return connect_client if request.param == "client" else connect_session


def connect_client(server, **options):
    """Connect by the high-level client."""
    return (GuardedClient if options else Client)(server, **options)


class connect_session:  # noqa: N801 - one way of two to connect
    """Connect by a session over streams in memory."""

    def __init__(self, server, **options):
        self.server = server
        self.options = options

    async def __aenter__(self):
        self.streams = create_client_server_memory_streams()
        client, server = await self.streams.__aenter__()
        low = getattr(self.server, "_lowlevel_server", self.server)
        self.task = asyncio.ensure_future(low.run(*server, low.create_initialization_options()))
        self.session = (GuardedSession if self.options else ClientSession)(*client, **self.options)
        await self.session.__aenter__()
        await self.session.initialize()
        return self.session

    async def __aexit__(self, *details):
        await self.session.__aexit__(None, None, None)
        await self.streams.__aexit__(None, None, None)
        await self.task


def test_a_refused_call_is_not_sent(ran, connected):
    """A client whose step may not use a tool gets a result that is an error, and the server is not asked."""

    async def scenario():
        async with connected(make_server(ran), side_effects=LEVELS) as client, sw.Run() as run:
            async with sw.step("s", side_effect_level="read_only"):
                results = [await client.call_tool("look", {"at": 1}), await client.call_tool("send", {"to": "x"})]
        return results, run

    (looked, sent), run = play(scenario)
    assert said(looked) == (False, "saw 1")
    assert said(sent) == (
        True,
        "The tool was not run: tool `send` has the side effect network, and at most read_only is allowed",
    )
    assert ran == ["look"]
    assert told(run.receipts[0]) == [("look", "completed"), ("send", "denied")]
    assert run.total.tool_calls == 1


def test_calls_at_the_same_time_keep_to_the_limit(ran, connected):
    """Of a batch, as many calls are sent as there is room for."""

    async def scenario():
        async with connected(make_server(ran), side_effects=LEVELS) as client, sw.Run() as run:
            async with sw.step("s", budget=sw.Budget(max_tool_calls=2)):
                results = await asyncio.gather(*(client.call_tool("look", {"at": at}) for at in range(5)))
        return results, run

    results, run = play(scenario)
    assert [result.is_error for result in results].count(True) == 3
    assert (len(ran), run.total.tool_calls) == (2, 2)


def test_a_refusal_may_be_raised(ran, connected):
    """Who asks for it gets our errors instead."""

    async def scenario():
        async with connected(make_server(ran), raises_denied=True) as client:
            with sw.Run(), sw.step("s", tools=["look"], budget=sw.Budget(max_tool_calls=0)):
                with pytest.raises(sw.ToolDeniedError):
                    await client.call_tool("send", {"to": "x"})
                with pytest.raises(sw.BudgetExceededError):
                    await client.call_tool("look", {"at": 1})

    play(scenario)
    assert ran == []


def test_a_prefix_tells_servers_apart(ran, connected):
    """Policies know the tools of a server by a prefix of its own."""

    async def scenario():
        async with connected(make_server(ran), prefix="eyes_", side_effects={"eyes_look": "read_only"}) as client:
            with sw.Run() as run, sw.step("s", tools=["eyes_*"], side_effect_level="read_only"):
                return await client.call_tool("look", {"at": 1}), await client.call_tool("send", {"to": "x"}), run

    looked, sent, run = play(scenario)
    assert (looked.is_error, sent.is_error) == (False, True)
    assert told(run.receipts[0]) == [("eyes_look", "completed"), ("eyes_send", "denied")]


def test_a_result_that_is_an_error_is_a_failed_tool(ran, connected):
    """A tool that failed is returned as it came, and is `failed` on the receipts of both sides."""

    async def scenario():
        async with sw.Run() as serving:
            async with connected(make_server(ran, ServerGuard(serving)), side_effects=LEVELS) as client:
                async with sw.Run() as run, sw.step("s"):
                    return await client.call_tool("break", {}), run, serving

    result, run, serving = play(scenario)
    assert result.is_error
    assert told(run.receipts[0]) == told(serving.receipts[0]) == [("break", "failed")]
    assert (run.receipts[0].status, serving.receipts[0].status) == (sw.Status.COMPLETED, sw.Status.FAILED)


def test_each_call_of_a_servers_tool_is_a_step(ran, connected):
    """A guarded server leaves a receipt for each call, in its own run, and tells a client what it refuses."""

    async def scenario():
        policy = sw.Policy(tools={"look"})
        async with sw.Run(policy=policy, budget=sw.Budget(max_tool_calls=2)) as serving:
            guard = ServerGuard(serving, side_effects=LEVELS, budget=sw.Budget(max_seconds=60))
            async with connected(make_server(ran, guard)) as client:
                await client.list_tools()
                results = [await client.call_tool("send", {"to": "x"})]
                results += [await client.call_tool("look", {"at": at}) for at in range(3)]
        return results, serving

    results, serving = play(scenario)
    assert [result.is_error for result in results] == [True, False, False, True]
    assert "not among the allowed tools" in said(results[0])[1]
    assert "has no room in max_tool_calls" in said(results[3])[1]
    assert ran == ["look", "look"]
    assert [(receipt.name, str(receipt.status)) for receipt in serving.receipts] == [
        ("send", "failed"), ("look", "completed"), ("look", "completed"), ("look", "failed"),
    ]  # fmt: skip
    assert (serving.total.tool_calls, serving.receipts[1].budget.max_seconds) == (2, 60)


def test_a_low_level_server_is_guarded_by_the_same_object(ran, connected):
    """The middleware of a server without decorators guards it, too."""

    async def list_tools(ctx, params):
        return mcp_types.ListToolsResult(tools=[])

    async def call_tool(ctx, params):
        ran.append(params.name)
        return mcp_types.CallToolResult(content=[mcp_types.TextContent(type="text", text="done")])

    async def scenario():
        server = Server("s", on_list_tools=list_tools, on_call_tool=call_tool)
        async with sw.Run(policy=sw.Policy(tools={"look"})) as serving:
            server.middleware.append(ServerGuard(serving))
            async with connected(server) as client:
                return [await client.call_tool(name, {}) for name in ("look", "send")], serving

    results, serving = play(scenario)
    assert [result.is_error for result in results] == [False, True]
    assert (ran, serving.total.tool_calls) == (["look"], 1)


def test_a_server_of_no_run_gives_each_call_its_own(ran, connected, configure):
    """Without a run, and outside of any, each call of a tool is a step of a run of its own."""

    async def scenario():
        async with connected(make_server(ran, ServerGuard(budget=sw.Budget(max_tool_calls=0)))) as client:
            return await client.call_tool("look", {"at": 1})

    before = len(sw.receipts())
    result = play(scenario)
    assert (result.is_error, ran) == (True, [])
    assert [receipt.name for receipt in sw.receipts()[before:]] == ["look"]


def test_a_hook_may_refuse_a_call(ran, connected):
    """What a hook denies to a tool's step is not run, and the client is told why."""
    hooks = sw.Hooks()

    @hooks.on("PreStep", step="look")
    def gate(event):
        return sw.Deny("not today")

    async def scenario():
        async with sw.Run(hooks=hooks) as serving, connected(make_server(ran, ServerGuard(serving))) as client:
            return await client.call_tool("look", {"at": 1}), serving

    result, serving = play(scenario)
    assert said(result) == (True, "The tool was not run: not today")
    assert (ran, serving.receipts[0].status, serving.total.tool_calls) == ([], sw.Status.DENIED, 0)


def test_what_a_tool_spends_is_its_steps(ran, connected):
    """What a tool of a guarded server spends counts toward its step, and an error of its budget is the tool's."""

    async def scenario():
        async with sw.Run(budget=sw.Budget(max_input_tokens=90)) as serving:
            server = make_server(ran, ServerGuard(serving))

            @server.tool()
            def think() -> str:
                sw.record_usage(input_tokens=60)
                return "thought"

            async with connected(server) as client:
                return [(await client.call_tool("think", {})).is_error for _ in range(2)], serving

    errors, serving = play(scenario)
    assert errors == [False, True]
    assert [receipt.own.input_tokens for receipt in serving.receipts] == [60, 60]


def test_client_and_server_are_guarded_over_stdio(tmp_path):
    """A guarded client of a guarded server in another process: each asks its own policy, and has its own receipts."""

    async def scenario():
        with (tmp_path / "told.txt").open("w+", encoding="utf-8") as log:
            served = StdioServerParameters(command=sys.executable, args=[str(SERVED)])
            async with stdio_client(served, errlog=log) as streams:
                async with GuardedSession(*streams, side_effects=LEVELS) as session:
                    await session.initialize()
                    with sw.Run() as run, sw.step("s", tools=["look", "send"]):
                        asked = [("look", {"at": 1}), ("send", {"to": "x"}), ("break", {})]
                        results = [await session.call_tool(name, given) for name, given in asked]
            log.seek(0)
            return results, run, log.read().splitlines()

    results, run, log = play(scenario)
    assert [result.is_error for result in results] == [False, True, True]
    assert told(run.receipts[0]) == [("look", "completed"), ("send", "failed"), ("break", "denied")]
    assert log == ["look completed [('look', 'completed')]", "send failed [('send', 'denied')]"]


def test_an_unknown_level_is_refused(ran):
    """A side effect that is none is an error that names the tool."""
    with pytest.raises(sw.DefinitionError, match=r"GuardedClient.side_effects\['look'\]"):
        GuardedClient(make_server(ran), side_effects={"look": "reading"})
    with pytest.raises(sw.DefinitionError, match=r"ServerGuard.side_effects\['look'\]"):
        ServerGuard(side_effects={"look": "reading"})
