"""Prices: what genai-prices lists, as rates; the list that is installed is the reference."""

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext

import pytest
from genai_prices import Usage
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from stepwarden import prices
from stepwarden.core._rates import Rates

LIST = DataSnapshot(providers=providers, from_auto_update=False)
LISTED = [(provider, model) for provider in providers for model in provider.models]
CHANGING = [(provider, model) for provider, model in LISTED if isinstance(model.prices, list)]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

STARTS = {
    tier.start
    for _, model in LISTED
    for price in (vars(model.prices).values() if isinstance(model.prices, ModelPrice) else [])
    if isinstance(price, TieredPrices)
    for tier in price.tiers
}
USAGES = [
    {"input_tokens": 0, "output_tokens": 0},
    {"input_tokens": 1, "output_tokens": 1},
    {"input_tokens": 99_999, "output_tokens": 10, "cache_read_tokens": 7, "cache_write_tokens": 60_001},
    {
        "input_tokens": 31_234,
        "output_tokens": 4_321,
        "cache_write_tokens": 20_000,
        "cache_write_1h_tokens": 5_000,
        "reasoning_tokens": 1_234,
    },
]
AROUND_TIERS = [
    {"input_tokens": start + more, "output_tokens": 333, "cache_read_tokens": 25_001}
    for start in sorted(STARTS)
    for more in (0, 1)
]


def usages_for(rates: Rates) -> list[dict[str, int]]:
    """Choose what to price with *rates*: the starts of tiers only where it has tiers, since the list is long."""
    return USAGES + AROUND_TIERS if rates.tiers else USAGES


def asked(provider: Provider, model: ModelInfo, usage: dict[str, int], at: datetime) -> Decimal:
    """Ask the list itself what a usage costs, in picodollars."""
    counts = dict(usage)
    counts["output_reasoning_tokens"] = counts.pop("reasoning_tokens", 0)
    calculation = model.calc_price(Usage(**counts), provider, genai_request_timestamp=at)
    return calculation.total_price.scaleb(12)


def entry(prices_now: ModelPrice | list[ConditionalPrice], name: str = "m") -> prices._Entry:
    """Make an entry such as the list might have."""
    return prices._Entry(ModelInfo(id=name, match=ClauseEquals(name), prices=prices_now))


def price(usd: int) -> ModelPrice:
    """Make a price of so many USD per million tokens, whether input or output."""
    return ModelPrice(input_mtok=Decimal(usd), output_mtok=Decimal(usd))


# The whole list


@pytest.mark.parametrize(
    ("models", "at"),
    [(LISTED, NOON), (CHANGING, NOON - timedelta(hours=10)), (CHANGING, NOON + timedelta(days=400))],
    ids=["all", "at night", "in a year"],
)
def test_every_model_costs_what_the_list_says(models, at):
    """Over the whole list, our cost is the list's own, rounded up to a picodollar."""
    priced = 0
    for provider, model in models:
        rates = prices._Entry(model).rates(at.timestamp())
        if rates is None:
            continue
        priced += 1
        for usage in usages_for(rates):
            exact, cost = asked(provider, model, usage, at), rates.cost(**usage)
            # Some prices have digits below 1e-12 USD per million tokens, which were rounded up before.
            assert exact <= cost < exact + 2, (provider.id, model.id, usage)

    assert priced > len(models) * 0.95


def test_no_model_costs_more_than_its_ceiling_in_the_next_day():
    """Over the whole list, the worst case covers what the list asks now and at any hour of the next 24."""
    for provider, model in LISTED:
        rates = prices._Entry(model).rates(NOON.timestamp())
        if rates is None:
            continue
        hours = range(0, 25, 3) if isinstance(model.prices, list) else [0]
        for usage in usages_for(rates):
            ceiling = rates.ceiling(usage["input_tokens"], usage["output_tokens"])
            for hour in hours:
                at = NOON + timedelta(hours=hour)
                assert asked(provider, model, usage, at) <= ceiling, (provider.id, model.id, usage, at)


