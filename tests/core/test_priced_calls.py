"""Calls by the run's prices: reserved at the dearest rate that may apply, and what happens without a price."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

MICRO = Decimal("0.000001")
PRICES = {
    "plain": {"input": 1, "output": 2},
    "cached": {"input": 3, "output": 5, "cache_read": "0.5", "cache_write": 4},
    "free": {"input": 0, "output": 0},
}
UNKNOWN = "no-such-model-anywhere"
TOKENS = st.integers(0, 10**6)


@given(TOKENS, TOKENS)
def test_a_hold_costs_what_the_prices_say(tokens_in, tokens_out):
    """The cost held is that of the input and the granted output at the run's prices."""
    with sw.Run(prices=PRICES) as run:
        hold = sw.reserve(input_tokens=tokens_in, output_tokens=tokens_out, model="plain").acquire()
        assert hold.cost_usd == run.held.cost_usd == (tokens_in + 2 * tokens_out) * MICRO
        hold.settle(input_tokens=tokens_in, output_tokens=0)
        assert run.total.cost_usd == tokens_in * MICRO


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_input_is_held_at_the_dearest_rate_that_may_apply(tokens_in, tokens_out, read, written):
    """Input is held as if all of it were written to the cache, so that no settle within the tokens costs more."""
    with sw.Run(prices=PRICES) as run:
        hold = sw.reserve(input_tokens=tokens_in, output_tokens=tokens_out, model="cached").acquire()
        worst = (4 * tokens_in + 5 * tokens_out) * MICRO
        assert hold.cost_usd == worst
        written = min(written, tokens_in)
        read = min(read, tokens_in - written)
        hold.settle(
            input_tokens=tokens_in, output_tokens=tokens_out, cache_read_tokens=read, cache_write_tokens=written
        )
        cost = (3 * (tokens_in - read - written) + 4 * written + 5 * tokens_out) * MICRO + read * MICRO / 2
        assert run.total.cost_usd == cost <= worst


