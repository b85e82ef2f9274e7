"""Holds: settled, released, left open, settled late, and handed up where their scope closes."""

import contextlib
import contextvars
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

PRICES = {"m": {"input": 1, "output": 2}}
MICRO = Decimal("0.000001")


def elsewhere(reservation):
    """Take a hold in a context of its own, as another task would, so that this one holds nothing."""
    return contextvars.copy_context().run(reservation.acquire)


def in_thread(function, *args):
    """Call something in another thread and wait for what it returns."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result(30)


def test_settling_replaces_the_hold_by_what_was_spent():
    """After settling, nothing is held and exactly what was given is spent, in own and in every total."""
    with sw.Run() as run, sw.step("s") as step:
        hold = sw.reserve(input_tokens=50, output_tokens=50, cost_usd=1).acquire()
        hold.settle(
            input_tokens=20,
            output_tokens=10,
            cost_usd="0.1",
            model="m",
            cache_read_tokens=5,
            cache_write_tokens=4,
            reasoning_tokens=3,
            estimated=True,
        )
        expected = sw.Usage(
            input_tokens=20,
            output_tokens=10,
            cost_usd=Decimal("0.1"),
            calls=1,
            cache_read_tokens=5,
            cache_write_tokens=4,
            reasoning_tokens=3,
            estimated_calls=1,
        )
        assert step.own == step.total == run.total == expected
        assert run.own == run.held == run.uncertain == step.held == sw.Usage()
    assert run.receipts[0].model == "m"


def test_what_was_used_must_be_said():
    """A settle without numbers is a TypeError, so that a forgotten argument is not a call for free."""
    with sw.Run() as run, sw.reserve(input_tokens=5, output_tokens=5) as hold:
        with pytest.raises(TypeError):
            hold.settle()
        assert run.held.total_tokens == 10
        hold.settle(input_tokens=5, output_tokens=5)


@pytest.mark.parametrize("first", ["settle", "release"])
@pytest.mark.parametrize("second", ["settle", "release"])
@pytest.mark.parametrize("scoped", [True, False])
def test_a_second_settle_counts_nothing(first, second, scoped):
    """Whatever ended a hold, a second settle or release is a HoldClosedError and changes no number."""

    def end(how) -> None:
        hold.release() if how == "release" else hold.settle(input_tokens=3, output_tokens=4, cost_usd=1)

    if not scoped:
        hold = sw.reserve(input_tokens=5).acquire()
        end(first)
        with pytest.raises(sw.HoldClosedError):
            end(second)
        return
    with sw.Run() as run, sw.step("s") as step:
        hold = sw.reserve(input_tokens=5, output_tokens=6, cost_usd=2).acquire()
        end(first)
        before = (run.total, step.own, run.held, run.uncertain)
        for _ in range(2):
            with pytest.raises(sw.HoldClosedError):
                end(second)
        assert (run.total, step.own, run.held, run.uncertain) == before
    assert len(run.receipts[0].calls) == (first == "settle")


def test_release_gives_everything_back():
    """A released call was never made: nothing is spent, held or uncertain, and no call is counted."""
    with sw.Run(budget=sw.Budget(max_tokens=10, max_calls=1, max_usd=1)) as run:
        for _ in range(3):
            with sw.reserve(input_tokens=4, output_tokens=6, cost_usd=1) as hold:
                hold.release()
        assert run.total == run.held == run.uncertain == sw.Usage()


@pytest.mark.parametrize("cost", [-1, "NaN", float("inf"), "much"])
def test_a_bad_cost_leaves_the_hold_open(cost):
    """A settle with a cost that cannot be right is a ValueError, counts nothing, and may be repeated."""
    with sw.Run() as run:
        hold = sw.reserve(input_tokens=5, cost_usd=1).acquire()
        with pytest.raises(ValueError, match="cost_usd"):
            hold.settle(input_tokens=5, output_tokens=0, cost_usd=cost)
        assert (run.total, run.held.input_tokens) == (sw.Usage(), 5)
        hold.settle(input_tokens=5, output_tokens=0, cost_usd=1)
        assert (run.total.cost_usd, run.held) == (1, sw.Usage())


@pytest.mark.parametrize("limit", ["max_tokens", "max_input_tokens", "max_output_tokens", "max_usd"])
def test_a_settle_beyond_the_limit_raises_and_stays_counted(limit):
    """Usage beyond what was reserved is counted in full, raises in phase `settle`, and shows as overshoot."""
    value = Decimal(1) if limit == "max_usd" else 10
    ask = {"max_usd": {"cost_usd": 1}, "max_output_tokens": {"output_tokens": 10}}.get(limit, {"input_tokens": 10})
    with sw.Run() as run:
        with sw.step("s", budget=sw.Budget(**{limit: value})) as step:
            hold = sw.reserve(**ask).acquire()
            with pytest.raises(sw.BudgetExceededError) as caught:
                hold.settle(input_tokens=11, output_tokens=12, cost_usd="1.5")
            assert (caught.value.phase, caught.value.reason, caught.value.limit) == ("settle", "exceeded", limit)
            assert step.held == sw.Usage()
            with pytest.raises(sw.HoldClosedError):
                hold.settle(input_tokens=0, output_tokens=0)
            with pytest.raises(sw.BudgetExceededError, match="no room"):
                sw.reserve().acquire()
        assert (run.total.input_tokens, run.total.output_tokens, run.total.cost_usd) == (11, 12, Decimal("1.5"))
    over = run.receipts[0].overshoot
    excess = {
        "max_tokens": over.total_tokens == 13,
        "max_input_tokens": over.input_tokens == 1,
        "max_output_tokens": over.output_tokens == 2,
        "max_usd": over.cost_usd == Decimal("0.5"),
    }
    assert excess[limit]


def test_a_record_may_take_the_room_of_a_hold():
    """A record beside a hold is counted although it does not fit, and the hold's settle then passes the limit."""
    with sw.step("s", budget=sw.Budget(max_tokens=10)) as step:
        hold = sw.reserve(input_tokens=10).acquire()
        sw.record_usage(input_tokens=5)
        with pytest.raises(sw.BudgetExceededError, match=r"exceeded max_tokens budget \(15 > 10\)"):
            hold.settle(input_tokens=10, output_tokens=0)
        assert (step.held, step.overshoot.total_tokens) == (sw.Usage(), 5)


