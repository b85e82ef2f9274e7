"""Processes that are killed at random instants lose nothing that was acknowledged, and owe what was in flight."""

import os
import random
import signal
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import pytest

import stepwarden as sw
from stepwarden.ledger import ReceiptFilter, recover
from stepwarden.ledger._record import decode
from stepwarden.ledger._verify import verify
from stepwarden.testing import Reply, ScriptedModel

pytestmark = pytest.mark.timeout(1_200)
ROUNDS = int(os.environ.get("STEPWARDEN_KILL_ROUNDS", "20"))
"""20 for a look; 200 is the long mode."""


class SlowModel:
    """Answer after a moment, and know how many it is thinking about."""

    def __init__(self, chance):
        self._chance = chance
        self._lock = threading.Condition()
        self.started = self.finished = 0
        self.is_wanted = 0
        self.is_reached = threading.Event()

    def __call__(self, request):
        with self._lock:
            self.started += 1
            if self.started >= self.is_wanted:
                self.is_reached.set()
            moment = self._chance.uniform(0.1, 0.4)
        threading.Event().wait(moment)
        with self._lock:
            self.finished += 1
            self._lock.notify_all()
        return Reply("ok", input_tokens=7, output_tokens=3)

    def want(self, more):
        """Set `is_reached` after so many requests more."""
        with self._lock:
            self.is_wanted = self.started + more
            self.is_reached.clear()

    def wait_until_idle(self):
        """Wait until it thinks about nothing any more, whoever asked."""
        with self._lock:
            assert self._lock.wait_for(lambda: self.started == self.finished, 30)

    @property
    def thinking(self):
        with self._lock:
            return self.started - self.finished


class Agents:
    """Start agents and kill them."""

    def __init__(self):
        script = Path(__file__).with_name("agents.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, *words):
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def start(self, *arguments):
        return int(self._ask("start", *arguments))

    def kill(self, process):
        """Kill an agent; when this returns, it is dead."""
        os.kill(process, signal.SIGKILL)
        assert self._ask("reap") == "reaped"

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def agents(require_service):
    require_service("the OpenAI SDK", module="openai")
    started = Agents()
    yield started
    started.close()


def books_of(reading, run):
    """Return the holds and the last settlement of each of them, by their numbers, from a run's records."""
    holds, settled = {}, {}
    for stored in reading.records(run):
        record = decode(stored.data)
        if record["kind"] == "hold":
            holds[record["hold"]] = record
        elif record["kind"] == "settlement":
            settled[record["hold"]] = record
    return holds, settled


def test_killed_at_random_instants(path, tmp_path, agents):
    """Whenever a process is killed: each acknowledged receipt is there, the chain verifies, each request that reached the model was on the disk before, what was in flight is uncertain, and the run is abandoned with what it spent."""
    chance = random.Random(int.from_bytes(os.urandom(4)))
    model = SlowModel(chance)
    in_flight_kills = 0
    with ScriptedModel(default=model) as server, sw.SQLiteLedger(path) as ledger:
        with sw.Run(ledger=ledger, name="bystander") as bystander, sw.step("stays open"):
            kept = sw.reserve(input_tokens=1, cost_usd=1).acquire()
            for number in range(ROUNDS):
                durability = ("process", "full")[number // 2 % 2]
                acknowledged = tmp_path / f"acknowledged-{number}"
                before = server.count
                model.want(chance.randint(1, 12))
                agent = agents.start(path, durability, server.base_url, acknowledged)
                if chance.random() < 0.9:
                    model.is_reached.wait(60)
                    threading.Event().wait(chance.uniform(0, 0.3))
                else:
                    threading.Event().wait(chance.uniform(0, 0.2))
                agents.kill(agent)
                thinking = model.thinking
                in_flight_kills += thinking > 0
                server.wait_until_idle(30)
                model.wait_until_idle()
                sent = server.count - before

                found = recover(path) if number % 2 else reopened(path, durability)
                assert len(found) <= 1
                check(path, found, acknowledged, sent, thinking, bystander)
            kept.settle(input_tokens=1, cost_usd="0.5")
        with ledger.read() as reading:
            run = reading.run(bystander.id)
            assert (run.status, run.total.cost_usd) == (sw.Status.COMPLETED, Decimal("0.5"))
            assert run.total.calls == 1
    assert in_flight_kills >= ROUNDS / 2, f"only {in_flight_kills} kills hit with a call in flight"
    assert list(path.parent.glob("*-live-*")) == []


def reopened(path, durability):
    with sw.SQLiteLedger(path, durability=durability) as ledger:
        return ledger.recovered


def check(path, found, acknowledged, sent, thinking, bystander):
    said = acknowledged.read_text().split() if acknowledged.exists() else []
    assert all("." in step for step in said)
    if not found:
        # Killed before the run was on the disk: then nothing was sent, and nothing acknowledged.
        assert (sent, said) == (0, [])
        return
    (recovered,) = found
    with sw.ledger.Reading(path) as reading:
        run = reading.run(recovered.id)
        holds, settled = books_of(reading, run.id)
        rows = {row.receipt.step_id: row for row in reading.receipts(ReceiptFilter(run=run.id), limit=100_000)}
        verdict = verify(run.id, lambda: ((one.data, one.head) for one in reading.records(run.id)), reading.end(run.id))
        assert verdict.findings == ()
        assert reading.run(bystander.id).ended_at is None
    # Every acknowledged record is there.
    assert set(said) <= {step for step, row in rows.items() if row.receipt.status == "completed"}
    # Nothing was sent that was not on the disk before.
    assert sent <= len(holds)
    assert holds.keys() == settled.keys()
    # What was in flight is owed.
    assert thinking <= recovered.in_flight <= len(holds)
    uncertain = [one for one in settled.values() if one["outcome"] == "uncertain"]
    assert len(uncertain) >= recovered.in_flight
    assert recovered.uncertain.output_tokens == sum(one["uncertain_output_tokens"] for one in uncertain)
    # The run is abandoned with what it spent, and so is each scope that was open.
    assert run.status == "abandoned"
    charged = [one for one in settled.values() if one["outcome"] != "released"]
    assert run.total.calls == len(charged)
    assert run.total.input_tokens == sum(one["input_tokens"] for one in charged)
    assert (run.total.cost_usd, run.total.output_tokens) == (recovered.total.cost_usd, recovered.total.output_tokens)
    roots = [row.receipt for row in rows.values() if row.receipt.parent_id == run.id]
    assert sum(one.total.calls for one in roots) == run.total.calls
    abandoned = [row.receipt for row in rows.values() if row.receipt.status == "abandoned"]
    assert len(abandoned) == recovered.abandoned
    assert all(one.warnings for one in abandoned)
