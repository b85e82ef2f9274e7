"""Many threads and tasks at once on one tree, whose every transition is looked at while nobody else can move."""

import asyncio
import contextlib
import functools
import random
import sys
import threading
from collections import Counter

import pytest

import stepwarden as sw
from stepwarden.core._amount import unpacked
from tests.core.watched import Watch
from tests.effort import EFFORT

THREADS, LOOPS, TASKS_A_LOOP = 5, 2, 4
ROUNDS = 20 * EFFORT
PRICES = {"m": {"input": 1_000_000, "output": 2_000_000}}
EXPECTED = (
    sw.BudgetExceededError, sw.ReserveTimeoutError, sw.WouldBlockError, sw.EscalationError, TimeoutError, LookupError
)  # fmt: skip


@pytest.fixture(autouse=True)
def switching():
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Worker:
    """Spend at random, and know what it spent.

    Args:
        seed: Where its chance comes from.
        records: Whether it also records what it never reserved, and settles beyond what it reserved.
    """

    def __init__(self, seed, *, records):
        self.chance = random.Random(seed)
        self.records = records
        self.spent = Counter()

    def budget(self):
        """Return limits that are soon met, or none."""
        names = self.chance.sample(
            ("max_tokens", "max_output_tokens", "max_usd", "max_calls"), self.chance.randint(0, 2)
        )
        return sw.Budget(**{name: self.chance.randint(20, 200) for name in names})

    def block(self):
        """Return a step, a persona or a run to enter."""
        kind = self.chance.choice(("step", "step", "persona", "run"))
        if kind == "run":
            return sw.Run(budget=self.budget())
        return getattr(sw, kind)(kind, budget=self.budget())

    def asked(self):
        """Return what to reserve."""
        asked = {"input_tokens": self.chance.randint(0, 9), "output_tokens": self.chance.randint(0, 9)}
        asked["min_output_tokens"] = self.chance.choice((1, asked["output_tokens"]))
        asked["timeout"] = self.chance.choice((None, 0, 0.002))
        return asked | self.chance.choice(({"model": "m"}, {"cost_usd": self.chance.randint(0, 9)}))

    def spend(self, input_tokens, output_tokens, cost):
        """Know of a usage."""
        self.spent.update(input=input_tokens, output=output_tokens, cost=cost, calls=1)

    def end(self, hold):
        """Settle, release or lose a hold."""
        fate = self.chance.random()
        if fate < 0.2:
            hold.release()
        elif fate < 0.3:
            hold.leave()
            self.spend(hold.input_tokens, 0, unpacked(hold.guessed[1][1])[2] / 1e12)
        else:
            beyond = self.chance.randint(0, 9) if self.records else 0
            usage = (
                self.chance.randint(0, hold.input_tokens + beyond),
                self.chance.randint(0, hold.output_tokens + beyond),
            )
            cost = self.chance.randint(0, int(hold.cost_usd) + beyond)
            self.spend(*usage, cost)
            hold.settle(input_tokens=usage[0], output_tokens=usage[1], cost_usd=cost)

    def record(self):
        """Record what was never reserved."""
        usage = self.chance.randint(0, 3), self.chance.randint(0, 3), self.chance.randint(0, 3)
        self.spend(*usage)
        sw.record_usage(input_tokens=usage[0], output_tokens=usage[1], cost_usd=usage[2])

    def in_thread(self, depth=0):
        """Do one round of a thread: blocks inside blocks, and calls in them."""
        with contextlib.suppress(*EXPECTED), self.block():
            for _ in range(self.chance.randint(1, 3)):
                if depth < 3 and self.chance.random() < 0.4:
                    self.in_thread(depth + 1)
                elif self.records and self.chance.random() < 0.3:
                    self.record()
                else:
                    self.end(sw.reserve(**self.asked()).acquire())
                if self.chance.random() < 0.05:
                    raise LookupError

    async def in_task(self, depth=0):
        """Do one round of a task; some of what it starts is cancelled."""
        with contextlib.suppress(*EXPECTED):
            async with self.block():
                for _ in range(self.chance.randint(1, 3)):
                    if depth < 3 and self.chance.random() < 0.4:
                        await self.in_task(depth + 1)
                    elif self.records and self.chance.random() < 0.3:
                        self.record()
                    elif self.chance.random() < 0.3:
                        async with asyncio.timeout(self.chance.choice((0, 0.001))):
                            self.end(await sw.reserve(**self.asked()))
                    else:
                        self.end(await sw.reserve(**self.asked()))


def make_room(scope):
    """Raise the limits of a scope by a little wherever little is left, so that its callers always contend."""
    budget = scope.budget
    with contextlib.suppress(ValueError):  # somebody else has raised it further meanwhile
        if scope.remaining.max_tokens < 10:
            scope.extend(sw.Budget(max_tokens=budget.max_tokens + 40))
        if scope.remaining.max_usd < 10:
            scope.extend(sw.Budget(max_usd=budget.max_usd + 60))


def work_in_loop(workers, shared):
    """Run workers as tasks of one event loop."""

    async def rounds(worker):
        for _ in range(ROUNDS):
            make_room(shared)
            await worker.in_task()

    async def together():
        await asyncio.gather(*(rounds(worker) for worker in workers))

    asyncio.run(together())


def work_in_thread(worker, shared):
    """Run a worker in this thread."""
    for _ in range(ROUNDS):
        make_room(shared)
        worker.in_thread()


@pytest.mark.parametrize("records", [False, True], ids=["reserving only", "recording too"])
def test_every_transition_keeps_every_promise(monkeypatch, records):
    """Whenever the lock is given back, no grant broke a limit, sums agree, and what is held is what is open."""
    workers = [Worker(seed, records=records) for seed in range(THREADS + LOOPS * TASKS_A_LOOP)]
    alone, together = workers[:THREADS], workers[THREADS:]
    with sw.Run(prices=PRICES) as run:
        watch = Watch(run, monkeypatch)
        with sw.step("shared", budget=sw.Budget(max_tokens=60, max_usd=90)) as shared:
            jobs = [sw.propagate(functools.partial(work_in_thread, worker, shared)) for worker in alone]
            jobs += [
                sw.propagate(functools.partial(work_in_loop, together[loop::LOOPS], shared)) for loop in range(LOOPS)
            ]
            threads = [threading.Thread(target=job) for job in jobs]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert shared.held == sw.Usage()
        assert not run.tree.waiting
    if watch.wrong:
        raise watch.wrong[0]
    spent = sum((worker.spent for worker in workers), Counter())
    total = run.total
    assert (total.input_tokens, total.output_tokens, total.calls) == (spent["input"], spent["output"], spent["calls"])
    assert int(total.cost_usd) == spent["cost"]
    assert watch.grants >= ROUNDS