def leave(error=None) -> sw.Hold:
    """Leave a hold of 10 in and 20 out open, as a call does that ended without a word, or with *error*."""
    with contextlib.suppress(KeyError), sw.reserve(input_tokens=10, output_tokens=20, model="m") as hold:
        if error is not None:
            raise error
    return hold


@pytest.mark.parametrize("error", [None, KeyError()])
def test_a_hold_left_open_charges_its_input_and_keeps_the_rest_uncertain(error):
    """A `with` left without settle, or by an error, charges the input as estimated; the rest is uncertain."""
    with sw.Run(prices=PRICES) as run, sw.step("s") as step:
        leave(error)
        for scope in (run, step):
            assert (scope.total.input_tokens, scope.total.output_tokens, scope.total.calls) == (10, 0, 1)
            assert (scope.total.cost_usd, scope.total.estimated_calls) == (10 * MICRO, 1)
            assert (scope.uncertain.input_tokens, scope.uncertain.output_tokens) == (0, 20)
            assert (scope.uncertain.cost_usd, scope.held) == (40 * MICRO, sw.Usage())
        assert step.own == step.total


@given(st.integers(0, 20), st.integers(0, 40))
def test_a_later_settle_replaces_what_was_uncertain(tokens_in, tokens_out):
    """A later settle takes the estimate and the uncertain part back and counts what the call really spent, once."""
    with sw.Run(prices=PRICES) as run, sw.step("s") as step:
        hold = leave()
        hold.settle(input_tokens=tokens_in, output_tokens=tokens_out)
        expected = sw.Usage(
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cost_usd=(tokens_in + 2 * tokens_out) * MICRO,
            calls=1,
        )
        assert step.own == step.total == run.total == expected
        assert step.uncertain == run.uncertain == step.held == run.held == sw.Usage()
        with pytest.raises(sw.HoldClosedError):
            hold.settle(input_tokens=1, output_tokens=1)


