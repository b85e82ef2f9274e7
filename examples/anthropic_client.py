"""A step on Anthropic's own client: its answer stays within what the step may spend.

It needs ``pip install "stepwarden[anthropic]"``.
Run it with a key, ``ANTHROPIC_API_KEY=... python examples/anthropic_client.py``, or against any server that speaks the
API, with ``ANTHROPIC_BASE_URL``.
"""

from anthropic import Anthropic

import stepwarden as sw

client = sw.guard(Anthropic())


@sw.step(model="anthropic:claude-haiku-4-5", budget=sw.Budget(max_usd="0.02", max_output_tokens=200))
def classify(issue: str) -> str:
    """Say what kind of issue it is; no more output is asked for than the step may still have."""
    message = client.messages.create(
        model=sw.default_model() or "",
        max_tokens=1_000,
        messages=[{"role": "user", "content": f"Is this a bug or a question? {issue}"}],
    )
    return "".join(block.text for block in message.content if block.type == "text")


with sw.Run(budget=sw.Budget(max_usd="0.10")) as run:
    print(classify("It crashes when I save a file with an empty name."))

for receipt in run.receipts:
    used = receipt.total
    print(receipt.kind, receipt.name, receipt.status, used.total_tokens, "tokens", f"${used.cost_usd:f}")
