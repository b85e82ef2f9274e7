"""Accounts from the command line: listed, shown, set, paused and resumed."""

import json
import subprocess
import sys

import pytest

import stepwarden as sw


@pytest.fixture
def spent(folder):
    """Leave a ledger with an account of which something is spent."""
    with sw.SQLiteLedger(folder / ".stepwarden" / "ledger.db") as ledger:
        account = sw.Account("captain", daily=sw.Budget(max_usd=2, max_calls=9))
        with sw.Run(ledger=ledger, accounts=[account], tenant="acme"):
            sw.record_usage(input_tokens=30, output_tokens=3, cost_usd="0.5")
            with sw.reserve(cost_usd="0.1") as hold:
                hold.settle(cost_usd="0.1")
    return folder


def as_json(result):
    assert (result.status, result.err) == (0, "")
    return json.loads(result.out)


@pytest.mark.usefixtures("spent")
def test_accounts_are_listed(stepwarden):
    """The list has a row for each window of each account, with what is spent of its limits."""
    for command in (("accounts",), ("accounts", "list")):
        result = stepwarden(*command)
        assert (result.status, result.err) == (0, "")
        assert "captain" in result.out
        assert "tenant:acme" in result.out
        assert "$0.6000/$2.00" in result.out
        assert "30% USD" in result.out


@pytest.mark.usefixtures("spent")
def test_one_account_is_shown_with_every_number(stepwarden):
    """`show --json` has limits, spent, held and uncertain of each window, money as strings."""
    (state,) = as_json(stepwarden("accounts", "show", "captain", "--json"))["accounts"]
    total, daily, hourly = state["windows"]
    assert (state["name"], state["paused"]) == ("captain", None)
    assert [one["window"] for one in (total, daily, hourly)] == ["total", "daily", "hourly"]
    assert (daily["budget"]["max_usd"], daily["spent"]["cost_usd"], daily["spent"]["calls"]) == ("2", "0.6", 2)
    assert (daily["is_set"], total["since"], daily["since"][10:]) == (False, None, "T00:00:00+00:00")


def test_what_is_set_is_in_force_and_is_taken_back(stepwarden, folder):
    """`set` makes an account, comes before the code, and `--clear` takes it back."""
    told = stepwarden("accounts", "set", "captain", "total", "--max-usd", "0.5", "--max-calls", "7")
    assert told.out == "account captain is open; limits: total max_usd 0.5, max_calls 7\n"

    def run():
        account = sw.Account("captain", total=sw.Budget(max_usd=9))
        with sw.SQLiteLedger(folder / ".stepwarden" / "ledger.db") as ledger, sw.Run(ledger=ledger, accounts=[account]):
            sw.reserve(cost_usd=1).acquire().release()

    with pytest.raises(sw.BudgetExceededError, match="account `captain`"):
        run()
    assert as_json(stepwarden("accounts", "set", "captain", "total", "--clear", "--json"))["name"] == "captain"
    run()


@pytest.mark.usefixtures("spent")
def test_pausing_refuses_until_it_is_resumed(stepwarden, folder):
    """A paused account refuses with the reason that was given, and shows as paused, until it is resumed."""

    def run():
        with sw.SQLiteLedger(folder / ".stepwarden" / "ledger.db") as ledger, sw.Run(ledger=ledger, tenant="acme"):
            sw.reserve(cost_usd=1).acquire().release()

    paused = stepwarden("accounts", "pause", "tenant:acme", "--reason", "invoice open")
    assert paused.out.startswith("account tenant:acme is paused")
    assert "paused: invoice open" in stepwarden("accounts").out
    with pytest.raises(sw.AccountPausedError, match="invoice open"):
        run()
    assert as_json(stepwarden("accounts", "resume", "tenant:acme", "--json"))["paused"] is None
    run()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("show", "nobody"), "there is no account 'nobody' in this ledger (accounts: captain, tenant:acme)"),
        (("pause", "nobody"), "there is no account 'nobody'"),
        (("set", "captain", "daily"), "give at least one limit"),
        (("set", "captain", "daily", "--clear", "--max-calls", "1"), "goes without --max-calls"),
        (("set", " ", "daily", "--max-calls", "1"), "name the account"),
        (("set", "captain", "daily", "--max-usd", "much"), "--max-usd must be a finite amount of USD >= 0"),
        (("set", "captain", "daily", "--max-calls", "-1"), "--max-calls must be an int >= 0"),
        (("set", "captain", "daily", "--max-calls", "1.5"), "--max-calls: it must be a whole number, such as 1000"),
        (("set", "captain", "weekly", "--max-calls", "1"), "weekly"),
    ],
)
@pytest.mark.usefixtures("spent")
def test_wrong_usage_is_one_line(stepwarden, command, says):
    """What cannot be done exits with 2 and one line that says why, and changes nothing."""
    result = stepwarden("accounts", *command)
    assert result.status == 2
    assert says in result.err


