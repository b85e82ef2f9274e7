"""A client that no integration knows, here plain HTTP: two functions say what a call may cost, and what it did.

It needs ``pip install stepwarden httpx``.
Run it with a key, ``OPENAI_API_KEY=... python examples/guarded_call.py``, or against any server that speaks the API,
with ``OPENAI_BASE_URL``.
"""

import os
from collections.abc import Mapping
from typing import Any

import httpx

import stepwarden as sw

MODEL = "gpt-5-mini"
SERVER = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")


def worst_case(prompt: str, *, max_tokens: int) -> Mapping[str, Any]:
    """Say what a call may cost at most: no token of this model is shorter than a byte."""
    return {"model": MODEL, "input_tokens": len(prompt.encode()) + 20, "output_tokens": max_tokens}


def used(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """Say what a call did cost, from what the server reports."""
    usage = reply["usage"]
    return {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}


@sw.guarded_call(estimate=worst_case, settle=used, output_limit="max_tokens")
def complete(prompt: str, *, max_tokens: int) -> dict[str, Any]:
    """Ask the model; *max_tokens* arrives here as what was granted."""
    body = {
        "model": MODEL,
        "max_completion_tokens": max_tokens,
        "messages": [{"role": "user", "content": prompt}],
    }
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    response = httpx.post(f"{SERVER}/chat/completions", json=body, headers=headers, timeout=60)
    reply: dict[str, Any] = response.raise_for_status().json()
    return reply


@sw.step(budget=sw.Budget(max_tokens=200))
def answer(question: str) -> str:
    """Answer a question, with no more output than the step has left."""
    text: str = complete(question, max_tokens=1_000)["choices"][0]["message"]["content"]
    return text


with sw.Run(budget=sw.Budget(max_usd="0.10")) as run:
    print(answer("Why does it crash when I save?"))

for receipt in run.receipts:
    spent = receipt.total
    print(receipt.kind, receipt.name, receipt.status, spent.total_tokens, "tokens", f"${spent.cost_usd:f}")
