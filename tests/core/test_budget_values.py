"""Budgets and usage as values: what a limit may be, exact to the last digit whatever the caller's decimal context."""

import copy
import dataclasses
import math
import pickle
from decimal import ROUND_DOWN, Context, Decimal, DecimalException, Inexact, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.core import _amount

HUGE = 10**400  # an int that no float can hold
COUNTS = ("max_tokens", "max_input_tokens", "max_output_tokens", "max_calls", "max_tool_calls")
FIELDS = (*COUNTS, "max_usd", "max_seconds")
BAD_COUNTS = (True, False, 1.0, 1.5, "100", b"1", -1, -HUGE, Decimal(1), math.nan, math.inf, [1], {}, 1j)
BAD_USD = (
    True, False, -1, -0.01, "-0.01", Decimal("-1e-30"), math.nan, math.inf, -math.inf, Decimal("NaN"),
    Decimal("sNaN"), Decimal("Infinity"), "nan", "inf", "Infinity", "", " ", "$1", "1,5", "one", b"1", [1], 1j, {},
    HUGE, "1e400", 1e300,
)  # fmt: skip
BAD_SECONDS = (
    True, False, -1, -0.001, math.nan, math.inf, -math.inf, "10", b"1", Decimal(10), [1], 1j, HUGE,
)  # fmt: skip

# Contexts that a user's program may have in force, from coarse to hostile.
STRICT = Context(prec=3, traps=[Inexact, *(trap for trap in Context().traps if issubclass(trap, DecimalException))])
CONTEXTS = [Context(prec=6), Context(prec=1, rounding=ROUND_DOWN), Context(prec=6, Emax=3, Emin=-3), STRICT]


def describe(value: object) -> str:
    """Name a parameter by its type and the beginning of its text."""
    return f"{type(value).__name__}-{str(value)[:9]}"


AMOUNTS = st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False, places=12)
SECONDS = st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**9)


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", BAD_COUNTS, ids=describe)
def test_a_count_that_is_no_natural_number_is_refused(field, value):
    """A limit that counts is an int >= 0, and anything else is a DefinitionError that names the field."""
    for declare in (
        lambda: sw.Budget(**{field: value}),
        lambda: sw.Budget.from_dict({field: value}),
        lambda: sw.step(budget={field: value}),
        lambda: sw.step_from_dict(len, {"budget": {field: value}}),
        lambda: sw.persona_from_dict(len, {"budget": {field: value}}),
        lambda: dataclasses.replace(sw.Budget(), **{field: value}),
    ):
        with pytest.raises(sw.DefinitionError, match=field):
            declare()


@pytest.mark.parametrize("value", BAD_USD, ids=describe)
def test_an_amount_that_is_no_price_is_refused(value):
    """A USD limit that is negative, not finite, absurdly large or no amount is a DefinitionError that names it."""
    for context in (Context(), *CONTEXTS):
        with localcontext(context), pytest.raises(sw.DefinitionError, match="max_usd"):
            sw.Budget(max_usd=value)


@pytest.mark.parametrize("value", BAD_SECONDS, ids=describe)
def test_a_time_that_is_no_duration_is_refused(value):
    """A limit in seconds that is negative, not finite or no number is a DefinitionError that names it."""
    with pytest.raises(sw.DefinitionError, match="max_seconds"):
        sw.Budget(max_seconds=value)


@pytest.mark.parametrize("field", FIELDS)
def test_zero_is_a_real_limit_and_none_is_no_limit(field):
    """Zero stays zero in every field, None stays None, and the two budgets differ."""
    zero = sw.Budget(**{field: 0})
    assert getattr(zero, field) == 0
    assert getattr(zero, field) is not None
    assert sw.Budget(**{field: None}) == sw.Budget() != zero
    assert all(getattr(sw.Budget(), name) is None for name in FIELDS)


def test_a_zero_limit_refuses_the_first_token():
    """A limit of zero tokens is passed by the first token, and one of zero calls leaves no room for any."""
    with sw.Run():
        with pytest.raises(sw.BudgetExceededError), sw.step("plan", budget=sw.Budget(max_tokens=0)):
            sw.record_usage(input_tokens=1)
        with pytest.raises(sw.BudgetExceededError), sw.step("plan", budget=sw.Budget(max_calls=0)):
            sw.reserve(input_tokens=1).acquire()