def test_only_what_is_not_charged_by_text_tokens_has_no_rates():
    """Models are left out only where the list has no price, or one for something other than text tokens."""
    text = {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok"}
    for provider, model in LISTED:
        if prices._Entry(model).rates(NOON.timestamp()) is None:
            keys = {key for key, price in vars(model.get_prices(NOON)).items() if price is not None}
            assert not keys or keys - text, (provider.id, model.id)


# Names


def test_names_are_found_as_the_list_finds_them():
    """Each name of the list, behind its provider, gives the rates of the model that the list finds under it."""
    for provider, model in LISTED:
        try:
            _, found = LIST.find_provider_model(model.id, None, provider.id, None)
        except LookupError:
            expected = None
        else:
            expected = prices._Entry(found).rates(NOON.timestamp())
        assert prices.lookup(f"{provider.id}:{model.id}", at=NOON.timestamp()) == expected


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("openai:gpt-5-mini", "gpt-5-mini"),
        ("OpenAI:GPT-5-mini", "gpt-5-mini"),
        ("openai-responses:gpt-5", "gpt-5"),
        ("azure:gpt-5", "gpt-5"),
        ("anthropic:claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("google-gla:gemini-2.5-pro", "gemini-2.5-pro"),
        ("openai:ft:gpt-4o-2024-08-06:org::id", "ft:gpt-4o-2024-08-06:org::id"),
        ("openai:text-embedding-3-small", "text-embedding-3-small"),
        ("bedrock:us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ],
)
def test_a_provider_before_a_colon_is_optional(name, same_as):
    """A model is found with its provider in front and without."""
    rates = prices.lookup(name)

    assert rates is not None
    assert rates == prices.lookup(same_as)


def test_a_fine_tuned_model_has_its_own_price():
    """A fine-tuned model does not cost what the model that it is made from costs."""
    tuned, plain = prices.lookup("ft:gpt-4o-2024-08-06:org::id"), prices.lookup("gpt-4o-2024-08-06")

    assert tuned.input > plain.input


@pytest.mark.parametrize(
    "name",
    ["bedrock:us.anthropic.claude-sonnet-4-5-20250929-v1:0", "openrouter:deepseek/deepseek-chat:free"],
)
def test_a_colon_may_be_part_of_the_model_name(name):
    """Only what stands before the first colon is a provider."""
    assert prices.lookup(name) is not None


@pytest.mark.parametrize(
    "name", ["", ":", "openai:", ":gpt-5", "no-such-model", "openai:claude-sonnet-4-5", "ft:gpt-4o:org"]
)
def test_an_unknown_model_has_no_rates(name):
    """A name that the list does not have, or not under that provider, is None and no error."""
    assert prices.lookup(name) is None


# What the list can hold


def test_reasoning_and_price_per_call_are_taken_over():
    """A rate for reasoning and a price for each call are part of the rates."""
    listing = ModelPrice(
        input_mtok=Decimal(2),
        output_mtok=Decimal(8),
        output_reasoning_mtok=Decimal(3),
        requests_kcount=Decimal(14),
    )

    assert entry(listing).rates(0) == Rates(
        input=2 * 10**12, output=8 * 10**12, reasoning=3 * 10**12, per_call=14 * 10**9
    )


def test_the_users_decimal_context_does_not_matter():
    """A context of two digits does not shorten a price of the list."""
    with localcontext(prec=2):
        rates = entry(ModelPrice(input_mtok=Decimal("0.0028"), output_mtok=Decimal("1.2345"))).rates(0)

    assert rates == Rates(input=2_800_000_000, output=1_234_500_000_000)


def test_tiers_of_several_prices_are_merged():
    """A price that changes at one start and one that changes at another give a tier at each."""
    listing = ModelPrice(
        input_mtok=TieredPrices(base=Decimal(1), tiers=[Tier(start=100, price=Decimal(2))]),
        output_mtok=TieredPrices(base=Decimal(3), tiers=[Tier(start=200, price=Decimal(4))]),
    )

    rates = entry(listing).rates(0)

    assert [(start, tier.input, tier.output) for start, tier in rates.tiers] == [
        (100, 2 * 10**12, 3 * 10**12),
        (200, 2 * 10**12, 4 * 10**12),
    ]


@pytest.mark.parametrize(
    "extra",
    [
        {"output_image_mtok": Decimal(30)},
        {"output_audio_mtok": Decimal(30)},
        {"audio_hours": Decimal(1)},
        {"input_document_kpages": Decimal(1)},
        {"rerank_searches_kcount": Decimal(1)},
        {"a_price_of_tomorrow": Decimal(1)},
        {"output_image_mtok": TieredPrices(base=Decimal(1), tiers=[Tier(start=100, price=Decimal(30))])},
    ],
)
def test_a_price_that_counts_of_tokens_cannot_express_leaves_the_model_without_rates(extra):
    """A model that charges for more than text tokens is unpriced rather than priced too low."""
    listing = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2), **extra)

    assert entry(listing).rates(0) is None