@given(st.integers(0, 1_000), st.integers(0, 3_000), st.integers(0, 3_000), st.integers(1, 3_000))
def test_output_is_lowered_to_what_the_dollars_pay_for(tokens_in, asked, room, least):
    """Under a USD limit the granted output is the most that is paid for; below the minimum the call is refused."""
    with sw.Run(prices=PRICES, budget=sw.Budget(max_usd=room * MICRO)) as run:
        ask = sw.reserve(input_tokens=tokens_in, output_tokens=asked, min_output_tokens=least, model="plain")
        fits = min(asked, (room - tokens_in) // 2)
        if room < tokens_in or fits < min(least, asked):
            with pytest.raises(sw.BudgetExceededError) as caught:
                ask.acquire()
            assert caught.value.limit == "max_usd"
            assert caught.value.requested == (tokens_in + 2 * min(least, asked)) * MICRO
        else:
            hold = ask.acquire()
            assert hold.output_tokens == fits
            assert hold.cost_usd == (tokens_in + 2 * fits) * MICRO
            hold.settle(input_tokens=tokens_in, output_tokens=fits)
            assert run.total.cost_usd <= run.budget.max_usd


def test_an_explicit_cost_is_fixed():
    """A cost that is given is held as it is, whatever the prices, the output, or a limit that lowers the output."""
    with sw.Run(prices=PRICES, budget=sw.Budget(max_usd=1, max_output_tokens=10)):
        with sw.reserve(input_tokens=10**6, output_tokens=500, cost_usd="0.75", model="cached") as hold:
            assert (hold.cost_usd, hold.output_tokens) == (Decimal("0.75"), 10)
            hold.release()
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(output_tokens=5, cost_usd="1.01", model="free").acquire()
        assert caught.value.requested == Decimal("1.01")


def test_a_settle_may_bring_the_real_cost():
    """A cost given to settle counts instead of the prices, down to nothing."""
    with sw.Run(prices=PRICES) as run:
        for cost in (0, "0.5"):
            with sw.reserve(input_tokens=100, output_tokens=100, model="plain") as hold:
                hold.settle(input_tokens=100, output_tokens=100, cost_usd=cost)
        assert run.total.cost_usd == Decimal("0.5")


def test_a_record_is_priced_by_the_run():
    """A record without a cost is priced by the run's table, cache reads and writes at their own rates."""
    with sw.Run(prices=PRICES) as run:
        sw.record_usage("plain", input_tokens=10, output_tokens=20)
        assert run.total.cost_usd == 50 * MICRO
        sw.record_usage("cached", input_tokens=10, output_tokens=1, cache_read_tokens=4, cache_write_tokens=2)
        assert run.total.cost_usd == (50 + 4 * 3 + 2 + 2 * 4 + 5) * MICRO
        assert run.total.unpriced_calls == 0


def test_the_default_model_prices_a_call_that_names_none():
    """A reservation or record without a model is priced as the step's model, a step's before the persona's."""
    with sw.Run(prices=PRICES) as run, sw.persona("p", model="cached"):
        sw.reserve(input_tokens=10).acquire().release()
        assert sw.reserve(input_tokens=10, model="plain").acquire().cost_usd == 10 * MICRO
        with sw.step("s", model="plain"):
            sw.record_usage(input_tokens=7)
        with sw.step("t"):
            sw.record_usage(input_tokens=1)
        assert run.total.cost_usd == (7 + 3) * MICRO


def test_a_providers_prefix_is_optional():
    """A model with a provider's prefix has the price of the model without one."""
    with sw.Run(prices=PRICES) as run:
        sw.record_usage("openai:plain", input_tokens=10)
        assert sw.reserve(input_tokens=10, model="anything:plain").acquire().cost_usd == 10 * MICRO
        assert run.total.cost_usd == 10 * MICRO


@pytest.mark.parametrize("called", ["openai/gpt-x", "router/openai/gpt-x", "openai:gpt-x", "azure/gpt-x-2025-01-01"])
@pytest.mark.parametrize("answered", ["gpt-x", "gpt-x-2025-08-07"])
def test_a_price_holds_for_a_reply_that_leaves_out_the_provider(called, answered):
    """What the table says of a model as it was called holds for the name in the reply, without provider and dated."""
    prices = {called: {"input": 7, "output": 0}, "azure/gpt-y": {"input": 9, "output": 0}}
    with sw.Run(prices=prices) as run:
        with sw.reserve(input_tokens=10, model=called) as hold:
            hold.settle(input_tokens=10, output_tokens=0, model=answered)
        assert run.total.cost_usd == 70 * MICRO


def test_a_price_does_not_hold_for_another_model_that_answers():
    """A reply that names another model than the one that was called has the price of the model that it names."""
    prices = {"openai/gpt-x": {"input": 7, "output": 0}, "x": {"input": 1, "output": 0}}
    with sw.Run(prices=prices) as run:
        with sw.reserve(input_tokens=10, model="openai/gpt-x") as hold:
            hold.settle(input_tokens=10, output_tokens=0, model="x")
        assert run.total.cost_usd == 10 * MICRO


def test_a_child_run_uses_its_own_prices_first():
    """A run inside a run prices by its own table, and by its parent's for a model that is not in it."""
    with sw.Run(prices=PRICES), sw.Run(prices={"plain": {"input": 100, "output": 0}}) as child:
        sw.record_usage("plain", input_tokens=1)
        sw.record_usage("cached", input_tokens=1)
        assert child.total.cost_usd == 103 * MICRO


@pytest.mark.parametrize("limited", ["step", "run"])
@pytest.mark.parametrize("model", [UNKNOWN, None])
def test_under_a_usd_limit_a_call_without_a_price_is_not_reserved(limited, model):
    """With a USD limit anywhere on the chain, reserving for a model without a price raises before the call."""
    run_budget, step_budget = (sw.Budget(max_usd=1) if limited == kind else None for kind in ("run", "step"))
    with sw.Run(budget=run_budget) as run, sw.step("s", budget=step_budget):
        with pytest.raises(sw.UnpricedModelError) as caught:
            sw.reserve(input_tokens=10, output_tokens=10, model=model).acquire()
        assert caught.value.model == model
        assert isinstance(caught.value, LookupError)
        assert run.total == run.held == sw.Usage()


def test_under_a_usd_limit_a_record_without_a_price_counts_and_then_raises():
    """A record without cost and price is added, counted as unpriced, and then raises, every time."""
    with sw.Run(budget=sw.Budget(max_usd=1)) as run, sw.step("s") as step:
        for calls in (1, 2):
            with pytest.raises(sw.UnpricedModelError) as caught:
                sw.record_usage(UNKNOWN, input_tokens=10, output_tokens=5)
            assert caught.value.model == UNKNOWN
            for scope in (run, step):
                assert (scope.total.calls, scope.total.unpriced_calls) == (calls, calls)
                assert (scope.total.total_tokens, scope.total.cost_usd) == (15 * calls, 0)


def test_a_passed_limit_is_reported_before_a_missing_price():
    """A record that passes a token limit and has no price is told as the budget error: that is what boundaries act on."""
    with sw.step("s", budget=sw.Budget(max_usd=1, max_tokens=5)), pytest.raises(sw.BudgetExceededError):
        sw.record_usage(UNKNOWN, input_tokens=6)


def test_a_cost_that_is_given_needs_no_price():
    """With an explicit cost a model without a price is reserved, settled and recorded under a USD limit."""
    with sw.Run(budget=sw.Budget(max_usd=1)) as run:
        sw.record_usage(UNKNOWN, input_tokens=10, cost_usd="0.25")
        with sw.reserve(input_tokens=10, cost_usd="0.25", model=UNKNOWN) as hold:
            hold.settle(input_tokens=10, output_tokens=0, cost_usd="0.2")
        assert (run.total.cost_usd, run.total.unpriced_calls) == (Decimal("0.45"), 0)


def test_without_a_usd_limit_an_unpriced_call_goes_through():
    """Without a USD limit a call without a price goes through, is held to the other limits, and counts as unpriced."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        sw.record_usage(UNKNOWN, input_tokens=10)
        with sw.reserve(input_tokens=10, output_tokens=500, model=UNKNOWN) as hold:
            assert (hold.output_tokens, hold.cost_usd) == (80, 0)
            hold.settle(input_tokens=10, output_tokens=20)
        assert (run.total.unpriced_calls, run.total.calls, run.total.cost_usd) == (2, 2, 0)
        with sw.reserve(output_tokens=5, model=UNKNOWN):
            pass
        assert (run.uncertain.output_tokens, run.uncertain.cost_usd) == (5, 0)


def test_a_free_model_has_a_price():
    """A price of zero is a price: under a USD limit of zero its calls go through and are not unpriced."""
    with sw.Run(prices=PRICES, budget=sw.Budget(max_usd=0)) as run:
        with sw.reserve(input_tokens=10, output_tokens=10, model="free") as hold:
            hold.settle(input_tokens=10, output_tokens=10)
        sw.record_usage("free", input_tokens=5)
        assert (run.total.unpriced_calls, run.total.cost_usd) == (0, 0)


def test_a_settle_for_another_model_is_priced_as_that_one():
    """Where another model answered than was reserved for, the call costs what that one charges."""
    with sw.Run(prices=PRICES) as run, sw.step("s"):
        with sw.reserve(input_tokens=10, output_tokens=10, model="plain") as hold:
            hold.settle(input_tokens=10, output_tokens=10, model="cached")
        assert run.total.cost_usd == 80 * MICRO
    assert run.receipts[0].model == "cached"


@given(st.decimals("0.000001", 1_000, places=6), st.integers(0, 10**7), st.integers(0, 10**7))
def test_rounding_never_lets_a_settle_cost_more_than_its_hold(price, tokens_in, tokens_out):
    """However odd the price, a call within its tokens never costs more than what was held, nor less than its price."""
    with sw.Run(prices={"odd": {"input": price, "output": price / 7}}) as run:
        with sw.reserve(input_tokens=tokens_in, output_tokens=tokens_out, model="odd") as hold:
            held = hold.cost_usd
            hold.settle(input_tokens=tokens_in, output_tokens=tokens_out)
        assert price * tokens_in * MICRO <= run.total.cost_usd <= held
