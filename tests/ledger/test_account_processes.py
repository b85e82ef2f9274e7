"""Accounts in one file: shared by processes, never passed, and right after any of them is killed."""

import os
import signal
import subprocess
import sys
import time
from decimal import Decimal

import pytest

import stepwarden as sw
from stepwarden.ledger._recovery import recover
from tests.effort import EFFORT

WORKER = """
import sys, stepwarden as sw
account = sw.Account("a", total=sw.Budget(max_usd=sys.argv[2]))
with sw.SQLiteLedger(sys.argv[1], durability="process") as ledger, sw.Run(ledger=ledger, accounts=[account]):
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[3])):
        try:
            with sw.reserve(cost_usd="0.1", output_tokens=5) as hold:
                print("held", flush=True)
                hold.settle(output_tokens=5, cost_usd="0.05")
        except sw.BudgetExceededError as error:
            assert error.scope_kind == "account", error
            break
"""


def start(path, limit, calls):
    """Start a process that spends from the account."""
    command = [sys.executable, "-c", WORKER, str(path), limit, str(calls)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(workers):
    """Let all begin at once."""
    for one in workers:
        assert one.stdout.readline() == "ready\n"
    for one in workers:
        one.stdin.write("\n")
        one.stdin.flush()


def total(path):
    """Return the numbers of the account for all time."""
    with sw.SQLiteLedger(path) as ledger:
        return ledger.book.states(time.time_ns())[0].windows[0]


def test_eight_processes_use_an_account_up_and_never_pass_it(tmp_path):
    """Eight processes on one file spend at least 95 % of the limit that they share, and nothing over."""
    path = tmp_path / "ledger.db"
    sw.SQLiteLedger(path).close()
    workers = [start(path, "4", 40) for _ in range(8)]
    go(workers)
    assert [one.wait(60) for one in workers] == [0] * 8
    for one in workers:
        one.stdin.close()
        one.stdout.close()
    now = total(path)
    assert Decimal("3.8") <= now.spent.cost_usd <= 4
    assert now.held.calls == 0
    assert now.uncertain.cost_usd == 0


@pytest.mark.parametrize("round_", range(2 * EFFORT))
def test_a_killed_process_leaves_what_it_held_uncertain(tmp_path, round_):
    """After kill -9 of some among eight, the sum is within the limit, and nothing is held once they are recovered."""
    path = tmp_path / "ledger.db"
    sw.SQLiteLedger(path).close()
    workers = [start(path, "3", 60) for _ in range(8)]
    go(workers)
    for one in workers[:4]:
        for _ in range(round_ % 5 + 1):
            one.stdout.readline()
        os.kill(one.pid, signal.SIGKILL)
        one.wait(60)
    for one in workers[4:]:
        one.communicate(timeout=60)
        assert one.returncode == 0
    for one in workers[:4]:
        one.stdin.close()
        one.stdout.close()
    recover(path)
    now = total(path)
    assert now.spent.cost_usd + now.uncertain.cost_usd <= 3
    assert now.held == sw.Usage()
    assert now.spent.cost_usd + now.uncertain.cost_usd >= Decimal("2.85")


def test_who_waits_for_a_dead_process_is_told(tmp_path):
    """A caller waits no longer for what nobody will give back: the hold of a killed process is uncertain, and refuses."""
    path = tmp_path / "ledger.db"
    account = sw.Account("a", total=sw.Budget(max_usd=1))
    script = (
        "import os, sys, stepwarden as sw\n"
        "run = sw.Run(ledger=sw.SQLiteLedger(sys.argv[1]), accounts=[sw.Account('a')])\n"
        "run.__enter__()\n"
        "sw.reserve(cost_usd='0.7').acquire()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger, accounts=[account]):
        assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
        with pytest.raises(sw.BudgetExceededError) as met:
            sw.reserve(cost_usd="0.5", timeout=60).acquire()
        assert (met.value.reason, met.value.uncertain, met.value.held) == ("no_room", Decimal("0.7"), 0)
        with sw.reserve(cost_usd="0.3") as hold:
            hold.settle(cost_usd="0.1")


def test_recovery_leaves_the_holds_of_living_processes(tmp_path):
    """What a living process holds stays held while the file is opened and recovered by others."""
    path = tmp_path / "ledger.db"
    account = sw.Account("a", total=sw.Budget(max_usd=1))
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger, accounts=[account]):
        hold = sw.reserve(cost_usd="0.7").acquire()
        recover(path)
        assert total(path).held.cost_usd == Decimal("0.7")
        hold.settle(cost_usd="0.2")
    assert (total(path).held.calls, total(path).spent.cost_usd) == (0, Decimal("0.2"))


def test_the_hold_of_a_dead_process_is_charged_as_estimated(tmp_path):
    """The input of a call that was in flight is spent, and the rest of what it held is uncertain."""
    path = tmp_path / "ledger.db"
    script = (
        "import os, sys, stepwarden as sw\n"
        "run = sw.Run(ledger=sw.SQLiteLedger(sys.argv[1]), accounts=[sw.Account('a')],"
        " prices={'m': {'input': 1, 'output': 2}})\n"
        "run.__enter__()\n"
        "sw.reserve(model='m', input_tokens=1_000_000, output_tokens=500_000).acquire()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
    now = total(path)
    assert (now.spent.input_tokens, now.spent.cost_usd, now.spent.calls) == (1_000_000, Decimal(1), 1)
    assert (now.uncertain.output_tokens, now.uncertain.cost_usd, now.held) == (500_000, Decimal(1), sw.Usage())


def test_a_closed_ledger_has_no_accounts(tmp_path):
    """A call on an account of a file that was closed is refused, and leaves nothing held in its run."""
    ledger = sw.SQLiteLedger(tmp_path / "ledger.db")
    with pytest.raises(sw.LedgerError), sw.Run(ledger=ledger, accounts=[sw.Account("a")]) as run:
        ledger.close()
        sw.reserve(cost_usd="0.1").acquire()
    assert run.held.calls == 0


def test_the_records_of_a_run_name_its_tenant(tmp_path):
    """A run for a tenant has it in its records and on the lists."""
    with sw.SQLiteLedger(tmp_path / "ledger.db") as ledger:
        with sw.Run(ledger=ledger, tenant="acme") as run:
            pass
        with ledger.read() as reading:
            assert reading.run(run.id).tenant == "acme"
