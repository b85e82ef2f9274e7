"""How a ledger's file grows: its size, a page of its receipts and statistics, by their number.

The goal for the size holds from 10,000 receipts on: an empty file has 60 kB of tables and indexes.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

from benchmarks._measure import yes_or_no
from stepwarden.core._receipt import Status
from stepwarden.ledger import Reading, ReceiptFilter
from stepwarden.ledger._entry import Chain, Entry
from stepwarden.ledger._store import SQLiteStore, open_database

HEADINGS = (
    "receipts",
    "bytes each",
    "written/s",
    "a page (ms)",
    "its slowest filter (ms)",
    "stats (s)",
    "met",
)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
RECEIPTS_A_RUN = 1_000
_ROUNDS = 5
_PERSONAS = [f"persona_{number}" for number in range(8)]
_STEPS = [f"step_{number}" for number in range(40)]
_MODELS = ["openai:gpt-5", "openai:gpt-5-mini", "anthropic:claude-haiku"]
_LARGEST = 1_000_000
_MANY = 10_000


@dataclass(frozen=True, slots=True)
class Growth:
    """One line of the table; the goals hold for every size."""

    receipts: int
    bytes_each: float
    written: float
    page_ms: float
    slowest_ms: float
    stats_seconds: float

    @property
    def is_met(self) -> bool:
        """Tell whether every goal is met: 600 bytes where there are many, 50 ms a page, 2 s for statistics."""
        return self.bytes_each <= 600 and max(self.page_ms, self.slowest_ms) <= 50 and self.stats_seconds <= 2

    def cells(self) -> Sequence[str]:
        """Give the texts of the row's columns."""
        return (
            f"{self.receipts:,}", f"{self.bytes_each:.0f}", f"{self.written:,.0f}", f"{self.page_ms:.1f}",
            f"{self.slowest_ms:.1f}", f"{self.stats_seconds:.2f}", yes_or_no(self.is_met),
        )  # fmt: skip


def cases(sizes: Sequence[int]) -> list[Growth]:
    """Measure files of these sizes.

    Args:
        sizes: Numbers of receipts, multiples of a thousand.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        return [_grow(Path(folder) / f"{size}.db", size) for size in sizes]


def _grow(path: Path, size: int) -> Growth:
    start = time.perf_counter()
    store = SQLiteStore(open_database(path, "process"), "the benchmark's ledger")
    for batch in _batches(size):
        store.commit(batch)
    store.close()
    written = size / (time.perf_counter() - start)
    with Reading(path) as reading:
        pages = {what: _seconds(partial(reading.receipts, chosen)) for what, chosen in _filters(reading)}
        stats = max(_seconds(partial(reading.stats, by), 1) for by in ("persona", "step", "model", "day"))
    everything = pages.pop("everything")
    slowest = max(pages.values())
    return Growth(size, path.stat().st_size / size, written, everything * 1e3, slowest * 1e3, stats)


def _batches(size: int) -> Iterator[list[Entry]]:
    chance = random.Random(size)
    now = 1_790_000_000_000_000_000
    for number in range(max(1, size // RECEIPTS_A_RUN)):
        run = f"{number:020x}"
        chain = Chain(run, "benchmark")
        serial = 0
        batch = [Entry(chain, "run_started", now, {"name": "run"})]
        for serial in range(1, min(size, RECEIPTS_A_RUN) + 1):
            now += chance.randrange(1_000_000_000)
            batch.append(Entry(chain, "receipt", now, _receipt(chance, serial)))
        batch.append(Entry(chain, "run_ended", now, {"status": "completed", "total": {"calls": serial}}))
        yield batch


def _receipt(chance: random.Random, serial: int) -> dict[str, object]:
    cost = f"{Decimal(chance.randrange(1, 90_000)) / 1_000_000:f}".rstrip("0")
    tokens_in, tokens_out = chance.randrange(5_000), chance.randrange(1_000)
    model = chance.choice(_MODELS)
    own = {"calls": 1, "cost_usd": cost, "input_tokens": tokens_in + 1, "output_tokens": tokens_out + 1}
    fields: dict[str, object] = {
        "step": serial, "name": chance.choice(_STEPS), "persona": chance.choice(_PERSONAS), "parent": 1,
        "duration_ns": chance.randrange(10**6, 10**10), "model": model, "own": own, "budget": {"max_usd": "0.1"},
        "calls": [[model, tokens_in + 1, tokens_out + 1, cost, "settled"]],
    }  # fmt: skip
    if chance.random() < 0.03:
        fields["status"] = "skipped"
    if chance.random() < 0.00005:
        fields["status"] = "denied"
    return fields


def _filters(reading: Reading) -> Iterator[tuple[str, ReceiptFilter | None]]:
    newest = reading.receipts(limit=1)[0].receipt
    yield "everything", None
    yield "run", ReceiptFilter(run=newest.run_id)
    yield "persona", ReceiptFilter(persona=_PERSONAS[3])
    yield "step", ReceiptFilter(name=_STEPS[7])
    yield "status", ReceiptFilter(status=Status.SKIPPED)
    yield "rare status", ReceiptFilter(status=Status.DENIED)
    yield "step and rare status", ReceiptFilter(name=_STEPS[7], status=Status.DENIED)
    yield "persona and status", ReceiptFilter(persona=_PERSONAS[3], status=Status.SKIPPED)
    yield "cost", ReceiptFilter(min_cost_usd=Decimal("0.0899"))
    yield "nothing", ReceiptFilter(persona="nobody")
    oldest = reading.runs(limit=_LARGEST)[-1].started_at
    yield "time", ReceiptFilter(until=oldest + (newest.started_at - oldest) / 2)
    yield "time and persona", ReceiptFilter(until=oldest + (newest.started_at - oldest) / 2, persona=_PERSONAS[0])


def _seconds(body: Callable[[], object], rounds: int = _ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
