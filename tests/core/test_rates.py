"""Rates: the cost of a call, its worst case, and the output that an amount pays for."""

from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from math import ceil, inf, nan

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepwarden.core._rates import Rates, rates_from_mapping
from stepwarden.core.errors import DefinitionError

USD_PER_MILLION = 10**12
TOKENS = st.integers(0, 2_000_000)


@st.composite
def untiered(draw, least: Rates | None = None) -> Rates:
    """Draw rates with cache reads no dearer than input, writes no cheaper, and none of them below *least*."""

    def rate(floor: int, most: int = 2 * 10**14) -> int:
        return floor + draw(st.integers(0, most) | st.sampled_from([0, 1, USD_PER_MILLION]))

    def part(field: str, floor: int) -> int:
        """Draw the rate of a part, which a plain rate stands in for where *least* has none."""
        below = None if least is None else getattr(least, field)
        return rate(floor if below is None else max(floor, below))

    plain = rate(0 if least is None else least.input)
    read_floor = 0 if least is None else least.input if least.cache_read is None else least.cache_read
    write = part("cache_write", plain)
    return Rates(
        input=plain,
        output=rate(0 if least is None else least.output),
        cache_read=draw(st.none() | st.integers(min(read_floor, plain), plain)),
        cache_write=write,
        cache_write_1h=part("cache_write_1h", write),
        per_call=draw(st.integers(0 if least is None else least.per_call, 2 * 10**12)),
    )


@st.composite
def rising(draw) -> Rates:
    """Draw rates with up to two tiers, each dearer than the one before, as providers have them."""
    base = draw(untiered())
    tiers: list[tuple[int, Rates]] = []
    for start in sorted(draw(st.sets(st.integers(0, 1_000_000), max_size=2))):
        tiers.append((start, draw(untiered(tiers[-1][1] if tiers else base))))
    return replace(base, tiers=tuple(tiers))


@st.composite
def arbitrary(draw) -> Rates:
    """Draw any rates: tiers that fall, cache reads dearer than input, rates that are about to change."""
    rate = st.integers(0, 10**14)
    flat = st.builds(
        Rates,
        input=rate,
        output=rate,
        cache_read=st.none() | rate,
        cache_write=st.none() | rate,
        cache_write_1h=st.none() | rate,
        reasoning=st.none() | rate,
        per_call=st.integers(0, 10**12),
    )

    def tiered() -> Rates:
        starts = sorted(draw(st.sets(st.integers(0, 1_000_000), max_size=3)))
        return replace(draw(flat), tiers=tuple((start, draw(flat)) for start in starts))

    upcoming = tuple(tiered() for _ in range(draw(st.integers(0, 2))))
    return replace(tiered(), upcoming=upcoming)


@st.composite
def usages(draw) -> dict[str, int]:
    """Draw the counts of a call, the parts sometimes larger than their wholes."""
    return {
        "input_tokens": draw(TOKENS),
        "output_tokens": draw(TOKENS),
        "cache_read_tokens": draw(TOKENS),
        "cache_write_tokens": draw(TOKENS),
        "cache_write_1h_tokens": draw(TOKENS),
        "reasoning_tokens": draw(TOKENS),
    }


# What a call costs


def test_a_million_tokens_cost_the_listed_price():
    """A rate in picodollars per million tokens is that many picodollars for a million tokens."""
    rates = Rates(input=3 * USD_PER_MILLION, output=15 * USD_PER_MILLION)

    assert rates.cost(input_tokens=1_000_000, output_tokens=0) == 3 * 10**12
    assert rates.cost(input_tokens=0, output_tokens=1_000_000) == 15 * 10**12


def test_a_fraction_of_a_picodollar_is_charged_as_a_whole_one_once_a_call():
    """Rounding goes up, and once for the sum, not once for each kind of token."""
    rates = Rates(input=1, output=1)

    assert rates.cost(input_tokens=1, output_tokens=0) == 1
    assert rates.cost(input_tokens=1, output_tokens=1) == 1
    assert rates.cost(input_tokens=500_000, output_tokens=500_001) == 2


