"""Recording after the fact: added first, to every scope around, and checked then."""

import enum
import subprocess
import sys
from decimal import ROUND_UP, Decimal, Inexact, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

EXACT_AND_OVER = {
    "max_tokens": ({"input_tokens": 6, "output_tokens": 4}, {"output_tokens": 1}, 10),
    "max_input_tokens": ({"input_tokens": 10, "output_tokens": 99}, {"input_tokens": 1}, 10),
    "max_output_tokens": ({"input_tokens": 99, "output_tokens": 10}, {"output_tokens": 1}, 10),
    "max_usd": ({"cost_usd": "0.05"}, {"cost_usd": "0.000000000001"}, Decimal("0.05")),
    "max_calls": ({}, {}, 1),
}
ORDER = ["max_tokens", "max_input_tokens", "max_output_tokens", "max_usd", "max_calls"]


@pytest.mark.parametrize("limit", EXACT_AND_OVER)
@pytest.mark.parametrize("kind", ["run", "persona", "step"])
def test_equal_is_fine_and_greater_trips(limit, kind):
    """A limit that is met exactly holds, and the first amount above it trips it, on every kind of scope."""
    exact, over, value = EXACT_AND_OVER[limit]
    budget = sw.Budget(**{limit: value})
    block = {"run": lambda: sw.Run(budget=budget, name="it"), "persona": lambda: sw.persona("it", budget=budget)}
    with block.get(kind, lambda: sw.step("it", budget=budget))() as scope:
        sw.record_usage(**exact)
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.record_usage(**over)
        error = caught.value
        assert (error.limit, error.limit_value, error.scope_kind, error.scope_name) == (limit, value, kind, "it")
        assert (error.scope_id, error.phase, error.reason) == (scope.id, "record", "exceeded")
        assert error.consumed > error.limit_value
        assert type(error.consumed) is type(error.limit_value) is (Decimal if limit == "max_usd" else int)


@pytest.mark.parametrize("limit", EXACT_AND_OVER)
def test_the_crossing_call_stays_recorded_and_later_ones_trip_again(limit):
    """What passes a limit is counted in full, and so is every later call, each of which trips again."""
    exact, over, value = EXACT_AND_OVER[limit]
    with sw.Run() as run, sw.step("s", budget=sw.Budget(**{limit: value})) as step:
        sw.record_usage(**exact)
        for calls in (2, 3):
            with pytest.raises(sw.BudgetExceededError, match=limit):
                sw.record_usage(**over)
            assert step.own.calls == step.total.calls == run.total.calls == calls
        with pytest.raises(sw.BudgetExceededError, match=limit):
            sw.record_usage(input_tokens=0, output_tokens=0, cost_usd=0)
        assert run.total.output_tokens == step.own.output_tokens
        assert run.total.cost_usd == step.own.cost_usd


def test_a_limit_of_zero_is_real():
    """A limit of 0 trips at the first token, and holds where nothing is used."""
    with sw.step("s", budget=sw.Budget(max_tokens=0, max_usd=0)):
        sw.record_usage(input_tokens=0, cost_usd=0)
        with pytest.raises(sw.BudgetExceededError, match=r"exceeded max_tokens budget \(1 > 0\)"):
            sw.record_usage(input_tokens=1)


@given(st.lists(st.integers(0, 2), min_size=3, max_size=3), st.data())
def test_the_outermost_exceeded_scope_is_reported(limits, data):
    """Of several scopes that one call exceeds, the outermost is reported."""
    amount = data.draw(st.integers(0, 3))
    with (
        sw.Run(budget=sw.Budget(max_tokens=limits[0]), name="n0"),
        sw.persona("n1", budget=sw.Budget(max_tokens=limits[1])),
        sw.step("n2", budget=sw.Budget(max_tokens=limits[2])),
    ):
        expected = next((f"n{i}" for i, limit in enumerate(limits) if amount > limit), None)
        reported = None
        try:
            sw.record_usage(output_tokens=amount)
        except sw.BudgetExceededError as error:
            reported = error.scope_name
        assert reported == expected


