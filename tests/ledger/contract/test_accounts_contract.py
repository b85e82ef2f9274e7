"""What every ledger keeps to about accounts."""

import asyncio
import threading
import time
from decimal import Decimal

import pytest

import stepwarden as sw
from stepwarden.accounts._book import SetTerms
from stepwarden.accounts._funds import book_in

ACCOUNT = sw.Account("a", total=sw.Budget(max_usd=1), daily=sw.Budget(max_calls=50))


def spend(cost, settled=None):
    with sw.reserve(cost_usd=cost) as hold:
        hold.settle(cost_usd=cost if settled is None else settled)


def total(ledger):
    return book_in(ledger).states(time.time_ns())[0].windows[0]


def test_an_account_is_shared_by_the_runs_of_a_ledger(ledger):
    """What one run spends is gone for the next; recorded and released calls count as they must."""
    with sw.Run(ledger=ledger, accounts=[ACCOUNT]):
        spend("0.5", "0.4")
        sw.record_usage(cost_usd="0.1", input_tokens=3)
        sw.reserve(cost_usd="0.5").acquire().release()
    with sw.Run(ledger=ledger, accounts=[ACCOUNT]), pytest.raises(sw.BudgetExceededError, match="account `a`"):
        spend("0.6")
    now = total(ledger)
    assert (now.spent.cost_usd, now.spent.input_tokens, now.spent.calls) == (Decimal("0.5"), 3, 2)
    assert now.held == now.uncertain == sw.Usage()


def test_what_is_uncertain_stays_until_a_late_settlement(ledger):
    """A hold left open is uncertain beyond its run; a settlement after the run's end replaces it."""
    with sw.Run(ledger=ledger, accounts=[ACCOUNT]):
        hold = sw.reserve(cost_usd="0.8").acquire()
    assert total(ledger).uncertain.cost_usd == Decimal("0.8")
    hold.settle(cost_usd="0.2")
    assert (total(ledger).uncertain.cost_usd, total(ledger).spent.cost_usd) == (0, Decimal("0.2"))


def test_an_account_is_paused_and_set_beside_the_code(ledger):
    """What an operator sets comes before what the code declares, and a pause refuses at once."""
    with sw.Run(ledger=ledger, accounts=[ACCOUNT]):
        book_in(ledger).put(SetTerms("a", lambda terms: setattr(terms, "paused", "")))
        with pytest.raises(sw.AccountPausedError):
            spend("0.1")
        book_in(ledger).put(SetTerms("a", lambda terms: setattr(terms, "paused", None)))
        book_in(ledger).put(SetTerms("a", lambda terms: terms.fixed.update(total=sw.Budget(max_usd=5))))
        spend(3)
    assert total(ledger).is_set


def test_threads_and_tasks_use_an_account_up_and_never_pass_it(ledger):
    """Runs in threads and tasks at once wait for one another's holds, spend at least 95 % and nothing over."""
    account = sw.Account("a", total=sw.Budget(max_usd=2))

    async def agent():
        async with sw.Run(ledger=ledger, accounts=[account]):
            for _ in range(4):
                async with sw.reserve(cost_usd="0.1") as hold:
                    await asyncio.sleep(0)
                    hold.settle(cost_usd="0.05")

    async def agents():
        await asyncio.gather(*(agent() for _ in range(8)), return_exceptions=True)

    def worker():
        with sw.Run(ledger=ledger, accounts=[account]):
            for _ in range(4):
                try:
                    spend("0.1", "0.05")
                except sw.BudgetExceededError:
                    return

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(agents())
    for thread in threads:
        thread.join()
    assert Decimal("1.9") <= total(ledger).spent.cost_usd <= 2
    assert total(ledger).held.calls == 0


def test_a_cancelled_call_leaves_nothing_on_its_account(ledger):
    """A task that is cancelled while it waits for an account leaves nothing held there, nor in its run."""

    async def main():
        async with sw.Run(ledger=ledger, accounts=[ACCOUNT]) as run:

            async def wait():
                async with sw.reserve(cost_usd="0.5"):
                    pass

            waiting = asyncio.create_task(wait())
            async with sw.reserve(cost_usd="0.9") as hold:
                for _ in range(20):
                    await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                hold.settle(cost_usd="0.9")
            assert run.held.calls == 0

    asyncio.run(main())
    assert (total(ledger).held.calls, total(ledger).spent.calls) == (0, 1)
