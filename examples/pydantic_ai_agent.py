"""An agent of pydantic-ai with a typed answer: the model of the step, and the one tool that the step may use.

It needs ``pip install "stepwarden[llm]"``.
Run it with a key, ``OPENAI_API_KEY=... python examples/pydantic_ai_agent.py``, or against any server that speaks the
API, with ``OPENAI_BASE_URL``.
"""

from pydantic import BaseModel
from pydantic_ai import Agent

import stepwarden as sw
from stepwarden.integrations.pydantic_ai import Guard, StepModel


class Verdict(BaseModel):
    """Be what is said of an issue."""

    kind: str
    is_urgent: bool


agent = Agent(StepModel(), output_type=Verdict, capabilities=[Guard(side_effects={"read_issue": "read_only"})])


@agent.tool_plain
def read_issue(number: int) -> str:
    """Read an issue."""
    return f"Issue {number}: it crashes when I save a file with an empty name."


@sw.step(
    model="openai-chat:gpt-5-mini", budget=sw.Budget(max_usd="0.05", max_tool_calls=5), side_effect_level="read_only"
)
def judge(number: int) -> Verdict:
    """Read an issue and say what it is."""
    return agent.run_sync(f"Judge issue {number}.").output


with sw.Run(budget=sw.Budget(max_usd="0.10")) as run:
    print(judge(7))

for receipt in run.receipts:
    used = receipt.total
    print(receipt.kind, receipt.name, receipt.status, used.total_tokens, "tokens", f"${used.cost_usd:f}")
    for tool in receipt.tools:
        print("  tool", tool.name, tool.outcome)