@pytest.mark.parametrize("skipped", range(len(ORDER)))
def test_within_a_scope_limits_are_reported_in_a_fixed_order(skipped):
    """Within one scope the order is tokens, input, output, USD, calls."""
    zero = sw.Budget(**dict.fromkeys(ORDER[skipped:], 0))
    with sw.step("s", budget=zero), pytest.raises(sw.BudgetExceededError) as caught:
        sw.record_usage(input_tokens=1, output_tokens=1, cost_usd=1)
    assert caught.value.limit == ORDER[skipped]


def test_held_amounts_do_not_count():
    """What calls hold does not trip a record, however much it is."""
    with sw.step("s", budget=sw.Budget(max_tokens=10, max_usd=1, max_calls=2)) as step:
        hold = sw.reserve(input_tokens=10, cost_usd=1).acquire()
        sw.record_usage(input_tokens=10, cost_usd=1)
        step.check()
        hold.release()


def test_uncertain_amounts_do_not_count():
    """What is set aside for a call of unknown cost does not trip a record either."""
    with sw.step("s", budget=sw.Budget(max_tokens=10)) as step:
        with sw.reserve(output_tokens=10):
            pass
        assert step.uncertain.output_tokens == 10
        sw.record_usage(output_tokens=10)
        step.check()


@given(st.integers(max_value=-1), st.integers(max_value=-1))
def test_negative_counts_clamp_to_zero(tokens_in, tokens_out):
    """A negative count counts as 0: it gives nothing back."""
    with sw.step("s") as step:
        sw.record_usage(input_tokens=5, output_tokens=5)
        sw.record_usage(
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cache_read_tokens=tokens_in,
            cache_write_tokens=tokens_in,
            reasoning_tokens=tokens_out,
            cost_usd=0,
        )
        assert (step.own.input_tokens, step.own.output_tokens, step.own.calls) == (5, 5, 2)
        assert (step.own.cache_read_tokens, step.own.cache_write_tokens, step.own.reasoning_tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    "cost",
    [-1, -0.01, "-0.01", Decimal("-1e-30"), float("nan"), float("inf"), "NaN", "Infinity", Decimal("-inf"), "sNaN",
     Decimal("sNaN"), "", "a dollar", True, "1e999999"],
    ids=repr,
)  # fmt: skip
def test_a_bad_cost_counts_nothing(cost):
    """A cost that is negative, not finite or no amount is a ValueError, and the call is not counted at all."""
    with sw.Run() as run, sw.step("s") as step:
        with pytest.raises(ValueError, match="cost_usd"):
            sw.record_usage(model="m", input_tokens=5, cost_usd=cost)
        assert step.own == step.total == run.total == sw.Usage()


@pytest.mark.parametrize("cost", [Decimal("0.25"), "0.25", 0.25], ids=repr)
def test_a_cost_may_be_of_every_money_type(cost):
    """A cost is taken as Decimal, str or float, and comes back as an exact Decimal; an int is dollars."""
    with sw.step("s") as step:
        sw.record_usage(cost_usd=cost)
        sw.record_usage(cost_usd=1)
        assert step.own.cost_usd == Decimal("1.25")
        assert type(step.own.cost_usd) is Decimal


def test_floats_are_read_by_their_repr():
    """Ten times 0.1 as float is exactly one dollar, which a limit of one dollar allows."""
    with sw.step("s", budget=sw.Budget(max_usd=1.0)) as step:
        for _ in range(10):
            sw.record_usage(cost_usd=0.1)
        assert step.own.cost_usd == 1