def test_an_unknown_limit_is_refused_with_the_nearest_known_one():
    """A key that is no limit is a DefinitionError that names it and the field that was probably meant."""
    for declare in (sw.Budget.from_dict, lambda given: sw.step(budget=given), lambda given: sw.persona(budget=given)):
        with pytest.raises(sw.DefinitionError, match=r"max_token'.*max_tokens"):
            declare({"max_token": 5})
        with pytest.raises(sw.DefinitionError, match=r"max_cost_usd"):
            declare({"max_cost_usd": 5})
        with pytest.raises(sw.DefinitionError, match="7"):
            declare({7: 5})
    with pytest.raises(TypeError, match="max_token"):
        sw.Budget(max_token=5)


@pytest.mark.parametrize("mapping", [None, 5, "max_tokens", [("max_tokens", 5)], ["max_tokens"], True])
def test_a_budget_is_read_from_a_mapping_only(mapping):
    """`Budget.from_dict` takes a mapping, and anything else is a DefinitionError that speaks of the budget."""
    with pytest.raises(sw.DefinitionError, match="budget"):
        sw.Budget.from_dict(mapping)


@given(
    counts=st.fixed_dictionaries({}, optional=dict.fromkeys(COUNTS, st.integers(0, 10**30) | st.none())),
    usd=st.none() | AMOUNTS,
    seconds=st.none() | SECONDS,
)
@example(counts={}, usd=None, seconds=1e300)
@example(counts={"max_tokens": HUGE}, usd=Decimal(999999999999999999), seconds=5e-324)
def test_every_budget_that_is_accepted_can_be_put_in_force(counts, usd, seconds):
    """Every accepted budget survives `from_dict`, pickling, copying and replacing, and limits a run and a step."""
    budget = sw.Budget(**counts, max_usd=usd, max_seconds=seconds)
    fields = {field.name: getattr(budget, field.name) for field in dataclasses.fields(budget)}
    thawed = pickle.loads(pickle.dumps(budget))  # noqa: S301 - our own bytes
    read = sw.Budget.from_dict(fields)
    for twin in (read, thawed, copy.copy(budget), copy.deepcopy(budget), dataclasses.replace(budget)):
        assert twin == budget
        assert hash(twin) == hash(budget)
    with sw.Run(budget=budget) as run, sw.step("plan", budget=budget) as scope:
        assert run.budget == scope.budget == budget
        left = scope.remaining
    assert [getattr(left, name) for name in COUNTS] == [getattr(budget, name) for name in COUNTS]
    assert left.max_usd == budget.max_usd


@given(amount=AMOUNTS, context=st.sampled_from(CONTEXTS))
def test_dollars_are_exact_whatever_the_callers_context(amount, context):
    """A USD limit keeps every digit under any decimal context, given as Decimal, str or int, and takes part exactly."""
    written = f"{amount:f}"
    with localcontext(context):
        budget, again = sw.Budget(max_usd=amount), sw.Budget(max_usd=written)
        whole = sw.Budget(max_usd=int(amount))
        with sw.Run(budget=budget) as run:
            sw.record_usage(cost_usd=amount)  # exactly equal is fine
            with pytest.raises(sw.BudgetExceededError) as caught:
                sw.record_usage(cost_usd="0.000000000001")
            spent, limit, consumed = run.total.cost_usd, caught.value.limit_value, caught.value.consumed
    assert f"{budget.max_usd:f}" == f"{again.max_usd:f}" == written
    assert whole.max_usd == int(amount)
    assert limit == amount
    with localcontext(Context(prec=60)):
        assert spent == consumed == amount + Decimal("0.000000000001")


@given(value=st.floats(min_value=0, max_value=1e15, allow_nan=False), context=st.sampled_from(CONTEXTS))
@example(value=0.1, context=CONTEXTS[0])
@example(value=1.1 + 2.2, context=CONTEXTS[0])
@example(value=5e-324, context=CONTEXTS[2])
def test_a_float_counts_by_its_repr(value, context):
    """A float is the decimal number that its repr shows, so that 0.1 is a tenth and not a binary neighbour of it."""
    with localcontext(context):
        budget = sw.Budget(max_usd=value)
    assert budget.max_usd == Decimal(repr(value))


def test_subclasses_of_numbers_count_by_their_value():
    """An int, float or Decimal subclass is read as the number that it is, whatever its own repr says."""

    class Loud(float):
        def __repr__(self):
            return "loud"

    class Price(Decimal):
        def __repr__(self):
            return "a price"

    assert sw.Budget(max_usd=Loud(0.1)).max_usd == Decimal("0.1")
    assert sw.Budget(max_usd=Price("0.3")).max_usd == Decimal("0.3")
    assert type(sw.Budget(max_usd=Price("0.3")).max_usd) is Decimal
    assert sw.Budget(max_calls=sw.SideEffect.NETWORK).max_calls == 4


