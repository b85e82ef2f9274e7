"""What durable records cost: a step against a bare insert, many runs against one flush a record, bytes a receipt.

One flush a record is as little as can be: rows as long as a receipt's record, inserted in one thread, each in a
transaction of its own, in a file beside the ledger's. How often 64 runs are as fast depends on what a flush costs, for
that is all that they share: where a step's own work takes a tenth of one, nothing makes it ten times. So both are in
the table.

The size is that of whole files with ten thousand receipts in runs of sixty, for an empty one has 60 kB of tables and
indexes. All that a step writes counts: of one with a call also the records of its beginning, hold and settlement.
"""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._measure import yes_or_no
from stepwarden import Budget, Run, SQLiteLedger, persona, record_usage, reserve, step, tool

ROUNDS = 9
PARALLEL_RUNS = 64
STEPS_A_RUN = 100
RECEIPTS_IN_FILE = 10_000
_RECEIPTS_A_RUN = 60
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


@step(name="classify", budget=Budget(max_usd=1))
def classify() -> None:
    """Have made one call."""
    record_usage("openai:gpt-5-mini", input_tokens=1_200, output_tokens=85, cost_usd="0.00047")


@step(name="answer", budget=Budget(max_usd=1))
def answer() -> None:
    """Make one call, held before it is sent."""
    with reserve(input_tokens=1_200, output_tokens=500, cost_usd="0.0013", model="openai:gpt-5-mini") as hold:
        hold.settle(input_tokens=1_187, output_tokens=85, cost_usd="0.00047")


@tool(name="search", side_effect="none")
def search() -> None:
    """Do nothing."""


@step(name="look_up", budget=Budget(max_tool_calls=3))
def look_up() -> None:
    """Call a tool."""
    search()


@persona(name="captain", budget=Budget(max_usd=5))
def task() -> None:
    """Do what an agent does: three steps with a call, one with a tool and one without anything."""
    answer()
    look_up()
    answer()
    plan()
    answer()


_RECEIPTS_A_TASK = 6


def cases(repetitions: int) -> list[Case]:
    """Measure everything in a folder of its own.

    Args:
        repetitions: How many steps a round takes.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        return [
            _step_at_process(folder, repetitions),
            *_parallel_at_full(folder),
            *_bytes(folder),
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


def _parallel_at_full(folder: Path) -> list[Case]:
    flushes, ratios, rates, cpu = [], [], [], []
    receipts = STEPS_A_RUN * PARALLEL_RUNS
    bare = _BareInserts(folder / "bare-full.db", "full")
    with SQLiteLedger(folder / "full.db") as ledger:

        @step(name="plan", budget=Budget(max_tokens=1_000))
        async def plan_in_task() -> None:
            """Do nothing."""

        async def one_run() -> None:
            async with Run(ledger=ledger):
                for _ in range(STEPS_A_RUN):
                    await plan_in_task()

        async def all_runs() -> None:
            await asyncio.gather(*(one_run() for _ in range(PARALLEL_RUNS)))

        for _ in range(ROUNDS // 3):
            flushes.append(_timed(lambda: bare.insert(200)) / 200)
            start = time.process_time()
            together = _timed(lambda: asyncio.run(all_runs())) / receipts
            cpu.append((time.process_time() - start) / receipts)
            ratios.append(flushes[-1] / together)
            rates.append(1 / together)
    bare.close()
    ratio = statistics.median(ratios)
    what = f"{PARALLEL_RUNS} runs at once, at full"
    return [
        Case("one flush a record: a bare insert, at full", _microseconds(flushes), "", is_met=True),
        Case(what, f"{ratio:.1f} times one flush a record", "≥ 10 times", ratio >= 10),
        Case(what, f"{statistics.median(rates):,.0f} receipts/s", "", is_met=True),
        Case(f"{what}: CPU a receipt, its step and task with it", _microseconds(cpu), "", is_met=True),
    ]


def _microseconds(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e6:,.0f} µs"


def _bytes(folder: Path) -> list[Case]:
    found = []
    for what, body, receipts in (
        ("a step that only ran", plan, 1),
        ("a step with a call that was recorded after the fact", classify, 1),
        ("a step with a call that was held", answer, 1),
        ("an agent's tasks, half of them with such a call", task, _RECEIPTS_A_TASK),
    ):
        path = folder / f"bytes-{body.__name__}.db"
        runs = -(-RECEIPTS_IN_FILE // _RECEIPTS_A_RUN)
        with SQLiteLedger(path, durability="process") as ledger:
            for _ in range(runs):
                with Run(ledger=ledger, max_receipts=1):
                    _times(body, _RECEIPTS_A_RUN // receipts)
        size = path.stat().st_size / (runs * _RECEIPTS_A_RUN)
        found.append(Case(f"in the file, a receipt of {what}", f"{size:.0f} bytes", "≤ 600 bytes", size <= 600))
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
