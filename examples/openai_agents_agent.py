"""An agent of openai-agents under a budget and a policy: the model of the step, and the tools that it may use.

It needs ``pip install "stepwarden[openai-agents]"``.
Run it with a key, ``OPENAI_API_KEY=... python examples/openai_agents_agent.py``, or against any server that speaks the
API, with ``OPENAI_BASE_URL``.
"""

import asyncio

from agents import Agent, RunConfig, Runner, function_tool

import stepwarden as sw
from stepwarden.integrations.openai_agents import GuardedProvider, guarded


@function_tool
def read_issue(number: int) -> str:
    """Read an issue."""
    return f"Issue {number}: it crashes when I save a file with an empty name."


@function_tool
def close_issue(number: int) -> str:
    """Close an issue."""
    return f"Issue {number} is closed."


agent = guarded(
    Agent("triage", instructions="Say in a sentence what an issue is about.", tools=[read_issue, close_issue]),
    side_effects={"read_issue": "read_only"},
)
# The SDK would send traces of the run to OpenAI.
config = RunConfig(model_provider=GuardedProvider(), tracing_disabled=True)


@sw.step(model="openai:gpt-5-mini", budget=sw.Budget(max_usd="0.02", max_tool_calls=3), side_effect_level="read_only")
async def triage(issue: str) -> str:
    """Look at an issue; the tool that would close it is rejected, and the model is told so."""
    result = await Runner.run(agent, f"What is {issue} about?", run_config=config)
    return str(result.final_output)


with sw.Run(budget=sw.Budget(max_usd="0.10")) as run:
    print(asyncio.run(triage("issue 7")))

for receipt in run.receipts:
    print(
        receipt.kind, receipt.name, receipt.status, receipt.total.total_tokens, "tokens", f"${receipt.total.cost_usd:f}"
    )
    for tool in receipt.tools:
        print("  tool", tool.name, tool.outcome)
