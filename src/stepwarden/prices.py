"""What models charge, from the price list that genai-prices carries; nothing is ever fetched.

How its entries become `Rates`:

* A tier prices anew every token of a call whose input, cached or not, is above the tier's start.
* Cache reads and writes, writes for an hour and reasoning have rates of their own where the list has them.
* Prices are the standard ones in force at the moment, not those of batches and service tiers. Where one changes
  with the date or the hour, the worst case also covers every price of the next 24 hours.
* Audio, image and video *input* is charged as text, because a budget does not tell it apart. A model whose
  audio, image or video *output* is dearer than its text has no rates, and neither has one that charges by the
  second, page, character, message or search. What a reply says of its audio and images is priced by `other_cost`.
* What a provider charges on top for its own searches and tools is not included: no request bounds it.
* An entry without any price has no rates either, except for OpenRouter's ``:free`` models.
"""

from __future__ import annotations

import gc
import math
import re
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from stepwarden.core._money import picodollars
from stepwarden.core._rates import Rates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genai_prices.types import ModelInfo, TieredPrices

_DAY = timedelta(days=1)

# Not a "." or "/": Bedrock's "anthropic.claude-...-v1:0" and OpenRouter's "openai/...:free" name models, not providers.
_PREFIXED = re.compile(r"([\w-]+):(.+)", re.DOTALL)

# The list's own names of what is charged for. What is none of these cannot be expressed, as far as we know.
_EXPRESSED = frozenset(
    {
        "input_mtok",
        "output_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "cache_write_1h_mtok",
        "output_reasoning_mtok",
        "requests_kcount",
    }
)
_ON_TOP = frozenset(
    {
        "web_searches_kcount",
        "social_searches_kcount",
        "storage_searches_kcount",
        "code_executions_kcount",
    }
)
# The list tells a provider by how its models are named, which is not how all of them are: OpenAI's embeddings, and
# Bedrock's "us.anthropic.claude-...", are only found where it is asked for them. Tried for a name that nobody claims.
_SOLD_BY = ("openai", "aws")
_OTHER_INPUT = re.compile(r"(input|cache)_(audio|image|video)(_read|_write)?_mtok")
_OTHER_OUTPUT = re.compile(r"output_(audio|image|video|citation)_mtok")


def lookup(model: str, *, at: float | None = None) -> Rates | None:
    """Look up what a model charges.

    Ask again for each call instead of keeping the answer: prices change with the date, some with the hour. What was
    found is remembered; only the first look-up of a process takes long (it imports genai-prices, about 0.2 s of CPU).

    Args:
        model: The model's name, with or without a provider before a colon: ``"gpt-5-mini"``,
            ``"openai:gpt-5-mini"``.
        at: Seconds since the epoch, the moment to look at; None: now.

    Returns:
        The rates, or None where the list has no such model or no price that `Rates` can express; or where a signal
        handler asks in the middle of that first look-up.
    """
    if threading.get_ident() in _importing:
        return None
    entry = _entry(model)
    return None if entry is None else entry.rates(time.time() if at is None else at)


def other_cost(
    model: str,
    other: Mapping[str, int],
    *,
    input_tokens: int,
    output_tokens: int,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    reasoning_tokens: int = 0,
) -> tuple[int, bool] | None:
    """Price a call that was made with more than text.

    Args:
        model: The model's name, as for `lookup`.
        other: Tokens of *input_tokens* and *output_tokens* that were no text, by the words that the list's names for
            their prices begin with: ``{"input_audio": 7, "output_audio": 5, "input_image": 3}``.
        input_tokens: All input.
        output_tokens: All output.
        cache_read_tokens: The part of the input that was read from a cache, of the text first.
        cache_write_tokens: The part of the input that was written to a cache, of the text first.
        reasoning_tokens: The part of the output that was reasoning.

    Returns:
        Picodollars, and whether each kind has a price of its own in the list; one without is charged as text. None
        where the list has no price for the model's text.
    """
    entry = None if threading.get_ident() in _importing else _entry(model)
    usd = {} if entry is None else entry.usd(input_tokens)
    text = _untiered({key: price for key, price in usd.items() if key in _EXPRESSED})
    if text is None:
        return None
    text_tokens = {"input": input_tokens, "output": output_tokens}
    cost, is_whole = 0, True
    for kind, counted in other.items():
        side = kind.partition("_")[0]
        tokens = min(counted, text_tokens[side])
        price = usd.get(f"{kind}_mtok")
        if tokens and price is None:
            is_whole = False
        elif tokens and price is not None:
            text_tokens[side] -= tokens
            cost += tokens * picodollars(price, kind)
    cost = -(-cost // 1_000_000) + text.cost(
        input_tokens=text_tokens["input"],
        output_tokens=text_tokens["output"],
        cache_read_tokens=cache_read_tokens,
        cache_write_tokens=cache_write_tokens,
        reasoning_tokens=reasoning_tokens,
    )
    return cost, is_whole


class _Entry:
    """One model of the list, and its rates until they next change."""

    __slots__ = ("_info", "_period")

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._period: tuple[float, float, Rates | None] = (math.inf, -math.inf, None)

    def usd(self, input_tokens: int) -> dict[str, Decimal]:
        """Give the prices in force now of a call with so much input, by the list's own keys."""
        prices = vars(self._info.get_prices(datetime.now(UTC)))
        return {key: _price_of(price, input_tokens) for key, price in prices.items() if price is not None}

    def rates(self, at: float) -> Rates | None:
        # One attribute, read and replaced whole, needs no lock: two threads at worst work out the same period.
        since, until, rates = self._period
        if not since <= at < until:
            until, rates = _period(self._info, datetime.fromtimestamp(at, UTC))
            self._period = (at, until, rates)
        return rates