def test_uncertain_amounts_leave_no_room():
    """What is uncertain counts as if it were spent: a call that does not fit beside it is refused, not kept waiting."""
    with sw.Run(budget=sw.Budget(max_tokens=30)):
        with sw.step("s") as step:
            hold = leave()
            assert step.remaining == sw.Budget(max_tokens=0)
        with pytest.raises(sw.BudgetExceededError, match="10 of 30 spent, 0 held, 20 uncertain, 1 needed") as caught:
            sw.reserve(input_tokens=1).acquire()
        assert (caught.value.uncertain, caught.value.reason) == (20, "no_room")
        hold.settle(input_tokens=10, output_tokens=1)
        sw.reserve(input_tokens=19).acquire().release()


def test_a_hold_without_price_or_tokens_left_open_is_one_uncertain_cost():
    """A fixed cost left open stays set aside whole: none of it is known to be spent, all of it may be."""
    with sw.Run(budget=sw.Budget(max_usd=1, max_calls=2)) as run:
        with sw.reserve(cost_usd="0.75"):
            pass
        assert run.total.cost_usd + run.uncertain.cost_usd == Decimal("0.75")
        assert run.remaining == sw.Budget(max_usd="0.25", max_calls=1)


def test_a_closing_scope_hands_its_open_holds_up():
    """Closing a scope hands its open holds to the scope around, which its receipt shows; they stay held there."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run, sw.persona("p") as persona:
        with sw.step("s") as step:
            first = elsewhere(sw.reserve(input_tokens=10, output_tokens=5))
            second = elsewhere(sw.reserve(input_tokens=1))
        assert run.receipts[0].open_holds == 2
        assert (run.held.total_tokens, persona.held.total_tokens, run.uncertain) == (16, 16, sw.Usage())
        second.release()
        first.settle(input_tokens=10, output_tokens=2)
        assert (step.own, step.total) == (sw.Usage(), sw.Usage())
        assert persona.own.total_tokens == run.total.total_tokens == 12
        assert run.held == sw.Usage()
    late = run.receipts[1].late
    assert (late.input_tokens, late.output_tokens, late.calls) == (10, 2, 1)


def test_a_closing_run_turns_open_holds_into_uncertain():
    """A run that ends turns what is still held in it into uncertain; a settle after that replaces it on the run."""
    with sw.Run(prices=PRICES) as run, sw.step("s", model="m"):
        hold = sw.reserve(input_tokens=10, output_tokens=20).acquire()
    assert (run.held, run.uncertain.output_tokens, run.total.input_tokens) == (sw.Usage(), 20, 10)
    assert run.uncertain.cost_usd + run.total.cost_usd == 50 * MICRO
    hold.settle(input_tokens=10, output_tokens=3)
    assert (run.uncertain, run.total.total_tokens, run.total.calls) == (sw.Usage(), 13, 1)
    assert run.total.cost_usd == 16 * MICRO


def test_a_run_inside_a_run_leaves_its_uncertain_holds_to_the_run_around():
    """What a child run leaves uncertain goes on counting in its parent until that ends."""
    with sw.Run(budget=sw.Budget(max_tokens=30)) as parent:
        with sw.Run() as child:
            sw.reserve(input_tokens=10, output_tokens=20).acquire()
        assert (child.uncertain.output_tokens, parent.uncertain.output_tokens) == (20, 20)
        with pytest.raises(sw.BudgetExceededError, match="20 uncertain"):
            sw.reserve(input_tokens=1).acquire()


@pytest.mark.parametrize("happening", ["settle", "record", "clamp", "uncertain"])
def test_a_receipt_never_changes_once_it_is_left(happening):
    """A receipt is frozen when its step ends: nothing that comes late changes any of its fields."""
    with sw.Run(prices=PRICES) as run:
        with sw.step("s", model="m", budget=sw.Budget(max_tokens=100)):
            hold = elsewhere(sw.reserve(input_tokens=10, output_tokens=20))
            later = sw.propagate(outlive)
        (before,) = run.receipts
        if happening != "uncertain":  # else the end of the run makes the hold uncertain
            in_thread(later, happening, hold)
    assert run.receipts == (before,)


def outlive(what, hold) -> None:
    """Go on under a step that has ended."""
    if what == "settle":
        hold.settle(input_tokens=9, output_tokens=1)
        return
    hold.release()
    if what == "clamp":
        sw.reserve(output_tokens=500).acquire().release()
        return
    with pytest.raises(sw.BudgetExceededError):
        sw.record_usage("m", input_tokens=1_000, cost_usd=1)


def test_an_open_hold_is_shown_while_its_scope_is_open():
    """`held` of every scope on the chain shows an open hold, and of no scope beside it."""
    with sw.Run() as run:
        with sw.step("a") as a:
            hold = elsewhere(sw.reserve(input_tokens=7, output_tokens=8, cost_usd="0.5"))
            assert (a.held.input_tokens, a.held.output_tokens, a.held.calls) == (7, 8, 1)
        with sw.step("b") as b:
            assert b.held == sw.Usage()
            assert run.held.cost_usd == Decimal("0.5")
        hold.release()
        assert run.held == sw.Usage()


@given(st.lists(st.sampled_from(["settle", "release", "leave", "late"]), max_size=6))
def test_own_and_total_agree_however_holds_end(ends):
    """However its holds end, a step's own numbers are its total and the run's, and count every call once."""
    with sw.Run(prices=PRICES) as run:
        with sw.step("s", model="m"):
            for end in ends:
                with sw.reserve(input_tokens=10, output_tokens=20) as hold:
                    if end == "settle":
                        hold.settle(input_tokens=8, output_tokens=5)
                    elif end == "release":
                        hold.release()
                if end == "late":
                    hold.settle(input_tokens=7, output_tokens=4)
        (receipt,) = run.receipts
        assert receipt.own == receipt.total == run.total
        assert receipt.own.calls == len(ends) - ends.count("release")
        assert receipt.own.estimated_calls == ends.count("leave")
        assert run.uncertain.output_tokens == receipt.uncertain.output_tokens == 20 * ends.count("leave")


def test_a_settle_after_the_fact_replaces_the_call_on_the_receipt_too():
    """A call whose cost became known later is one call on the receipt, and the calls add up to the step's own."""
    with sw.Run(prices=PRICES) as run, sw.step("s"):
        leave().settle(input_tokens=8, output_tokens=2)
    (receipt,) = run.receipts
    assert receipt.own.calls == len(receipt.calls)
    assert receipt.own.input_tokens == sum(call.input_tokens for call in receipt.calls)
    assert receipt.own.cost_usd == sum(call.cost_usd for call in receipt.calls)


