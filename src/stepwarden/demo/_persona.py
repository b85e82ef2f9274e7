"""A triage captain: it says what a text is about, and each of its steps stays inside a contract of its own."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import stepwarden as sw

from ._tools import INSPECTIONS, write_file

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.shared_params import ResponseFormatJSONSchema, ResponseFormatText

MODEL = "smollm2-135m"
KINDS = ["bug report", "feature request", "question", "documentation"]
PLAIN_TEXT: ResponseFormatText = {"type": "text"}


@dataclass(frozen=True, slots=True)
class Triage:
    """What the captain found out about a text, and what it was not allowed to do."""

    kind: str
    subject: str
    summary: str
    opinions: tuple[str, ...]
    title: str
    finding: str
    refusals: tuple[str, ...]


# Each step names its default model, and `ask` takes whatever the step around it has named.


@sw.step(model=MODEL, budget=sw.Budget(max_tokens=4_000, max_usd="0.05"))
async def classify(client: AsyncOpenAI, text: str) -> tuple[str, str]:
    """Say of what kind *text* is and what it is about, in JSON that the server enforces."""
    answer = await ask_for(
        client,
        text,
        "What kind of text is this, and what is its subject? Answer in JSON.",
        kind={"type": "string", "enum": KINDS},
        subject={"type": "string", "maxLength": 40},
    )
    return answer.get("kind", "unknown"), answer.get("subject", "")


@sw.step(model=MODEL, budget=sw.Budget(max_tokens=4_000, max_usd="0.05"))
async def summarize(client: AsyncOpenAI, text: str) -> str:
    """Summarize *text*."""
    return await ask(client, text, "Summarize this text in two sentences.", max_tokens=80)


@sw.step(model=MODEL)
async def opinion(client: AsyncOpenAI, summary: str, reader: str) -> str:
    """Say what one *reader* thinks; what it may spend is up to the step around it."""
    return await ask(client, summary, f"In one sentence: what does {reader} think of this?", max_tokens=64)


@sw.step(budget=sw.Budget(max_output_tokens=96))
async def weigh(client: AsyncOpenAI, summary: str) -> tuple[str, ...]:
    """Ask for two opinions at once, out of one budget.

    Each may answer with 64 tokens, and two times 64 do not fit into 96: the second waits until the first has
    settled what it really used, and gets what is then left, up to 64.
    """
    return tuple(
        await asyncio.gather(
            opinion(client, summary, "a user"),
            opinion(client, summary, "the maintainer"),
        )
    )


@sw.step(model=MODEL, budget=sw.Budget(max_calls=1), error_boundary="continue", fallback="(untitled)")
async def find_title(client: AsyncOpenAI, summary: str) -> str:
    """Draft a title and polish it: the budget runs out after the draft, so the fallback is the title."""
    draft = await ask(client, summary, "Write a short title for this text.", max_tokens=16)
    return await ask(client, draft, "Make this title shorter.", max_tokens=16)


@sw.step(model=MODEL, budget=sw.Budget(max_usd="0.0001"), error_boundary="escalate")
async def review(client: AsyncOpenAI, text: str) -> str:
    """Review *text* at length: at its worst that costs more than is allowed, so it is never sent."""
    return await ask(client, text, "Review this text at length.", max_tokens=512)


@sw.step(model=MODEL, budget=sw.Budget(max_tokens=2_000, max_calls=1))
async def choose_tool(client: AsyncOpenAI, summary: str) -> str:
    """Choose one of the tools that look into a text."""
    question = "Which tool tells most about this text: " + ", ".join(INSPECTIONS) + "? Answer in JSON."
    answer = await ask_for(client, summary, question, tool={"type": "string", "enum": list(INSPECTIONS)})
    return answer.get("tool", "count_words")


@sw.step
async def use_tool(text: str, tool: str) -> tuple[str, str]:
    """Use *tool* on *text*, and try to write down what it found: the stage below lets this step only read."""
    finding = f"{tool}: {INSPECTIONS[tool](text)}"
    try:
        write_file("triage.txt", finding)
    except sw.ToolDeniedError as refusal:
        return finding, str(refusal)
    return finding, ""


@sw.step(model=MODEL)
async def publish(client: AsyncOpenAI, summary: str) -> str:
    """Write a reply for everybody to see: the hook below wants a person to agree first."""
    return await ask(client, summary, "Write a friendly reply.", max_tokens=64)


hooks = sw.Hooks()


@hooks.on("PreStep", persona="triage_*", step="publish")
def needs_a_person(event: sw.HookEvent) -> sw.Deny:
    """Refuse the step before its body runs."""
    return sw.Deny(f"{event.step} needs the consent of a person")


@sw.persona(
    tools=["count_words", "list_headings", "find_links", "write_file"],
    budget=sw.Budget(max_usd="0.20"),
    stages=[sw.Stage(use_tool, side_effect_level="read_only")],
)
async def triage_captain(client: AsyncOpenAI, text: str) -> Triage:
    """Triage *text*: each step has a contract, and where one says no the captain goes on."""
    refusals = []
    kind, subject = await classify(client, text)
    summary = await summarize(client, text)
    opinions = await weigh(client, summary)
    title = await find_title(client, summary)
    try:
        await review(client, text)
    except sw.EscalationError as escalation:
        refusals.append(str(escalation))
    tool = await choose_tool(client, summary)
    finding, refusal = await use_tool(text, tool)
    refusals.append(refusal)
    try:
        await publish(client, summary)
    except sw.HookDeniedError as denial:
        refusals.append(str(denial))
    return Triage(kind, subject, summary, opinions, title, finding, tuple(refusals))


async def ask(
    client: AsyncOpenAI,
    text: str,
    question: str,
    *,
    max_tokens: int,
    answer_format: ResponseFormatText | ResponseFormatJSONSchema = PLAIN_TEXT,
) -> str:
    """Put one *question* about *text* to the default model of the step around this call."""
    reply = await client.chat.completions.create(
        model=sw.default_model() or MODEL,
        messages=[{"role": "user", "content": f"{text}\n\n{question}"}],
        max_tokens=max_tokens,
        temperature=0,
        response_format=answer_format,
    )
    return (reply.choices[0].message.content or "").strip()


async def ask_for(client: AsyncOpenAI, text: str, question: str, **properties: dict[str, Any]) -> dict[str, str]:
    """Put one *question* that is answered by a JSON object with these *properties*."""
    schema: dict[str, object] = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    answer_format: ResponseFormatJSONSchema = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }
    answer = await ask(client, text, question, max_tokens=160, answer_format=answer_format)
    try:
        return dict(json.loads(answer))
    except json.JSONDecodeError:
        # The schema bounds the strings, not the white space between them: a reply may still end at its limit.
        return {}