_importing: set[int] = set()
"""The threads that are in the middle of importing the list, where it cannot be imported once more."""


@cache
def _import_list() -> None:
    """Import the list, without finalisers in between: one that asks for a price would find only a part of it."""
    thread, collects = threading.get_ident(), gc.isenabled()
    _importing.add(thread)
    gc.disable()
    try:
        import genai_prices.data
        import genai_prices.data_snapshot  # noqa: F401 - both are what the look-up takes from
    finally:
        if collects:
            gc.enable()
        _importing.discard(thread)


@lru_cache(maxsize=1024)
def _entry(model: str) -> _Entry | None:
    _import_list()
    from genai_prices.data import providers
    from genai_prices.data_snapshot import DataSnapshot, find_provider_by_id

    name, provider_id = model, None
    # A prefix that names no provider is a part of the name.
    if (prefixed := _PREFIXED.fullmatch(model)) and find_provider_by_id(providers, prefixed[1]):
        provider_id, name = prefixed.groups()
    elif model.startswith("ft:"):
        # OpenAI's fine-tuned models, which the list does not find without being told whose they are.
        provider_id = "openai"
    # A snapshot of our own, dropped afterwards: it remembers every name it was asked for, and that without bound. It
    # also keeps out prices that the application may be updating over the network.
    snapshot = DataSnapshot(providers=providers, from_auto_update=False)
    for asked in (provider_id,) if provider_id else (None, *_SOLD_BY):
        try:
            _, info = snapshot.find_provider_model(name, None, asked, None)
        except LookupError:
            continue
        return _Entry(info)
    return None


def _period(info: ModelInfo, now: datetime) -> tuple[float, Rates | None]:
    """Give the rates at a moment, and until when (seconds since the epoch) the same answer holds."""
    changes = _changes(info, now)
    soon = [change for change in changes if change <= now + _DAY]
    # A change further off becomes one that the worst case must cover a day before it happens.
    later = [change - _DAY for change in changes if change > now + _DAY]
    until = min((change.timestamp() for change in soon + later), default=math.inf)
    rates = _rates(info, now)
    if rates is not None:
        candidates = dict.fromkeys(_rates(info, change) for change in soon)
        rates = replace(rates, upcoming=tuple(each for each in candidates if each not in (None, rates)))
    return until, rates


def _changes(info: ModelInfo, now: datetime) -> list[datetime]:
    """Give the moments after *now* at which a price of the model may change; of a daily one, the next."""
    from genai_prices.types import ModelPrice, StartDateConstraint, TimeOfDateConstraint

    if isinstance(info.prices, ModelPrice):
        return []
    changes = []
    for constraint in [price.constraint for price in info.prices]:
        if isinstance(constraint, StartDateConstraint):
            start = constraint.start_date
            changes.append(datetime(start.year, start.month, start.day, tzinfo=UTC))
        elif isinstance(constraint, TimeOfDateConstraint):
            for clock in (constraint.start_time, constraint.end_time):
                today = datetime.combine(now.date(), clock, tzinfo=clock.tzinfo or UTC)
                changes.append(now + ((today - now) % _DAY or _DAY))
    return [change for change in changes if change > now]


def _rates(info: ModelInfo, now: datetime) -> Rates | None:
    """Express the prices in force at a moment; None where that cannot be done."""
    from genai_prices.types import TieredPrices

    prices = {key: price for key, price in vars(info.get_prices(now)).items() if price is not None}
    if not prices:
        return Rates(input=0, output=0) if info.id.endswith(":free") else None
    tiered = [price for price in prices.values() if isinstance(price, TieredPrices)]
    starts = sorted({tier.start for price in tiered for tier in price.tiers})
    base = _untiered({key: _price_of(price, 0) for key, price in prices.items()})
    tiers = []
    for start in starts:
        rates = _untiered({key: _price_of(price, start + 1) for key, price in prices.items()})
        if rates is None:
            return None
        tiers.append((start, rates))
    return None if base is None else replace(base, tiers=tuple(tiers))


def _price_of(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    """Pick the tier that a call with so much input is in: the last one that it is above."""
    if isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)


def _untiered(usd: dict[str, Decimal]) -> Rates | None:
    """Translate one set of prices, by the list's own keys."""
    if "input_mtok" not in usd:
        return None
    text_output = usd.get("output_mtok", Decimal(0))
    for key, price in usd.items():
        is_counted_as_text = _OTHER_INPUT.fullmatch(key) or (_OTHER_OUTPUT.fullmatch(key) and price <= text_output)
        if not (key in _EXPRESSED or key in _ON_TOP or is_counted_as_text):
            return None
    rates = {key: picodollars(price, key) for key, price in usd.items() if key in _EXPRESSED}
    return Rates(
        input=rates["input_mtok"],
        output=rates.get("output_mtok", 0),
        cache_read=rates.get("cache_read_mtok"),
        cache_write=rates.get("cache_write_mtok"),
        cache_write_1h=rates.get("cache_write_1h_mtok"),
        reasoning=rates.get("output_reasoning_mtok"),
        # The list prices a thousand calls; rounded up.
        per_call=-(-rates.get("requests_kcount", 0) // 1_000),
    )
