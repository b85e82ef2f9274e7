"""An MCP server whose tools are guarded, and a client of it whose step may use only some of them.

It needs ``pip install "stepwarden[mcp]"``, and neither a model nor a key.
``python examples/mcp_tools.py`` is the client, which starts the server as a process of its own.
"""

import asyncio
import sys

from mcp import StdioServerParameters, stdio_client
from mcp.server import MCPServer

import stepwarden as sw
from stepwarden.integrations.mcp import GuardedSession, ServerGuard

LEVELS = {"read_note": "read_only", "write_note": "workspace_write"}
NOTES = {"today": "Buy milk."}


def serve() -> None:
    """Serve two tools until the client leaves; no more than ten calls are made, and nothing beyond the workspace."""
    policy = sw.Policy(side_effect_level="workspace_write")
    with sw.Run(name="server", policy=policy, budget=sw.Budget(max_tool_calls=10)) as run:
        server = MCPServer("notes", log_level="ERROR", middleware=[ServerGuard(run, side_effects=LEVELS)])

        @server.tool()
        def read_note(name: str) -> str:
            """Read a note."""
            return NOTES[name]

        @server.tool()
        def write_note(name: str, text: str) -> str:
            """Write a note."""
            NOTES[name] = text
            return "written"

        server.run()


@sw.step(side_effect_level="read_only")
async def look_up(session: GuardedSession) -> None:
    """Read a note; the tool that would write one is refused before anything is sent."""
    for name, given in (("read_note", {"name": "today"}), ("write_note", {"name": "today", "text": ""})):
        result = await session.call_tool(name, given)
        print(name, "->", result.content[0].text)


async def main() -> None:
    """Start the server, and use it in a step."""
    served = StdioServerParameters(command=sys.executable, args=[__file__, "serve"])
    async with stdio_client(served) as streams, GuardedSession(*streams, side_effects=LEVELS) as session:
        await session.initialize()
        async with sw.Run() as run:
            await look_up(session)
    for receipt in run.receipts:
        print(receipt.kind, receipt.name, receipt.status)
        for tool in receipt.tools:
            print("  tool", tool.name, tool.outcome)


if sys.argv[1:] == ["serve"]:
    serve()
else:
    asyncio.run(main())