def test_each_kind_of_token_pays_its_own_rate():
    """Cache reads, writes, writes for an hour, reasoning and the call itself are each charged at their own rate."""
    rates = Rates(
        input=1_000_000,
        output=10_000_000,
        cache_read=100_000,
        cache_write=1_250_000,
        cache_write_1h=2_000_000,
        reasoning=4_000_000,
        per_call=7,
    )

    cost = rates.cost(
        input_tokens=1_000,
        output_tokens=100,
        cache_read_tokens=500,
        cache_write_tokens=300,
        cache_write_1h_tokens=100,
        reasoning_tokens=40,
    )

    assert cost == 7 + 200 * 1 + 500 // 10 + 250 + 100 * 2 + 60 * 10 + 40 * 4


def test_a_rate_that_is_missing_is_the_plain_one():
    """Without rates of their own, cached tokens cost what input costs, reasoning what output costs."""
    rates = Rates(input=1_000_000, output=10_000_000)
    plain = rates.cost(input_tokens=1_000, output_tokens=100)

    assert plain == rates.cost(
        input_tokens=1_000,
        output_tokens=100,
        cache_read_tokens=300,
        cache_write_tokens=200,
        cache_write_1h_tokens=100,
        reasoning_tokens=50,
    )


def test_a_write_for_an_hour_without_a_rate_of_its_own_is_a_write():
    """The rate of cache writes stands in for that of writes for an hour."""
    rates = Rates(input=1_000_000, output=0, cache_write=2_000_000)

    assert rates.cost(input_tokens=10, output_tokens=0, cache_write_tokens=10, cache_write_1h_tokens=10) == 20


def test_a_tier_prices_the_whole_call_anew_above_its_start():
    """At the start of a tier the lower rates still hold; one token more, and every token pays the higher ones."""
    dear = Rates(input=2_000_000, output=20_000_000, cache_read=200_000)
    rates = Rates(input=1_000_000, output=10_000_000, cache_read=100_000, tiers=((1_000, dear),))

    assert rates.cost(input_tokens=1_000, output_tokens=10) == 1_000 + 100
    assert rates.cost(input_tokens=1_001, output_tokens=10) == 2_002 + 200
    assert rates.cost(input_tokens=1_001, output_tokens=10, cache_read_tokens=1_000) == 2 + 200 + 200


@given(rates=arbitrary(), usage=usages())
def test_no_cost_is_negative(rates, usage):
    """Whatever the counts and the rates, a call costs at least its price per call."""
    assert rates.cost(**usage) >= 0


@given(rates=arbitrary(), usage=usages())
def test_a_part_larger_than_its_whole_counts_as_the_whole(rates, usage):
    """Counts that exceed what they are a part of cost what they cost when cut to it."""
    written = min(usage["cache_write_tokens"], usage["input_tokens"])
    cut = usage | {
        "cache_write_tokens": written,
        "cache_read_tokens": min(usage["cache_read_tokens"], usage["input_tokens"] - written),
        "cache_write_1h_tokens": min(usage["cache_write_1h_tokens"], written),
        "reasoning_tokens": min(usage["reasoning_tokens"], usage["output_tokens"]),
    }

    assert rates.cost(**usage) == rates.cost(**cut)


@given(rates=arbitrary(), usage=usages())
def test_cost_is_the_exact_sum_rounded_up(rates, usage):
    """Integers give the same as exact fractions, rounded up at the end."""
    tier = rates
    for start, dearer in rates.tiers:
        if usage["input_tokens"] > start:
            tier = dearer
    written = min(usage["cache_write_tokens"], usage["input_tokens"])
    long = min(usage["cache_write_1h_tokens"], written)
    read = min(usage["cache_read_tokens"], usage["input_tokens"] - written)
    reasoning = min(usage["reasoning_tokens"], usage["output_tokens"])
    write_rate = tier.input if tier.cache_write is None else tier.cache_write
    exact = Fraction(
        (usage["input_tokens"] - written - read) * tier.input
        + read * (tier.input if tier.cache_read is None else tier.cache_read)
        + (written - long) * write_rate
        + long * (write_rate if tier.cache_write_1h is None else tier.cache_write_1h)
        + (usage["output_tokens"] - reasoning) * tier.output
        + reasoning * (tier.output if tier.reasoning is None else tier.reasoning),
        1_000_000,
    )

    assert rates.cost(**usage) == tier.per_call + ceil(exact)


@given(
    rates=rising(),
    usage=usages(),
    field=st.sampled_from(["input_tokens", "output_tokens"]),
    more=TOKENS,
)
def test_more_tokens_never_cost_less(rates, usage, field, more):
    """Where tiers rise, as they do, cost grows with the input and with the output."""
    assert rates.cost(**usage) <= rates.cost(**usage | {field: usage[field] + more})


