"""Estimates: what a call that was left open is charged until its cost is known, and what replaces that."""

import pytest

import stepwarden as sw

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000}}
UNKNOWN = "no-such-model-anywhere"


def left(**asked):
    """Take a hold and leave it open."""
    with sw.reserve(**asked) as hold:
        pass
    return hold


def handed_up(**asked):
    """Take a hold that stays open when the scope ends, and that the caller's context does not know."""
    return sw.propagate(sw.reserve(**asked).acquire)()


@pytest.mark.parametrize(
    ("asked", "unpriced"),
    [
        ({"input_tokens": 5, "model": UNKNOWN}, 1),
        ({"output_tokens": 5}, 1),
        ({"input_tokens": 5, "model": "m"}, 0),
        ({"input_tokens": 5, "cost_usd": 1}, 0),
    ],
)
def test_a_call_left_open_is_unpriced_where_it_has_no_price(asked, unpriced):
    """A call left open counts as estimated, and as unpriced too where nothing says what it costs, until it is known."""
    with sw.Run(prices=PRICES) as run, sw.step("s") as step:
        hold = left(**asked)
        for usage in (step.own, step.total, run.total):
            assert (usage.calls, usage.estimated_calls, usage.unpriced_calls) == (1, 1, unpriced)
        hold.settle(input_tokens=1, output_tokens=0, cost_usd=1)
        for usage in (step.own, step.total, run.total):
            assert (usage.calls, usage.estimated_calls, usage.unpriced_calls) == (1, 0, 0)
        second = left(**asked)
        second.release()
        assert (run.total.calls, run.total.estimated_calls, run.total.unpriced_calls) == (1, 0, 0)
        assert run.uncertain == run.held == sw.Usage()


@pytest.mark.parametrize("ending", ["cheaper", "dearer", "release"])
def test_a_receipt_keeps_its_estimate(ending):
    """What is known after the step has ended adds what is above its estimate to the heir, and takes nothing away."""
    with sw.Run(prices=PRICES) as run, sw.persona("heir") as heir:
        with sw.step("s"):
            hold = left(input_tokens=10, output_tokens=20, model="m")
        assert (heir.uncertain.output_tokens, heir.uncertain.cost_usd) == (20, 40)
        if ending == "release":
            hold.release()
            own = sw.Usage()
        elif ending == "cheaper":
            hold.settle(input_tokens=4, output_tokens=0)
            own = sw.Usage()
        else:
            hold.settle(input_tokens=14, output_tokens=3, cache_read_tokens=1)
            own = sw.Usage(input_tokens=4, output_tokens=3, cost_usd=10, cache_read_tokens=1)
        assert heir.own == own
        assert heir.uncertain == run.uncertain == run.held == sw.Usage()
    step, persona = run.receipts
    assert (step.own.input_tokens, step.own.cost_usd, step.own.estimated_calls) == (10, 10, 1)
    assert persona.total.total_tokens == persona.own.total_tokens + step.total.total_tokens
    assert persona.total.cost_usd == persona.own.cost_usd + step.total.cost_usd
    assert (persona.late.input_tokens, persona.late.output_tokens) == (own.input_tokens, own.output_tokens)
    with pytest.raises(sw.HoldClosedError):
        hold.settle(input_tokens=4, output_tokens=0)


@pytest.mark.parametrize("ending", ["settle", "release"])
def test_an_heir_takes_back_its_own_estimate(ending):
    """Where the estimate itself was charged to a scope that is still open, what is known replaces it there."""
    with sw.Run(prices=PRICES) as run, sw.persona("heir") as heir:
        with sw.step("s"):
            hold = handed_up(input_tokens=10, output_tokens=20, model="m")
        hold.leave()
        assert (heir.own.input_tokens, heir.own.estimated_calls) == (10, 1)
        if ending == "settle":
            hold.settle(input_tokens=4, output_tokens=1)
        else:
            hold.release()
        settled = ending == "settle"
        expected = sw.Usage(input_tokens=4, output_tokens=1, cost_usd=6, calls=1) if settled else sw.Usage()
        assert heir.own == heir.total == run.total == expected
        assert run.uncertain == run.held == sw.Usage()
    step, persona = run.receipts
    assert (step.own, step.open_holds) == (sw.Usage(), 1)
    assert [call.outcome for call in persona.calls] == (["settled"] if settled else [])
    assert (persona.late.input_tokens, persona.late.calls) == ((4, 1) if settled else (0, 0))


def test_a_run_takes_back_its_estimate_after_its_end():
    """A run leaves no receipt, so that what is known after its end replaces the estimate that its end made."""
    with sw.Run(prices=PRICES) as run:
        hold = handed_up(input_tokens=10, output_tokens=20, model="m")
    assert (run.own.input_tokens, run.uncertain.output_tokens) == (10, 20)
    hold.release()
    assert run.own == run.total == run.uncertain == run.held == sw.Usage()


@pytest.mark.parametrize("is_left", [False, True])
def test_a_usd_limit_refuses_tokens_without_a_price_once_they_are_counted(is_left):
    """Under a USD limit, settling with tokens that have no price raises, after the usage is counted as unpriced."""
    with sw.Run(budget=sw.Budget(max_usd=1)) as run, sw.step("s") as step:
        hold = left() if is_left else sw.reserve().acquire()
        with pytest.raises(sw.UnpricedModelError) as caught:
            hold.settle(input_tokens=3, output_tokens=2, model=UNKNOWN)
        assert caught.value.model == UNKNOWN
        assert step.own == run.total == sw.Usage(input_tokens=3, output_tokens=2, calls=1, unpriced_calls=1)
        with pytest.raises(sw.HoldClosedError):
            hold.settle(input_tokens=3, output_tokens=2)
        sw.reserve().acquire().settle(input_tokens=0, output_tokens=0)
        sw.reserve().acquire().settle(input_tokens=1, output_tokens=0, cost_usd=0)


def test_a_passed_limit_is_told_before_a_missing_price():
    """Where a settlement passes a limit and has no price either, the passed limit is what is raised."""
    with sw.Run(budget=sw.Budget(max_usd=1, max_tokens=2)):
        hold = sw.reserve().acquire()
        with pytest.raises(sw.BudgetExceededError, match="max_tokens"):
            hold.settle(input_tokens=3, output_tokens=0)