def test_a_hold_that_is_over_is_not_lowered():
    """An account that grants less output of a call that was released meanwhile frees nothing of it again."""
    with sw.Run() as run:
        hold = sw.reserve(output_tokens=3).acquire()
        hold.release()
        hold.lower(1)
        assert (hold.output_tokens, run.held) == (3, sw.Usage())


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_hold_is_one_of_a_kind(duplicate):
    """A hold cannot be copied: what it holds would be given back twice, and leave more room than there is."""
    with sw.Run() as run:
        hold = sw.reserve(input_tokens=5).acquire()
        with pytest.raises(TypeError, match="a hold cannot be copied or pickled"):
            duplicate(hold)
        hold.release()
        assert run.held == sw.Usage()


@pytest.mark.parametrize("around", [contextlib.nullcontext, sw.Run], ids=["outside every scope", "in a run"])
def test_a_misspelt_detail_is_an_error_and_nothing_is_settled(around):
    """An argument that `settle` does not have is named, beside those it has, and the hold stays open."""
    with around():
        hold = sw.reserve(cost_usd=1).acquire()
        with pytest.raises(TypeError, match=r"cache_read_tokens, .*, and not cached_tokens"):
            hold.settle(cost_usd=1, cached_tokens=5)
        assert hold.is_open
        hold.release()


def test_a_signalling_nan_is_no_cost_to_reserve_or_to_settle():
    """A cost that cannot even be looked up is refused by name, and the hold stays open."""
    wrong = Decimal("sNaN")
    with pytest.raises(ValueError, match="cost_usd must be a finite amount"):
        sw.reserve(cost_usd=wrong)
    with sw.Run():
        hold = sw.reserve(cost_usd=1).acquire()
        with pytest.raises(ValueError, match="cost_usd must be a finite amount"):
            hold.settle(cost_usd=wrong)
        assert hold.is_open
        hold.release()
