"""A server over stdio whose tools are guarded, and which tells its receipts to stderr at its end."""

import sys

from mcp.server import MCPServer

import stepwarden as sw
from stepwarden.integrations.mcp import ServerGuard

run = sw.Run(name="server", policy=sw.Policy(tools={"look", "break"}, side_effect_level="read_only"))
guard = ServerGuard(run, side_effects={"look": "read_only", "break": "read_only"})
server = MCPServer("s", log_level="CRITICAL", middleware=[guard])


@server.tool()
def look(at: int) -> str:
    """Look."""
    return f"saw {at}"


@server.tool(name="break")
def break_() -> str:
    """Fail."""
    raise ValueError("broken")


@server.tool()
def send(to: str) -> str:
    """Send."""
    return f"sent to {to}"


if __name__ == "__main__":
    with run:
        server.run()
    for receipt in run.receipts:
        print(receipt.name, receipt.status, [(tool.name, tool.outcome) for tool in receipt.tools], file=sys.stderr)
