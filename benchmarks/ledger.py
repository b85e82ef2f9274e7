"""What durable records cost: a step against a bare insert, many runs against one flush a record, bytes a receipt."""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._measure import yes_or_no
from stepwarden import Budget, Run, SQLiteLedger, record_usage, step

ROUNDS = 9
PARALLEL_RUNS = 64
HEADINGS = ("ledger", "measured", "goal", "met")
_RECORD = b"x" * 260
"""As long as the record of a step that only ran."""
_SYNCHRONOUS = {"process": "NORMAL", "full": "FULL"}


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table: what was measured, in words, and whether it meets its goal."""

    what: str
    measured: str
    goal: str
    is_met: bool

    def cells(self) -> Sequence[str]:
        """Give the texts of the row's columns."""
        return (self.what, self.measured, self.goal, yes_or_no(self.is_met) if self.goal else "")


@step(name="plan", budget=Budget(max_tokens=1_000))
def plan() -> None:
    """Do nothing."""


@step(name="plan", budget=Budget(max_usd=1))
def plan_with_a_call() -> None:
    """Have made one call."""
    record_usage("openai:gpt-5-mini", input_tokens=1_200, output_tokens=85, cost_usd="0.00047")


def cases(repetitions: int) -> list[Case]:
    """Measure everything in a folder of its own.

    Args:
        repetitions: How many steps a round takes.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        return [
            _step_at_process(folder, repetitions),
            *_parallel_at_full(folder, max(8, repetitions // 50)),
            *_bytes(folder, repetitions),
        ]


def _step_at_process(folder: Path, repetitions: int) -> Case:
    ratios = []
    bare = _BareInserts(folder / "bare.db", "process")
    with SQLiteLedger(folder / "process.db", durability="process") as ledger, Run(ledger=ledger):
        _timed(lambda: _times(plan, repetitions // 10))
        for _ in range(ROUNDS):
            floor = _timed(lambda: bare.insert(repetitions))
            ratios.append(_timed(lambda: _times(plan, repetitions)) / floor)
    bare.close()
    ratio = statistics.median(ratios)
    goal = "≤ 3 bare inserts"
    return Case("a step with its durable receipt, at process", f"{ratio:.2f} bare inserts", goal, ratio <= 3)


def _parallel_at_full(folder: Path, steps: int) -> list[Case]:
    ratios, rates = [], []
    bare = _BareInserts(folder / "bare-full.db", "full")
    with SQLiteLedger(folder / "full.db") as ledger:

        @step(name="plan", budget=Budget(max_tokens=1_000))
        async def plan_in_task() -> None:
            """Do nothing."""

        async def one_run() -> None:
            async with Run(ledger=ledger):
                for _ in range(steps):
                    await plan_in_task()

        async def all_runs() -> None:
            await asyncio.gather(*(one_run() for _ in range(PARALLEL_RUNS)))

        for _ in range(ROUNDS // 3):
            alone = _timed(lambda: bare.insert(100)) / 100
            together = _timed(lambda: asyncio.run(all_runs())) / (steps * PARALLEL_RUNS)
            ratios.append(alone / together)
            rates.append(1 / together)
    bare.close()
    ratio = statistics.median(ratios)
    what = f"{PARALLEL_RUNS} runs at once, at full"
    return [
        Case(what, f"{ratio:.1f} times one flush a record", "≥ 10 times", ratio >= 10),
        Case(what, f"{statistics.median(rates):,.0f} receipts/s", "", is_met=True),
    ]


def _bytes(folder: Path, repetitions: int) -> list[Case]:
    found = []
    for what, body, goal in (
        ("a receipt in the file, of a step that only ran", plan, 600),
        ("a receipt in the file, with a call and its record", plan_with_a_call, None),
    ):
        path = folder / f"bytes-{body.__name__}.db"
        with SQLiteLedger(path, durability="process") as ledger, Run(ledger=ledger, max_receipts=1):
            for _ in range(repetitions):
                body()
        size = path.stat().st_size / repetitions
        met = goal is None or size <= goal
        found.append(Case(what, f"{size:.0f} bytes", "" if goal is None else f"≤ {goal} bytes", met))
    return found


class _BareInserts:
    """Insert rows as SQLite does it without us, each in a transaction of its own, at the same setting."""

    def __init__(self, path: Path, durability: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
        self._database.execute("CREATE TABLE records(key INTEGER PRIMARY KEY, data BLOB)")

    def insert(self, repetitions: int) -> None:
        """Insert so many."""
        execute = self._database.execute
        for _ in range(repetitions):
            execute("BEGIN IMMEDIATE")
            execute("INSERT INTO records(data) VALUES (?)", (_RECORD,))
            execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _times(body: Callable[[], None], repetitions: int) -> None:
    for _ in range(repetitions):
        body()


def _timed(body: Callable[[], object]) -> float:
    start = time.perf_counter()
    body()
    return time.perf_counter() - start