def test_a_users_decimal_context_changes_nothing():
    """What is charged does not depend on the precision, rounding or traps of the caller's decimal context."""
    with sw.Run(budget=sw.Budget(max_usd="1234.567891")) as run, localcontext() as context:
        context.prec, context.rounding, context.traps[Inexact] = 2, ROUND_UP, True
        sw.record_usage(cost_usd=Decimal("1234.567891"))
        assert str(run.total.cost_usd) == "1234.567891"
        assert str(run.remaining.max_usd) in {"0", "0.000000"}


def test_less_than_a_picodollar_rounds_up():
    """An amount below the smallest unit counts as that unit: money is rounded up, never away."""
    with sw.step("s", budget=sw.Budget(max_usd=0)), pytest.raises(sw.BudgetExceededError, match="max_usd"):
        sw.record_usage(cost_usd=Decimal("1e-40"))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99), st.integers(0, 99), st.decimals(0, 9, places=6))))
def test_own_is_the_scopes_and_total_is_the_subtrees(calls):
    """A record adds to `own` of the innermost scope alone, and to `total` of it and every scope around."""
    depth = 4
    own = [[0, 0, Decimal(0), 0] for _ in range(depth)]
    with sw.Run() as run, sw.persona("p") as persona, sw.step("a") as outer:
        for level, tokens_in, tokens_out, cost in calls:
            if level == depth - 1:
                with sw.step("b") as inner:
                    sw.record_usage(input_tokens=tokens_in, output_tokens=tokens_out, cost_usd=cost)
                    assert inner.own == inner.total
                    assert (inner.own.input_tokens, inner.own.cost_usd) == (tokens_in, cost)
            else:
                sw.record_usage(input_tokens=tokens_in, output_tokens=tokens_out, cost_usd=cost)
            at = own[depth - 1 if level == depth - 1 else 2]
            for index, amount in enumerate((tokens_in, tokens_out, cost, 1)):
                at[index] += amount
        seen = [
            [usage.input_tokens, usage.output_tokens, usage.cost_usd, usage.calls]
            for usage in (run.own, persona.own, outer.own)
        ]
        assert seen == own[:3]
        everything = [sum(column) for column in zip(*own, strict=True)]
        for scope in (run, persona, outer):
            total = scope.total
            assert [total.input_tokens, total.output_tokens, total.cost_usd, total.calls] == everything
            assert total.total_tokens == everything[0] + everything[1]


def test_a_model_that_is_named_becomes_the_last_one():
    """A non-empty model becomes the step's last model, and an empty or missing one leaves it as it was."""
    with sw.Run() as run:
        with sw.step("s", model="declared"):
            sw.record_usage("first")
            sw.record_usage("second")
            sw.record_usage("")
            sw.record_usage(None)
        with sw.step("t", model="declared"):
            sw.record_usage("")
    assert [receipt.model for receipt in run.receipts] == ["second", "declared"]


