"""Accounts: budgets that outlive a run, shared by whoever names them in one ledger."""

import asyncio
import threading
from decimal import Decimal

import pytest
from hypothesis import settings

import stepwarden as sw
from stepwarden.accounts._book import SetTerms, Settle, Take
from stepwarden.accounts._funds import book_in
from stepwarden.accounts._next_change import NextChange
from tests.accounts.account_world import DAY, AccountWorld, FakeClock
from tests.effort import EFFORT


@pytest.fixture
def clock():
    """Give a clock that the test moves, in force for the process."""
    before = sw.core._settings.settings.clock
    fake = FakeClock()
    sw.configure(clock=fake)
    yield fake
    sw.configure(clock=before)


def spend(cost, settled=None):
    with sw.reserve(cost_usd=cost) as hold:
        hold.settle(cost_usd=cost if settled is None else settled)


def window(ledger, name="a", at=0, now_ns=0):
    state = next(one for one in book_in(ledger).states(now_ns) if one.name == name)
    return state.windows[at]


def test_an_account_outlives_its_run():
    """What one run spent leaves less for the next with the same account in the same ledger, and the error names it."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=1))
    with sw.Run(ledger=ledger, accounts=[account]):
        spend("0.7")
    with sw.Run(ledger=ledger, accounts=[account], budget=sw.Budget(max_usd=5)) as run:
        spend("0.3")
        with pytest.raises(
            sw.BudgetExceededError, match=r"account `a` has no room in total max_usd \(\$1\.00 of"
        ) as met:
            spend("0.1")
        assert run.held.calls == 0
    assert (met.value.scope_kind, met.value.scope_name, met.value.limit) == ("account", "a", "max_usd")
    assert (met.value.consumed, met.value.requested, met.value.reason) == (Decimal(1), Decimal("0.1"), "no_room")


def test_runs_without_a_ledger_share_the_accounts_of_the_process():
    """An account without a ledger is kept in memory for the whole process, and does not end with its run."""
    account = sw.Account("only here", total=sw.Budget(max_calls=1))
    with sw.Run(accounts=[account]):
        spend(0)
    with sw.Run(accounts=[account]), pytest.raises(sw.BudgetExceededError, match="max_calls"):
        spend(0)


def test_a_persona_has_accounts_in_every_run():
    """A persona's accounts are charged with what it spends and with nothing else of its run."""
    ledger = sw.MemoryLedger()

    @sw.persona(name="author", accounts=[sw.Account("a", total=sw.Budget(max_usd=1))])
    def author():
        spend("0.6")

    with sw.Run(ledger=ledger):
        spend("5")
        author()
        spend("5")
    with sw.Run(ledger=ledger), pytest.raises(sw.BudgetExceededError, match="account `a`"):
        author()
    assert window(ledger).spent.cost_usd == Decimal("0.6")


def test_a_tenant_has_an_account_of_its_own():
    """A run for a tenant is charged to that tenant's account, whose limits may be set beside the code."""
    ledger = sw.MemoryLedger()
    with sw.Run(ledger=ledger, tenant="acme"):
        spend("0.5")
    book_in(ledger).put(SetTerms("tenant:acme", lambda terms: terms.fixed.update(total=sw.Budget(max_usd="0.6"))))
    with sw.Run(ledger=ledger, tenant="acme"), pytest.raises(sw.BudgetExceededError, match="account `tenant:acme`"):
        spend("0.2")