def test_ten_dimes_are_a_dollar():
    """Ten calls of 0.1, given as floats, fit a limit of 1 exactly, and the smallest amount more does not."""
    with localcontext(prec=6), sw.Run(budget=sw.Budget(max_usd=1)) as run:
        for _ in range(10):
            sw.record_usage(cost_usd=0.1)
        assert run.remaining.max_usd == 0
        with pytest.raises(sw.BudgetExceededError, match=r"exceeded max_usd budget \(\$1\.000000000001 > \$1\.00\)"):
            sw.record_usage(cost_usd="0.000000000001")


def test_a_run_leaves_the_callers_decimal_context_alone():
    """Declaring, charging and reading raise no flag in the caller's decimal context and change none of its settings."""
    with localcontext(Context(prec=6)) as mine:
        before = str(mine)
        with sw.Run(budget=sw.Budget(max_usd="123456.7891011")) as run:
            sw.record_usage(cost_usd="12345.67891011")
            assert run.remaining.max_usd == Decimal("111111.11019099")
            assert run.receipts == ()
        assert str(mine) == before


@given(st.builds(sw.Usage, *[st.integers(0, 10**12)] * 5, AMOUNTS, *[st.integers(0, 10**6)] * 4))
def test_usage_is_a_value(usage):
    """Usage is frozen, equal and hashed by its fields, picklable, copyable and replaceable, and adds up its tokens."""
    thawed = pickle.loads(pickle.dumps(usage))  # noqa: S301 - our own bytes
    for twin in (copy.copy(usage), copy.deepcopy(usage), thawed, dataclasses.replace(usage)):
        assert twin == usage
        assert hash(twin) == hash(usage)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    with pytest.raises(dataclasses.FrozenInstanceError):
        usage.calls = 1


@pytest.mark.parametrize("field", FIELDS)
def test_a_budget_cannot_be_changed(field):
    """No field of a budget can be set or deleted, and a budget takes no field of the caller's own."""
    budget = sw.Budget(max_tokens=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(budget, field, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(budget, field)
    with pytest.raises((AttributeError, TypeError)):
        budget.max_iterations = 5
    assert budget == sw.Budget(max_tokens=5)


def test_replacing_a_limit_is_checked_like_declaring_it():
    """`dataclasses.replace` gives a new budget with the one field changed, and refuses what a declaration refuses."""
    budget = sw.Budget(max_tokens=5, max_usd="0.10")
    assert dataclasses.replace(budget, max_usd=0.2) == sw.Budget(max_tokens=5, max_usd="0.2")
    assert budget.max_usd == Decimal("0.10")
    with pytest.raises(sw.DefinitionError, match="max_usd"):
        dataclasses.replace(budget, max_usd=-1)


def test_budgets_are_equal_by_value():
    """Budgets are equal, and equal as keys, where their limits are the same numbers, however they were written."""
    written = {sw.Budget(max_usd=value, max_seconds=5) for value in ("0.5", 0.5, Decimal("0.50"), "5e-1")}
    assert len(written) == 1
    assert sw.Budget(max_usd=1) == sw.Budget(max_usd="1.00")
    assert sw.Budget(max_usd=1) != sw.Budget(max_seconds=1)


def test_what_is_remembered_of_amounts_stays_small_and_exact():
    """Amounts are converted exactly however many there are, and only so many of them are kept in memory."""
    amounts = [Decimal(n).scaleb(-12) for n in range(10_000)]
    assert [_amount.PRICED_CALLS[amount] >> _amount.COST for amount in amounts] == list(range(10_000))
    assert len(_amount.PRICED_CALLS) <= _amount._REMEMBERED


@pytest.mark.parametrize("cost_usd", ["0.05", 0.05, Decimal("0.050")], ids=repr)
def test_a_usage_takes_every_kind_of_amount(cost_usd):
    """A usage that is written down to compare with takes a cost as `max_usd` does, and is equal to what was spent."""
    with sw.Run() as run:
        sw.record_usage(input_tokens=3, cost_usd="0.05")
    assert run.total == sw.Usage(input_tokens=3, calls=1, cost_usd=cost_usd)
    assert type(sw.Usage(cost_usd=cost_usd).cost_usd) is Decimal


@pytest.mark.parametrize("cost_usd", [-1, "much", float("nan"), True, None])
def test_a_usage_has_a_cost_that_is_one(cost_usd):
    """A cost that is no amount is refused with what would be right."""
    with pytest.raises(ValueError, match=r"usage\.cost_usd must be a finite amount of USD >= 0"):
        sw.Usage(cost_usd=cost_usd)