def test_without_a_ledger_there_are_no_accounts(stepwarden):
    """Listing makes no ledger, and says that there is none; a new one has nothing yet."""
    assert stepwarden("accounts").status == 2


DIES = """
import os, sys, stepwarden as sw

ledger = sw.SQLiteLedger(sys.argv[1])
sw.Run(ledger=ledger, accounts=[sw.Account("captain", daily=sw.Budget(max_usd=2))], tenant="acme").__enter__()
for output in (40, 2):
    sw.reserve(input_tokens=5, output_tokens=output, cost_usd="0.6").acquire()
lost = sw.reserve(output_tokens=100, cost_usd="0.1").acquire()
lost.leave()
ledger.book.ticket().wait()
os._exit(7)
"""


@pytest.fixture
def left(spent):
    """Leave calls on the accounts whose cost nobody knows: two in flight, and one that was lost, of a dead process."""
    path = spent / ".stepwarden" / "ledger.db"
    assert subprocess.run([sys.executable, "-c", DIES, path], check=False).returncode == 7
    return path


@pytest.mark.parametrize(("outcome", "cost", "tokens"), [("spent", "1.9", 185), ("unspent", "0.6", 43)])
def test_what_dead_processes_left_uncertain_is_settled(stepwarden, left, outcome, cost, tokens):
    """What an account has uncertain of processes that died is spent or free again, in each window, and in no other account."""
    told = stepwarden("accounts", "settle", "captain", outcome)
    (state,) = as_json(stepwarden("accounts", "show", "captain", "--json"))["accounts"]
    (other,) = as_json(stepwarden("accounts", "show", "tenant:acme", "--json"))["accounts"]
    again = as_json(stepwarden("accounts", "settle", "captain", outcome, "--json"))

    became = "spent" if outcome == "spent" else "free again"
    assert told.out == f"account captain: 142 tokens, $1.3000 of 3 calls whose processes have ended: {became}\n"
    for one in state["windows"]:
        assert (one["uncertain"]["cost_usd"], one["held"]["calls"], one["spent"]["calls"]) == ("0", 0, 5)
        assert (one["spent"]["cost_usd"], one["spent"]["input_tokens"] + one["spent"]["output_tokens"]) == (
            cost,
            tokens,
        )
    assert [one["uncertain"]["cost_usd"] for one in other["windows"]] == ["1.3"] * 3
    assert (again["account"], again["settled"]["calls"]) == (state, 0)
    assert stepwarden("accounts", "settle", "captain", outcome).out.endswith("left anything uncertain\n")


def test_what_a_living_process_may_learn_is_left_alone(stepwarden, spent):
    """A call of a process that lives stays uncertain, and what it costs in the end is what is spent."""
    account = sw.Account("captain", total=sw.Budget(max_usd=2))
    with sw.SQLiteLedger(spent / ".stepwarden" / "ledger.db") as ledger, sw.Run(ledger=ledger, accounts=[account]):
        hold = sw.reserve(cost_usd="0.7").acquire()
        hold.leave()
        ledger.book.ticket().wait()
        settled = as_json(stepwarden("accounts", "settle", "captain", "spent", "--json"))["settled"]
        hold.settle(cost_usd="0.2")
    (state,) = as_json(stepwarden("accounts", "show", "captain", "--json"))["accounts"]

    assert settled["calls"] == 0
    assert (state["windows"][0]["spent"]["cost_usd"], state["windows"][0]["uncertain"]["cost_usd"]) == ("0.8", "0")