def test_the_order_is_paused_account_run():
    """A paused account refuses before one without room, that before the run, and each error says which it was."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=1))
    with sw.Run(ledger=ledger, accounts=[account], budget=sw.Budget(max_usd=1)):
        spend(1)
        with pytest.raises(sw.BudgetExceededError, match="account `a`"):
            spend(1)
        book_in(ledger).put(SetTerms("a", lambda terms: setattr(terms, "paused", "invoice open")))
        with pytest.raises(sw.AccountPausedError, match="account `a` is paused: invoice open") as met:
            spend(1)
        assert (met.value.account, met.value.reason) == ("a", "invoice open")
        book_in(ledger).put(SetTerms("a", lambda terms: terms.fixed.update(total=sw.Budget(max_usd=9))))
        book_in(ledger).put(SetTerms("a", lambda terms: setattr(terms, "paused", None)))
        with pytest.raises(sw.BudgetExceededError, match="run `run`"):
            spend(1)


def test_a_hold_belongs_to_the_window_in_which_it_was_taken(clock):
    """A hold taken at 23:59 and settled at 00:01 is spent in the old day; going back takes that day up again."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", daily=sw.Budget(max_usd=1), hourly=sw.Budget(max_usd=1))
    clock.now_ns = 20_000 * DAY - 60 * 10**9
    with sw.Run(ledger=ledger, accounts=[account]):
        hold = sw.reserve(cost_usd=1).acquire()
        clock.now_ns += 120 * 10**9
        hold.settle(cost_usd="0.9")
        assert window(ledger, at=1, now_ns=clock.now_ns).spent.cost_usd == 0
        spend("0.8")
        clock.now_ns -= 120 * 10**9
        assert window(ledger, at=1, now_ns=clock.now_ns).spent.cost_usd == Decimal("0.9")
        assert window(ledger, at=2, now_ns=clock.now_ns).spent.cost_usd == Decimal("0.9")
        with pytest.raises(sw.BudgetExceededError, match="daily max_usd"):
            spend("0.2")
    assert window(ledger).spent.cost_usd == Decimal("1.7")


def test_what_is_uncertain_stays_until_it_is_settled():
    """A hold that is left open is uncertain in its account past its run, until a late settlement replaces it."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=1))
    with sw.Run(ledger=ledger, accounts=[account]):
        hold = sw.reserve(output_tokens=7, cost_usd="0.8").acquire()
        assert window(ledger).held.cost_usd == Decimal("0.8")
    assert window(ledger).uncertain.cost_usd == Decimal("0.8")
    with sw.Run(ledger=ledger, accounts=[account]):
        with pytest.raises(sw.BudgetExceededError, match=r"\$0\.80 uncertain"):
            spend("0.3")
        hold.settle(output_tokens=5, cost_usd="0.1")
        assert window(ledger).uncertain.cost_usd == window(ledger).held.cost_usd == 0
        assert (window(ledger).spent.cost_usd, window(ledger).spent.calls) == (Decimal("0.1"), 1)
        spend("0.9")


def test_usage_recorded_after_the_fact_counts_and_the_next_call_is_refused():
    """`record_usage` can pass an account's limit, also after the run's end, and what comes next is refused."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=1))
    with sw.Run(ledger=ledger, accounts=[account]):
        sw.record_usage(cost_usd=2, input_tokens=3)
        with pytest.raises(sw.BudgetExceededError, match="account `a`"):
            spend(0)
    assert (window(ledger).spent.cost_usd, window(ledger).spent.input_tokens) == (Decimal(2), 3)


def test_a_released_hold_leaves_nothing():
    """What is released is given back to the account whole."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=1))
    with sw.Run(ledger=ledger, accounts=[account]):
        sw.reserve(cost_usd=1).acquire().release()
        assert window(ledger).held == window(ledger).spent == sw.Usage()
        spend(1)


def test_the_output_is_lowered_to_what_an_account_can_ever_hold():
    """An account lowers the granted output like a scope's limit, on the tree too; below the least it refuses."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_tokens=100))
    with sw.Run(ledger=ledger, accounts=[account]) as run:
        with sw.reserve(input_tokens=40, output_tokens=500, min_output_tokens=10) as hold:
            assert (hold.output_tokens, run.held.output_tokens) == (60, 60)
            hold.settle(input_tokens=40, output_tokens=55)
        with pytest.raises(sw.BudgetExceededError, match="max_tokens"):
            sw.reserve(output_tokens=50, min_output_tokens=10).acquire()


def test_several_accounts_are_taken_together_or_not_at_all():
    """A call that the second account refuses leaves nothing on the first, nor on the tree."""
    ledger = sw.MemoryLedger()
    wide, tight = sw.Account("wide", total=sw.Budget(max_usd=9)), sw.Account("tight", total=sw.Budget(max_usd=1))
    with sw.Run(ledger=ledger, accounts=[wide, tight]) as run:
        with pytest.raises(sw.BudgetExceededError, match="account `tight`"):
            spend(2)
        assert run.held.calls == 0
        spend(1)
    assert window(ledger, "wide").spent.cost_usd == window(ledger, "tight").spent.cost_usd == 1