@given(rates=rising(), usage=usages(), more=TOKENS)
def test_cached_tokens_move_the_cost_one_way(rates, usage, more):
    """More of the same input read from a cache never costs more; more of it written there, or longer, never less."""
    cost = rates.cost(**usage)

    assert rates.cost(**usage | {"cache_read_tokens": usage["cache_read_tokens"] + more}) <= cost
    assert rates.cost(**usage | {"cache_write_tokens": usage["cache_write_tokens"] + more}) >= cost
    assert rates.cost(**usage | {"cache_write_1h_tokens": usage["cache_write_1h_tokens"] + more}) >= cost


# The worst case


@given(rates=arbitrary(), usage=usages(), less_input=TOKENS, less_output=TOKENS)
def test_no_call_within_its_counts_costs_more_than_the_ceiling(rates, usage, less_input, less_output):
    """However its tokens split, and if fewer come than were set aside, a call stays within its worst case."""
    ceiling = rates.ceiling(usage["input_tokens"], usage["output_tokens"])
    smaller = usage | {
        "input_tokens": max(0, usage["input_tokens"] - less_input),
        "output_tokens": max(0, usage["output_tokens"] - less_output),
    }

    for in_force in (rates, *rates.upcoming):
        assert in_force.cost(**usage) <= ceiling
        assert in_force.cost(**smaller) <= ceiling


@given(rates=arbitrary(), input_tokens=TOKENS, output_tokens=TOKENS)
def test_a_ceiling_never_falls_as_the_counts_grow(rates, input_tokens, output_tokens):
    """One token more of either kind never lowers the worst case."""
    ceiling = rates.ceiling(input_tokens, output_tokens)

    assert rates.ceiling(input_tokens + 1, output_tokens) >= ceiling
    assert rates.ceiling(input_tokens, output_tokens + 1) >= ceiling


def test_a_ceiling_without_dearer_rates_is_the_plain_cost():
    """Where nothing is dearer than plain tokens, the worst case is no more than their cost."""
    rates = Rates(input=3_000_000, output=15_000_000, cache_read=300_000, reasoning=1_000_000, per_call=5)

    assert rates.ceiling(1_000, 100) == rates.cost(input_tokens=1_000, output_tokens=100) == 4_505


def test_a_ceiling_takes_the_dearest_way_to_charge_the_input():
    """Cache writes, and those for an hour, are part of the worst case where they are dearer than plain input."""
    assert Rates(input=1_000_000, output=0, cache_write=2_000_000).ceiling(10, 0) == 20
    assert Rates(input=1_000_000, output=0, cache_write=2_000_000, cache_write_1h=3_000_000).ceiling(10, 0) == 30


def test_a_ceiling_takes_the_tier_that_the_input_triggers():
    """The input alone decides which tier's output rate the worst case has."""
    rates = Rates(input=1_000_000, output=2_000_000, tiers=((100, Rates(input=3_000_000, output=4_000_000)),))

    assert rates.ceiling(100, 1_000) == 2_100
    assert rates.ceiling(101, 1_000) == 4_303


def test_rates_about_to_change_raise_the_ceiling_and_not_the_cost():
    """Upcoming rates are part of the worst case, whichever is dearer, and of nothing else."""
    rates = Rates(input=1_000_000, output=5_000_000, upcoming=(Rates(input=2_000_000, output=4_000_000),))

    assert rates.ceiling(10, 10) == 70
    assert rates.cost(input_tokens=10, output_tokens=10) == 60


# What an amount pays for


@given(rates=arbitrary(), input_tokens=TOKENS, output_tokens=TOKENS, room=st.integers(-1, 4 * 10**14))
@example(rates=Rates(input=0, output=0), input_tokens=5, output_tokens=7, room=0)
@example(rates=Rates(input=1, output=1), input_tokens=0, output_tokens=2_000_000, room=1)
def test_affordable_output_fits_and_one_token_more_does_not(rates, input_tokens, output_tokens, room):
    """The output granted has a ceiling within the room, and no larger one up to what was asked has."""
    affordable = rates.affordable_output(input_tokens, output_tokens, room)

    assert -1 <= affordable <= output_tokens
    if affordable >= 0:
        assert rates.ceiling(input_tokens, affordable) <= room
    if affordable < output_tokens:
        assert rates.ceiling(input_tokens, affordable + 1) > room


