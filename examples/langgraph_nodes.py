"""A LangGraph graph whose nodes are steps, each with a budget and a receipt of its own; two of them run at once.

It needs ``pip install "stepwarden[langchain]" langchain-openai``.
Run it with a key, ``OPENAI_API_KEY=... python examples/langgraph_nodes.py``, or against any server that speaks the API,
with ``OPENAI_BASE_URL``.
"""

import asyncio
from typing import TypedDict

from langgraph.graph import END, START, StateGraph

import stepwarden as sw
from stepwarden.integrations.langchain import StepModel, guarded

model = guarded(StepModel())  # whichever model the node that is running declares


class State(TypedDict, total=False):
    """What the nodes read and write."""

    issue: str
    summary: str
    kind: str
    reply: str


@sw.step(model="openai:gpt-5-mini", budget=sw.Budget(max_output_tokens=100))
async def summarize(state: State) -> State:
    """Say in a sentence what the issue is about."""
    return {"summary": (await model.ainvoke(f"Summarize: {state['issue']}")).text}


@sw.step(
    model="openai:gpt-5-nano",
    budget=sw.Budget(max_calls=0),
    error_boundary="continue",
    fallback=State(kind="unknown"),
)
async def classify(state: State) -> State:
    """Say what kind of issue it is; nothing may be spent on that, so its fallback is what the state is given."""
    return {"kind": (await model.ainvoke(f"Bug or question? {state['issue']}")).text}


@sw.step(model="openai:gpt-5", budget=sw.Budget(max_usd="0.05"))
async def answer(state: State) -> State:
    """Answer, when both are known."""
    return {"reply": (await model.ainvoke(f"Answer this {state['kind']}: {state['summary']}")).text}


graph = StateGraph(State)
graph.add_node(summarize)
graph.add_node(classify)
graph.add_node(answer)
graph.add_edge(START, "summarize")
graph.add_edge(START, "classify")
graph.add_edge(["summarize", "classify"], "answer")
graph.add_edge("answer", END)


async def main() -> None:
    """Run the graph under one budget for all of its nodes, and show what each of them spent."""
    async with sw.Run(budget=sw.Budget(max_usd="0.10")) as run:
        state = await graph.compile().ainvoke({"issue": "It crashes when I save a file with an empty name."})
    print(f"{state['kind']}: {state['reply']}")
    for receipt in run.receipts:
        used = receipt.own
        print(receipt.name, receipt.status, receipt.model, used.total_tokens, "tokens", f"${used.cost_usd:f}")


asyncio.run(main())
