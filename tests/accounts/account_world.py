"""One account, and whatever can happen on it in any order, with any ledger."""

import time

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import stepwarden as sw
from stepwarden.accounts._funds import book_in
from stepwarden.core._hold import set_hold
from stepwarden.core._leaf import set_leaf

DAY = 86_400 * 10**9


class FakeClock:
    """Stand at a time until it is moved."""

    def __init__(self, now_ns=20_000 * DAY + 12 * 3600 * 10**9):
        self.now_ns = now_ns

    def monotonic_ns(self):
        return self.now_ns

    def time_ns(self):
        return self.now_ns


class AccountWorld(RuleBasedStateMachine):
    """Reserve, settle, release and leave calls of two runs on one account, while the clock moves both ways.

    Each run has a ledger, which may be the same one, and both of them the account.
    """

    def open_ledgers(self):
        """Return the ledgers of the two runs."""
        return [sw.MemoryLedger()] * 2

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        sw.configure(clock=self.clock)
        self.ledgers = self.open_ledgers()
        budgets = {"total": sw.Budget(max_usd=40, max_tokens=300), "hourly": sw.Budget(max_usd=9, max_calls=6)}
        self.account = sw.Account("a", daily=sw.Budget(max_usd=20), **budgets)
        self.runs = [sw.Run(ledger=ledger, accounts=[self.account]) for ledger in self.ledgers]
        for run in self.runs:
            run.__enter__()
            set_leaf(None)
        self.holds = []
        self.starts = set()

    @rule(which=st.integers(0, 1), cost=st.integers(0, 12), output=st.integers(0, 90))
    def reserve(self, which, cost, output):
        """Take a hold where there is room now."""
        self.starts.add(self.clock.now_ns)
        with self.runs[which].attach():
            try:
                made = sw.reserve(cost_usd=cost, output_tokens=output, wait=False)
                self.holds.append(made.acquire())
            except (sw.BudgetExceededError, sw.ReserveTimeoutError):
                pass
            set_hold(None)

    @rule(data=st.data(), how=st.sampled_from(["settle", "release", "leave"]), share=st.fractions(0, 1))
    def finish(self, data, how, share):
        """End a hold in one of the ways in which it ends."""
        if self.holds:
            hold = data.draw(st.sampled_from(self.holds))
            if how == "leave":
                hold.leave()
                return
            self.holds.remove(hold)
            if how == "release":
                hold.release()
            else:
                hold.settle(cost_usd=hold.cost_usd * int(share * 4) / 4, output_tokens=int(hold.output_tokens * share))

    @rule(minutes=st.integers(-200, 200))
    def move_clock(self, minutes):
        """Move the clock, backwards too."""
        self.clock.now_ns += minutes * 60 * 10**9

    @invariant()
    def never_passed(self):
        """What is spent, uncertain and held is within the limit of every window that anything happened in."""
        self.wait_for_changes()
        for at in self.starts:
            for state in book_in(self.ledgers[0]).states(at):
                for one in state.windows:
                    sums = [one.spent, one.uncertain, one.held]
                    budget = one.budget
                    assert sum(part.cost_usd for part in sums) <= (budget.max_usd or 40)
                    assert sum(part.total_tokens for part in sums) <= (budget.max_tokens or 10**9)
                    assert sum(part.calls for part in sums) <= (budget.max_calls or 10**9)

    def teardown(self):
        """End the runs; nothing is held after them."""
        for run in self.runs:
            run.close(sw.Status.COMPLETED)
        self.wait_for_changes()
        for at in self.starts:
            assert all(one.held == sw.Usage() for state in book_in(self.ledgers[0]).states(at) for one in state.windows)
        for ledger in self.ledgers:
            ledger.close()
        sw.configure(clock=time)

    def wait_for_changes(self):
        """Wait until all that was settled so far stands in the book."""
        for ledger in self.ledgers:
            book_in(ledger).ticket().wait()