def test_parts_of_the_tokens_are_kept_but_not_added():
    """Cache and reasoning tokens are parts of input and output: counted apart, and in no limit twice."""
    with sw.step("s", budget=sw.Budget(max_tokens=15)) as step:
        sw.record_usage(
            input_tokens=10,
            output_tokens=5,
            cache_read_tokens=4,
            cache_write_tokens=3,
            reasoning_tokens=2,
            estimated=True,
        )
        usage = step.own
    assert (usage.total_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (15, 4, 3)
    assert (usage.reasoning_tokens, usage.estimated_calls) == (2, 1)


def test_a_step_that_catches_the_error_goes_on():
    """A step that catches its own budget error ends as completed, and the excess is its overshoot."""
    with (
        sw.Run() as run,
        sw.step("s", budget=sw.Budget(max_tokens=100, max_usd="0.05")),
        pytest.raises(sw.BudgetExceededError, match="max_tokens"),
    ):
        sw.record_usage(input_tokens=90, output_tokens=40, cost_usd="0.06")
    (receipt,) = run.receipts
    assert receipt.status == "completed"
    assert receipt.overshoot.total_tokens == 30
    assert receipt.overshoot.cost_usd == Decimal("0.01")


def test_without_a_run_it_is_a_no_op():
    """Where no run was ever entered a record does nothing at all, and warns of nothing."""
    program = (
        "import stepwarden as sw\n"
        "sw.record_usage(model='m', input_tokens=10**9, cost_usd=10**9)\n"
        "assert sw.current_run() is None and sw.receipts() == ()\n"
        "with sw.Run() as run: pass\n"
        "assert run.total == sw.Usage()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@sw.tool(side_effect="none")
def touch() -> str:
    """Do nothing."""
    return "touched"


def test_tool_calls_are_refused_before_they_pass_the_limit():
    """The call that would pass max_tool_calls does not run and does not count, and neither does any later one."""
    with sw.Run() as run, sw.step("s", budget=sw.Budget(max_tool_calls=2)) as step:
        assert [touch(), touch()] == ["touched", "touched"]
        for _ in range(2):
            with pytest.raises(sw.BudgetExceededError) as caught:
                touch()
            error = caught.value
            assert (error.limit, error.phase, error.limit_value, error.consumed) == ("max_tool_calls", "tool", 2, 2)
            assert step.own.tool_calls == run.total.tool_calls == 2


def test_the_outermost_full_scope_refuses_a_tool():
    """Where several scopes have no tool call left, the outermost is reported, and nothing is counted anywhere."""
    with sw.Run(budget=sw.Budget(max_tool_calls=0), name="r") as run, sw.step("s", budget=sw.Budget(max_tool_calls=0)):
        with pytest.raises(sw.BudgetExceededError) as caught:
            touch()
        assert (caught.value.scope_kind, caught.value.scope_name) == ("run", "r")
        assert run.total == sw.Usage()


def test_check_raises_for_the_outermost_passed_limit_and_counts_nothing():
    """`check` raises what the next record would, for the outermost scope, and leaves every number as it was."""
    with sw.Run(budget=sw.Budget(max_tokens=5), name="r") as run, sw.step("s", budget=sw.Budget(max_tokens=1)) as step:
        step.check()
        with pytest.raises(sw.BudgetExceededError):
            sw.record_usage(input_tokens=2)
        with pytest.raises(sw.BudgetExceededError, match="step `s`"):
            step.check()
        run.check()
        with pytest.raises(sw.BudgetExceededError):
            sw.record_usage(input_tokens=4)
        for scope in (step, run):
            with pytest.raises(sw.BudgetExceededError, match="run `r`"):
                scope.check()
        assert (run.total.calls, run.total.input_tokens) == (2, 6)


@pytest.mark.parametrize("model", [3, b"m", ["m"]])
@pytest.mark.parametrize("cost_usd", [None, "0.1"])
def test_a_model_that_is_no_name_counts_nothing(model, cost_usd):
    """A model that is no string is a TypeError that names it, with a cost or without, and nothing is counted."""
    says = "model must be the name of a model or None, not "
    with sw.Run() as run, sw.reserve() as hold:
        with pytest.raises(TypeError, match=says):
            sw.record_usage(model, input_tokens=1, cost_usd=cost_usd)
        with pytest.raises(TypeError, match=says):
            hold.settle(model=model, cost_usd=cost_usd)
        assert run.total == sw.Usage()
        hold.release()


def test_a_model_may_be_a_member_of_an_enumeration():
    """A model named by a StrEnum is the model of that name, for prices, defaults and what the receipt says."""

    class Model(enum.StrEnum):
        SMALL = "small"

    with sw.Run(prices={Model.SMALL: {"input": 1, "output": 1}}) as run, sw.step("s", model=Model.SMALL):
        default = sw.default_model()
        sw.record_usage(Model.SMALL, input_tokens=1_000_000)
        with sw.reserve(model=Model.SMALL) as hold:
            hold.settle(model=Model.SMALL)
    (receipt,) = run.receipts
    assert run.total.cost_usd == 1
    assert {type(name) for name in (default, receipt.model, *(call.model for call in receipt.calls))} == {str}