def test_a_run_inside_with_another_ledger_is_charged_to_both():
    """Accounts around a run in another ledger are charged in theirs; where the inner refuses, they get theirs back."""
    outer, inner = sw.MemoryLedger(), sw.MemoryLedger()
    first, second = sw.Account("a", total=sw.Budget(max_usd=9)), sw.Account("b", total=sw.Budget(max_usd=1))
    with sw.Run(ledger=outer, accounts=[first]), sw.Run(ledger=inner, accounts=[second]):
        spend(1)
        with pytest.raises(sw.BudgetExceededError, match="account `b`"):
            spend(1)
    assert window(outer).spent.cost_usd == window(inner, "b").spent.cost_usd == 1
    assert window(outer).held.calls == 0


def test_a_thread_waits_for_what_another_run_holds():
    """A caller that an account has no room for while others hold it waits, and gets it when they settle."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=1))
    waits, got = threading.Event(), []
    add = book_in(ledger).call_when_changed
    book_in(ledger).call_when_changed = lambda *given: (add(*given), waits.set())[0]

    def other():
        with sw.Run(ledger=ledger, accounts=[account]):
            spend(1, "0.4")
            got.append(1)

    with sw.Run(ledger=ledger, accounts=[account]):
        hold = sw.reserve(cost_usd=1).acquire()
        thread = threading.Thread(target=other)
        thread.start()
        assert waits.wait(10)
        assert not got
        hold.settle(cost_usd=0)
        thread.join()
    assert got
    assert window(ledger).spent.cost_usd == Decimal("0.4")


def test_tasks_wait_for_an_account_without_blocking_their_loop():
    """Sixty tasks of many runs on one loop use an account up and never pass it."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=3))

    async def agent():
        async with sw.Run(ledger=ledger, accounts=[account]):
            try:
                async with sw.reserve(cost_usd="0.1") as hold:
                    await asyncio.sleep(0)
                    state = window(ledger)
                    assert state.spent.cost_usd + state.held.cost_usd <= 3
                    hold.settle(cost_usd="0.05")
            except sw.BudgetExceededError:
                return 0
            return 1

    async def main():
        return sum(await asyncio.gather(*(agent() for _ in range(70))))

    assert asyncio.run(main()) >= 58
    assert window(ledger).held.calls == 0
    assert Decimal("2.9") <= window(ledger).spent.cost_usd <= 3


