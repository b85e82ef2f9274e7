"""A LangChain agent whose model calls are under a budget and whose tools are under a policy.

It needs ``pip install "stepwarden[langchain]" langchain-openai``.
Run it with a key, ``OPENAI_API_KEY=... python examples/langchain_agent.py``, or against any server that speaks the API,
with ``OPENAI_BASE_URL``.
"""

from langchain.agents import create_agent
from langchain.tools import tool
from langchain_core.messages import HumanMessage, ToolMessage

import stepwarden as sw
from stepwarden.integrations.langchain import Guard, StepModel


@tool
def read_notes(topic: str) -> str:
    """Read what is known about a topic."""
    return f"The notes say that {topic} is well known."


@tool
def publish(text: str) -> str:
    """Publish a text for everybody to see."""
    raise AssertionError(f"the policy keeps this from running: {text}")


agent = create_agent(
    StepModel(),  # whichever model the step that is open declares
    [read_notes, publish],
    middleware=[Guard(side_effects={"read_notes": "read_only"})],  # what is not named here counts as the network
)


@sw.step(
    model="openai:gpt-5-mini",
    budget=sw.Budget(max_usd="0.02", max_calls=5, max_tool_calls=3),
    side_effect_level="read_only",
)
def research(question: str) -> None:
    """Let the agent work; a tool that may not run is answered by its refusal, and the agent goes on."""
    for message in agent.invoke({"messages": [HumanMessage(question)]})["messages"]:
        if isinstance(message, ToolMessage):
            print(f"tool {message.name}: {message.status}: {message.text}")


with sw.Run(budget=sw.Budget(max_usd="0.10")) as run:
    research("What is known about rivers? Publish it.")

for receipt in run.receipts:
    used = receipt.total
    print(receipt.name, receipt.status, used.calls, "calls", used.total_tokens, "tokens", f"${used.cost_usd:f}")
    for call in receipt.tools:
        print("  tool", call.name, call.outcome)