@pytest.mark.parametrize(
    "extra", ["output_citation_mtok", "input_audio_mtok", "cache_image_read_mtok", "web_searches_kcount"]
)
def test_what_is_charged_as_text_or_on_top_does_not_hinder(extra):
    """Cheaper output, other input and server-side tools leave the text rates as they are."""
    listing = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2), **{extra: Decimal(2)})

    assert entry(listing).rates(0) == Rates(input=10**12, output=2 * 10**12)


def test_an_entry_without_prices_is_free_only_if_it_says_so():
    """No price is not a price of nothing, except where the name itself ends in free."""
    assert entry(ModelPrice()).rates(0) is None
    assert entry(ModelPrice(), "vendor/model:free").rates(0) == Rates(input=0, output=0)


# Time


def test_a_price_that_starts_on_a_date_is_in_the_ceiling_a_day_ahead_and_then_in_force():
    """The answer changes by itself: first the worst case, a day before the date, then the cost."""
    start = NOON.replace(hour=0) + timedelta(days=10)
    model = entry(
        [
            ConditionalPrice(prices=price(1)),
            ConditionalPrice(StartDateConstraint(start.date()), prices=price(2)),
        ]
    )

    def at(moment: datetime) -> tuple[int, int]:
        rates = model.rates(moment.timestamp())
        return rates.cost(input_tokens=1, output_tokens=0), rates.ceiling(1, 0)

    second = timedelta(seconds=1)
    assert at(NOON) == (10**6, 10**6)
    assert at(start - timedelta(days=1) - second) == (10**6, 10**6)
    assert at(start - timedelta(days=1)) == (10**6, 2 * 10**6)
    assert at(start - second) == (10**6, 2 * 10**6)
    assert at(start) == (2 * 10**6, 2 * 10**6)
    assert at(NOON) == (10**6, 10**6)


@pytest.mark.parametrize(("first", "last"), [(1, 4), (22, 3)])
def test_a_price_by_the_hour_is_in_force_at_its_hours_and_in_the_ceiling_always(first, last):
    """Cost follows the clock, also over midnight; the worst case is that of the dearest hour."""
    midnight = NOON.replace(hour=0)
    hours = TimeOfDateConstraint(midnight.replace(hour=first).timetz(), midnight.replace(hour=last).time())
    model = entry([ConditionalPrice(prices=price(1)), ConditionalPrice(hours, prices=price(2))])

    for minute in range(0, 2 * 24 * 60, 30):
        moment = midnight + timedelta(minutes=minute)
        rates = model.rates(moment.timestamp())
        is_peak = first <= moment.hour < last if first < last else moment.hour >= first or moment.hour < last
        assert rates.cost(input_tokens=1, output_tokens=0) == (2 if is_peak else 1) * 10**6
        assert rates.ceiling(1, 0) == 2 * 10**6


# Keeping what was found


def test_rates_are_worked_out_once_until_they_change():
    """A second look-up gives the very same object."""
    assert prices.lookup("gpt-5-mini") is prices.lookup("gpt-5-mini")


def test_what_is_remembered_is_bounded():
    """Names that nobody knows do not fill the memory, here or in the library."""
    for number in range(1_500):
        prices.lookup(f"no-such-model-{number}")

    remembered = prices._entry.cache_info()
    assert remembered.currsize == remembered.maxsize <= 1_500


def test_threads_that_look_up_at_once_get_the_same():
    """Many threads asking for many models all get the right rates."""
    names = [f"{provider.id}:{model.id}" for provider, model in LISTED if provider.id == "deepseek"]
    expected = [prices.lookup(name, at=NOON.timestamp()) for name in names]
    prices._entry.cache_clear()
    answers: list[list[Rates | None]] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        answers.append([prices.lookup(name, at=NOON.timestamp()) for name in names])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [expected] * 8


def test_the_list_is_loaded_by_the_first_lookup_and_without_the_network():
    """Importing the module loads no price list; looking up opens no connection."""
    program = """
import sys
from stepwarden import prices

assert "genai_prices" not in sys.modules
sys.addaudithook(lambda event, _: sys.exit(event) if event.startswith("socket.") else None)
assert prices.lookup("gpt-5") is not None
assert "genai_prices" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