def test_waiting_for_an_account_ends():
    """With ``wait=False``, after its timeout, on a loop's thread and with a hold of its own, a caller does not wait."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=1))
    with sw.Run(ledger=ledger, accounts=[account]) as run:
        hold = sw.reserve(cost_usd="0.9").acquire()
        with pytest.raises(sw.BudgetExceededError, match="own context has one open") as met:
            spend("0.2")
        assert met.value.reason == "would_deadlock"

        def apart():
            with run.attach(), pytest.raises(sw.ReserveTimeoutError, match="account `a`") as late:
                sw.reserve(cost_usd="0.2", wait=False).acquire()
            assert (late.value.scope_kind, late.value.waited) == ("account", 0.0)
            with run.attach(), pytest.raises(sw.ReserveTimeoutError, match="waited"):
                sw.reserve(cost_usd="0.2", timeout=0.001).acquire()

            async def on_a_loop():
                with run.attach(), pytest.raises(sw.WouldBlockError):
                    sw.reserve(cost_usd="0.2").acquire()

            asyncio.run(on_a_loop())

        thread = threading.Thread(target=apart)
        thread.start()
        thread.join()
        assert run.held.calls == 1
        hold.release()


def test_a_model_without_a_price_is_refused_where_an_account_limits_usd():
    """A USD limit of an account counts as one in force: what has no price is not sent."""
    with sw.Run(accounts=[sw.Account("priced", total=sw.Budget(max_usd=1))]):
        with pytest.raises(sw.UnpricedModelError):
            sw.reserve(model="no-such-model", input_tokens=5, output_tokens=5).acquire()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sw.Account(""), "account.name"),
        (lambda: sw.Account("a", daily=sw.Budget(max_seconds=1)), "account.daily.max_seconds"),
        (lambda: sw.Account("a", total={"max_tool_calls": 1}), "account.total.max_tool_calls"),
        (lambda: sw.Run(accounts="a"), "run.accounts"),
        (lambda: sw.Run(accounts=["a"]), "run.accounts must be a list of Account, and has"),
        (lambda: sw.Run(tenant=" "), "run.tenant"),
        (lambda: sw.persona("p", accounts=5), "persona.accounts"),
        (lambda: sw.Run(accounts=[{"name": "a", "weekly": {}}]), "weekly"),
    ],
)
def test_a_wrong_declaration_is_named(make, says):
    """What cannot be right is a DefinitionError that names the field."""
    with pytest.raises(sw.DefinitionError, match=says.replace(".", r"\.")):
        make()


def test_accounts_can_be_declared_by_a_mapping():
    """A file of settings declares an account by the mapping of its fields."""
    made = sw.persona_from_dict(lambda: None, {"name": "p", "accounts": [{"name": "a", "daily": {"max_usd": 2}}]})
    assert sw.definition(made).accounts == (sw.Account("a", daily=sw.Budget(max_usd=2)),)


class OnlyReceipts:
    """Be a ledger that keeps no accounts."""

    def open(self, run):
        """Begin nothing."""

    def latest(self, limit):
        """Have nothing."""
        return ()

    def close(self):
        """Let go of nothing."""


def test_a_ledger_without_accounts_says_so():
    """A call on an account in a ledger that keeps none is refused, and names what is missing."""
    with sw.Run(ledger=OnlyReceipts(), accounts=[sw.Account("a")]) as run:
        with pytest.raises(sw.DefinitionError, match="keeps accounts"):
            spend(1)
        assert run.held.calls == 0


def test_input_and_output_are_limited_apart():
    """An account limits input and output each, and a window that is set without a limit only counts."""
    ledger = sw.MemoryLedger()
    account = sw.Account("a", total=sw.Budget(max_input_tokens=10, max_output_tokens=5), daily=sw.Budget(max_calls=0))
    book_in(ledger).put(SetTerms("a", lambda terms: terms.fixed.update(daily=sw.Budget())))
    with sw.Run(ledger=ledger, accounts=[account]):
        with sw.reserve(input_tokens=10, output_tokens=9) as hold:
            assert hold.output_tokens == 5
            hold.settle(input_tokens=10, output_tokens=4)
        with pytest.raises(sw.BudgetExceededError, match="max_input_tokens"):
            sw.reserve(input_tokens=1).acquire()


def test_a_hold_that_another_has_ended_is_not_given_back_twice():
    """Where a hold is left while its account is asked, its run charges it once, and the account has nothing of it."""
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_output_tokens=5))
    put = book_in(ledger).put

    def leave_first(change):
        if isinstance(change, Take):
            change.hold.leave()
        put(change)

    book_in(ledger).put = leave_first
    with sw.Run(ledger=ledger, accounts=[account]) as run:
        sw.reserve(output_tokens=9).acquire()
        assert (run.total.calls, run.held.calls, run.uncertain.output_tokens) == (1, 0, 9)
        with pytest.raises(sw.BudgetExceededError):
            sw.reserve(output_tokens=9, min_output_tokens=9).acquire()
        assert (run.total.calls, run.held.calls) == (2, 0)


def test_a_change_inside_a_change_is_made_after_it():
    """What a finaliser or a signal handler changes in the middle of a change is made when that is over."""
    book, order = book_in(sw.MemoryLedger()), []

    def outer(terms):
        book.put(SetTerms("a", lambda inner: order.append("inner")))
        order.append("outer")

    book.put(SetTerms("a", outer))
    assert order == ["outer", "inner"]


def test_a_waiting_task_whose_loop_is_closed_is_forgotten():
    """Who waited on a loop that was closed is not called again, and keeps nobody from changing the account."""
    book = book_in(sw.MemoryLedger())

    async def begin():
        waiting = NextChange(book, book.changes, 60).__await__()
        next(waiting)
        return waiting

    waiting = asyncio.run(begin())
    book.tell_changed()
    assert not book._waiting
    waiting.close()


def test_a_call_stops_waiting_for_an_account_when_its_time_is_over_or_its_run_ends(monkeypatch):
    """`max_seconds` ends the wait as its deadline, and the end of the run as a `RunClosedError`."""
    monkeypatch.setattr("stepwarden.accounts._next_change._LOOK_AT_RUN_SECONDS", 0.01)
    ledger, account = sw.MemoryLedger(), sw.Account("a", total=sw.Budget(max_usd=1))
    met = []

    def call(run, *, ends):
        with run.attach(), pytest.raises(sw.StepwardenError) as error:
            if ends:
                add = book_in(ledger).call_when_changed
                book_in(ledger).call_when_changed = lambda *given: (add(*given), run.close(sw.Status.COMPLETED))[0]
            spend(1)
        met.append(error.value)

    with sw.Run(ledger=ledger, accounts=[account]):
        hold = sw.reserve(cost_usd=1).acquire()

        def runs():
            for ends, budget in ((False, sw.Budget(max_seconds=0.05)), (True, None)):
                run = sw.Run(ledger=ledger, accounts=[account], budget=budget)
                with run:
                    call(run, ends=ends)

        thread = threading.Thread(target=runs)
        thread.start()
        thread.join()
        hold.release()
    deadline, ended = met
    assert (deadline.limit, deadline.phase) == ("max_seconds", "deadline")
    assert isinstance(ended, sw.RunClosedError)


AccountWorld.TestCase.settings = settings(max_examples=30 * EFFORT, stateful_step_count=25, deadline=None)
test_an_account_is_never_passed = AccountWorld.TestCase


@pytest.mark.parametrize("limit", ["max_tokens", "max_input_tokens", "max_output_tokens", "max_usd", "max_calls"])
def test_each_limit_of_an_account_is_told(limit):
    """A call that an account has no room for is refused in the limit that it would pass, with what it needs of it."""
    account = sw.Account("a", total=sw.Budget(**{limit: 0}))
    with sw.Run(accounts=[account], ledger=sw.MemoryLedger()), pytest.raises(sw.BudgetExceededError) as caught:
        sw.reserve(input_tokens=1, output_tokens=1, cost_usd=1).acquire()
    assert (caught.value.limit, caught.value.limit_value) == (limit, 0)


def raise_once_after(monkeypatch, kind):
    """Let a signal handler, as it were, raise where the next change of a kind has been worked out and not kept."""
    apply, left = kind.apply, [KeyboardInterrupt]

    def interrupted(change, pages):
        apply(change, pages)
        if left:
            raise left.pop()

    monkeypatch.setattr(kind, "apply", interrupted)


@pytest.mark.parametrize("kind", [Take, Settle, SetTerms], ids=lambda kind: kind.__name__)
def test_an_interrupted_change_is_made_whole_or_not_at_all(monkeypatch, kind):
    """A change that an interrupt ends is not half made: what was asked for is dropped, and what ends a call is made up for."""
    ledger = sw.MemoryLedger()
    with sw.Run(ledger=ledger, accounts=[sw.Account("a", total=sw.Budget(max_usd=3))]) as run:
        hold = sw.reserve(cost_usd=1).acquire()
        raise_once_after(monkeypatch, kind)
        with pytest.raises(KeyboardInterrupt):
            if kind is SetTerms:
                book_in(ledger).put(SetTerms("a", lambda terms: setattr(terms, "paused", "no")))
            elif kind is Take:
                sw.reserve(cost_usd=1, wait=False).acquire()
            else:
                hold.settle(input_tokens=0, output_tokens=0, cost_usd=1)
        if kind is not Settle:
            hold.settle(input_tokens=0, output_tokens=0, cost_usd=1)
        spend(2)
        with pytest.raises(sw.BudgetExceededError, match="account `a`"):
            spend(1)
    assert run.total.cost_usd == 3


def test_a_refusal_that_is_interrupted_is_not_made_twice(monkeypatch):
    """A change that was kept, and interrupted before it was over, is finished with the next one, and not made again."""
    ledger = sw.MemoryLedger()
    with sw.Run(ledger=ledger, accounts=[sw.Account("a", total=sw.Budget(max_usd=1))]):
        spend(1)
        book, left = book_in(ledger), [KeyboardInterrupt]
        changes = [book.changes]

        def look(_):
            if left:
                raise left.pop()
            return changes[0]

        monkeypatch.setattr(
            type(book), "changes", property(look, lambda _, value: changes.insert(0, value)), raising=False
        )
        with pytest.raises(KeyboardInterrupt):
            spend(1)
        with pytest.raises(sw.BudgetExceededError, match="account `a`"):
            spend(1)
        book.put(SetTerms("a", lambda terms: terms.fixed.update(total=sw.Budget(max_usd=2))))
        spend(1)
