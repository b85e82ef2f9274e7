"""An agent on OpenAI's own client: two steps with a budget of their own, run at the same time under a shared one.

It needs ``pip install "stepwarden[openai]"``.
Run it with a key, ``OPENAI_API_KEY=... python examples/openai_client.py``, or against any server that speaks the API,
with ``OPENAI_BASE_URL``.
"""

import asyncio

from openai import AsyncOpenAI

import stepwarden as sw

client = sw.guard(AsyncOpenAI())


async def ask(prompt: str) -> str | None:
    """Ask the model of whichever step is open."""
    completion = await client.chat.completions.create(
        model=sw.default_model() or "", messages=[{"role": "user", "content": prompt}]
    )
    return completion.choices[0].message.content


@sw.step(budget=sw.Budget(max_output_tokens=100))
async def summarize(issue: str) -> str | None:
    """Say in a sentence what an issue is about."""
    return await ask(f"Summarize in one sentence: {issue}")


@sw.step(budget=sw.Budget(max_usd="0.01", max_calls=1), error_boundary="continue", fallback="unknown")
async def classify(issue: str) -> str | None:
    """Say what kind of issue it is; the second call is one too many, and the fallback takes its place."""
    kind = await ask(f"Answer with one word, bug or question: {issue}")
    return await ask(f"Are you sure that this is a {kind}? {issue}")


@sw.persona(model="openai:gpt-5-mini", budget=sw.Budget(max_usd="0.05"))
async def triage(issue: str) -> None:
    """Look at an issue from two sides at once."""
    summary, kind = await asyncio.gather(summarize(issue), classify(issue))
    print(f"{kind}: {summary}")


with sw.Run(budget=sw.Budget(max_usd="0.10")) as run:
    asyncio.run(triage("It crashes when I save a file with an empty name."))

for receipt in run.receipts:
    used = receipt.total
    print(receipt.kind, receipt.name, receipt.status, used.total_tokens, "tokens", f"${used.cost_usd:f}")