@given(rates=arbitrary(), input_tokens=TOKENS, output_tokens=TOKENS)
def test_a_ceiling_affords_itself(rates, input_tokens, output_tokens):
    """Room for exactly the worst case grants all of it, and a picodollar less does not, unless output is free."""
    ceiling = rates.ceiling(input_tokens, output_tokens)

    assert rates.affordable_output(input_tokens, output_tokens, ceiling) == output_tokens
    assert rates.affordable_output(input_tokens, output_tokens, ceiling - 1) < output_tokens


# A user's price table


@pytest.mark.parametrize("usd", [2, "2", "2.0", 2.0, Decimal("2.000"), Decimal("0.2E1")], ids=repr)
def test_a_price_may_be_given_as_any_exact_type(usd):
    """Int, str, Decimal and float stand for the same USD per million tokens."""
    assert rates_from_mapping("m", {"input": usd, "output": 0}) == Rates(input=2 * USD_PER_MILLION, output=0)


def test_a_float_price_is_what_it_shows():
    """A float counts by its repr, not by the binary fraction behind it."""
    assert rates_from_mapping("m", {"input": 0.1, "output": 0.3}) == Rates(input=10**11, output=3 * 10**11)


def test_cache_prices_are_optional():
    """Cache prices that are given are taken, and those that are not stay absent."""
    rates = rates_from_mapping("m", {"input": 3, "output": 15, "cache_read": "0.3"})

    assert (rates.cache_read, rates.cache_write, rates.cache_write_1h) == (3 * 10**11, None, None)
    rates = rates_from_mapping("m", {"input": 3, "output": 15, "cache_write": "3.75", "cache_write_1h": 6})
    assert (rates.cache_read, rates.cache_write, rates.cache_write_1h) == (None, 375 * 10**10, 6 * 10**12)


def test_a_price_finer_than_we_count_is_rounded_up():
    """Digits below a picodollar per million tokens raise the rate instead of being lost."""
    rates = rates_from_mapping("m", {"input": "1e-30", "output": "1.0000000000001"})

    assert (rates.input, rates.output) == (1, USD_PER_MILLION + 1)


def test_the_users_decimal_context_does_not_matter():
    """A context of three digits does not shorten a price."""
    with localcontext(prec=3):
        rates = rates_from_mapping("m", {"input": "1234.567891", "output": Decimal("1234.567891")})

    assert rates.input == rates.output == 1_234_567_891_000_000


@pytest.mark.parametrize(
    "value",
    [True, -1, "-0.01", nan, inf, Decimal("NaN"), Decimal("-Infinity"), "free", "", None, [1], 1j, "1e999999"],
    ids=repr,
)
@pytest.mark.parametrize("key", ["input", "output", "cache_read", "cache_write", "cache_write_1h"])
def test_a_value_that_is_no_price_is_refused_by_name(key, value):
    """The error names the model, the key, the value and the unit."""
    with pytest.raises(DefinitionError) as caught:
        rates_from_mapping("gpt-x", {"input": 1, "output": 2} | {key: value})

    message = str(caught.value)
    assert f'prices["gpt-x"].{key}' in message
    assert "USD per million tokens" in message
    assert repr(value) in message


@pytest.mark.parametrize("missing", ["input", "output"])
def test_input_and_output_are_required(missing):
    """A price table that leaves out input or output is refused: an absent price is not a free one."""
    entry = {"input": 1, "output": 2}
    del entry[missing]

    with pytest.raises(DefinitionError, match=rf'prices\["m"\]\.{missing} is missing'):
        rates_from_mapping("m", entry)


def test_an_unknown_key_is_refused_by_name():
    """A misspelt key is an error that names it and the entry."""
    with pytest.raises(DefinitionError, match=r"""prices\["m"\].*'cached_read'.*cache_read"""):
        rates_from_mapping("m", {"input": 1, "output": 2, "cached_read": 1})


@pytest.mark.parametrize("entry", [1, None, "2", [("input", 1), ("output", 2)]], ids=repr)
def test_an_entry_that_is_no_mapping_is_refused(entry):
    """An entry is a mapping, and the error shows one."""
    with pytest.raises(DefinitionError, match=r'prices\["m"\] must be a mapping.*"input"'):
        rates_from_mapping("m", entry)
