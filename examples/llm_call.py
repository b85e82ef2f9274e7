"""A step that needs no client: `llm_call` asks the step's own model, under the step's own budget.

It needs ``pip install "stepwarden[llm]"``.
Run it with a key, ``OPENAI_API_KEY=... python examples/llm_call.py``, or against any server that speaks the API, with
``OPENAI_BASE_URL``.
"""

import stepwarden as sw


@sw.step(model="openai-chat:gpt-5-mini", budget=sw.Budget(max_usd="0.02"))
def translate(text: str) -> str:
    """Translate a text."""
    return sw.llm_call(text, system="Translate into French.", max_tokens=200).text


with sw.Run(budget=sw.Budget(max_usd="0.10")) as run:
    print(translate("It crashes when I save."))

for receipt in run.receipts:
    used = receipt.total
    print(receipt.kind, receipt.name, receipt.status, used.total_tokens, "tokens", f"${used.cost_usd:f}")
