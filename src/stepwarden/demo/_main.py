"""Start the local model, and run the triage captain on it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path

import stepwarden as sw
from stepwarden.testing import CountedTokens, LocalModel

from ._persona import MODEL, Triage, hooks, triage_captain

PRICES = {MODEL: {"input": 10, "output": 40}}
"""USD per million tokens. The model costs nothing; declared like this, it costs what a large one might."""

BUDGET = sw.Budget(max_usd="0.50", max_tokens=20_000)
"""What the whole run may spend."""

MAX_BYTES = 1_500
"""How much of the text is read. A byte is at most one token, and the model reads about 120 tokens a second."""

# Where it lies in a checkout. An installed package has the same text as its long description.
_README = Path(__file__).parents[3] / "README.md"


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What a run of the demo leaves.

    Attributes:
        run: The finished run with its receipts.
        triage: What the persona returned.
        counted: What the model server counted itself, independent of the receipts.
        source: Where the text came from.
        text: What was read of it.
    """

    run: sw.Run
    triage: Triage
    counted: CountedTokens
    source: str
    text: str


def run_demo(
    path: str | None = None,
    *,
    watch: Callable[[sw.Run], AbstractContextManager[object]] = nullcontext,
    ledger: sw.SQLiteLedger | None = None,
    sign: str | None = None,
) -> DemoOutcome:
    """Run the triage captain on a text, with a model that is served in this process.

    Args:
        path: A text file in UTF-8; without one, this project's own README.
        watch: Called with the open run; what it returns is entered around the persona, for a live view.
        ledger: Where the run is recorded, besides its receipts in memory; None for nowhere.
        sign: The file of the key that its records are signed with, or None.

    Returns:
        The finished run, what came out of it, and what the model server counted.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no text in it, or not in UTF-8.
        RuntimeError: The packages of the extra `stepwarden[demo]` are missing.
    """
    source, whole = _read(path)
    text = _cut(whole)
    run = sw.Run(name="demo", budget=BUDGET, prices=PRICES, hooks=hooks, ledger=ledger, sign=sign)
    with LocalModel() as model, run:
        with watch(run):
            triage = asyncio.run(_triage(model.base_url, text))
        return DemoOutcome(run, triage, model.counted(), source, text)


async def _triage(base_url: str, text: str) -> Triage:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        return await triage_captain(sw.guard(client), text)


def _read(path: str | None) -> tuple[str, str]:
    if path is not None:
        source = path
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"path: {path!r} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    elif _README.is_file():
        source, text = _README.name, _README.read_text(encoding="utf-8")
    else:
        source, text = "the description of the package", metadata("stepwarden")["Description"] or ""
    if not text.strip():
        raise ValueError(f"path: {source!r} has no text in it; name a file with something to read")
    return source, text


def _cut(text: str) -> str:
    # Cut here, and not by surprise in the server; of a character that is cut in two nothing stays.
    return text.encode()[:MAX_BYTES].decode(errors="ignore")
