"""Verifying: how many receipts a second a run's chain, its file and its ledger are checked at."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

from benchmarks._measure import yes_or_no
from stepwarden.ledger._entry import Chain, Entry
from stepwarden.ledger._export import verify_export, write_export
from stepwarden.ledger._finding import Verdict
from stepwarden.ledger._reading import Reading
from stepwarden.ledger._store import SQLiteStore, open_database
from stepwarden.ledger._stored import verify_run
from stepwarden.ledger._verify import verify

GOAL = 200_000
RUN = "00112233445566778899"
START = 1_764_038_714_000_000_000
HEADINGS = ("receipts", "what is verified", "receipts a second of CPU", "goal", "met")
_ROUNDS = 3
_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one kind of check was."""

    receipts: int
    what: str
    per_second: float
    goal: int | None

    @property
    def is_met(self) -> bool:
        """Tell whether the goal is met; what has none always does."""
        return self.goal is None or self.per_second >= self.goal

    def cells(self) -> tuple[str, ...]:
        """Give the texts of the row's columns."""
        goal, met = ("", "") if self.goal is None else (f"≥ {self.goal:,}", yes_or_no(self.is_met))
        return (f"{self.receipts:,}", self.what, f"{self.per_second:,.0f}", goal, met)


def speeds(receipts: int) -> list[Speed]:
    """Verify a run of so many receipts in each way; time is CPU time, since there is one thread and no waiting."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, exported = Path(folder, "ledger.db"), Path(folder, "run.jsonl")
        _fill(ledger, receipts)
        with Reading(ledger) as reading:
            end = reading.end(RUN)
            rows = [(data, head) for _, data, head in reading.records(RUN)]
            with exported.open("wb") as file:
                write_export(file, RUN, rows, end)
            return [
                _speed(receipts, "the chain, in memory", GOAL, lambda: verify(RUN, lambda: rows, end)),
                _speed(receipts, "an exported file", GOAL, lambda: verify_export(exported)),
                _speed(receipts, "a ledger, its lists included", None, lambda: verify_run(reading, RUN)),
            ]


def _speed(receipts: int, what: str, goal: int | None, check: Callable[[], Verdict]) -> Speed:
    best = float("inf")
    for _ in range(_ROUNDS):
        start = process_time()
        verdict = check()
        best = min(best, process_time() - start)
        if not verdict.is_intact:
            raise AssertionError(verdict.findings[0])
    return Speed(receipts, what, receipts / best, goal)


def _fill(ledger: Path, receipts: int) -> None:
    store = SQLiteStore(open_database(ledger, "process"), str(ledger))
    chain = Chain(RUN, "nobody")
    entries = [Entry(chain, "run_started", START, {"name": "run"})]
    usage = {"calls": 1, "cost_usd": "0.0074", "input_tokens": 492, "output_tokens": 61}
    common = {"budget": {"max_usd": "0.05"}, "name": "classify", "parent": 2, "persona": "captain", "own": usage}
    for number in range(receipts):
        call = ["gpt-5-mini", 492, 61, "0.0074", "settled"]
        mine = {"calls": [call], "duration_ns": 5_400_000_000 + number, "model": "gpt-5-mini", "step": number + 3}
        entries.append(Entry(chain, "receipt", START + 1_000_000 * number, {**common, **mine}))
        if len(entries) >= _BATCH:
            store.commit(entries)
            entries = []
    entries.append(Entry(chain, "run_ended", START, {"status": "completed"}))
    store.commit(entries)
    store.close()
