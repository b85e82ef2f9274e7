"""What one model charges, as integers: the cost of a call, its worst case, and the output that a sum pays for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._money import picodollars
from ._unknown import refuse_unknown_keys
from .errors import DefinitionError

# A rate is held per million tokens, so that a price such as $0.0028 per million stays a whole number.
_TOKENS = 1_000_000

_PRICED = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
"""What a user's price table may have a price for."""

_Worst = tuple[int, int, int]
"""The dearest that may apply: picodollars per call, rate of input, rate of output."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Hold what one model charges.

    Every rate is in picodollars per million tokens, at least 0: ``picodollars(usd_per_million)``, in other words.

    Args:
        input: Rate of the input that no other rate covers.
        output: Rate of output.
        cache_read: Rate of input read from a cache; None: as *input*.
        cache_write: Rate of input written to a cache; None: as *input*.
        cache_write_1h: Rate of input written to a cache for an hour; None: as *cache_write*.
        reasoning: Rate of the reasoning part of the output; None: as *output*.
        per_call: Picodollars for each call, however many tokens it has.
        tiers: Pairs of a number of tokens and untiered rates, rising. A call with *more* input than that pays those
            rates for all of its tokens: providers price the whole call anew, not only the part above.
        upcoming: Rates that may have replaced these when a call made now is billed; only the worst case minds them.
    """

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    per_call: int = 0
    tiers: tuple[tuple[int, Rates], ...] = ()
    upcoming: tuple[Rates, ...] = ()

    # Worked out once, since every reservation multiplies with them. An extra is what such a token costs above the
    # plain rate, or below it where negative.
    _extra_read: int = field(init=False, repr=False, compare=False)
    _extra_write: int = field(init=False, repr=False, compare=False)
    _extra_write_1h: int = field(init=False, repr=False, compare=False)
    _extra_reasoning: int = field(init=False, repr=False, compare=False)
    _worst: _Worst = field(init=False, repr=False, compare=False)
    _worst_above: tuple[tuple[int, _Worst], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        write = self.input if self.cache_write is None else self.cache_write
        write_1h = write if self.cache_write_1h is None else self.cache_write_1h
        put = object.__setattr__
        put(self, "_extra_read", 0 if self.cache_read is None else self.cache_read - self.input)
        put(self, "_extra_write", write - self.input)
        put(self, "_extra_write_1h", write_1h - self.input)
        put(self, "_extra_reasoning", 0 if self.reasoning is None else self.reasoning - self.output)
        (_, worst), *above = self._worst_cases()
        put(self, "_worst", worst)
        put(self, "_worst_above", tuple(reversed(above)))

    def _worst_cases(self) -> list[tuple[int, _Worst]]:
        """Give, rising, the numbers of input tokens above which the worst case changes, and what it is there."""
        candidates = [(above, rates) for each in (self, *self.upcoming) for above, rates in ((0, each), *each.tiers)]
        candidates.sort(key=lambda candidate: candidate[0])
        cases: dict[int, _Worst] = {}
        per_call = input_rate = output_rate = 0
        for above, rates in candidates:
            # The dearest so far, not that of this tier: a worst case that fell as the input grew would set aside too
            # little for a call that turns out smaller than estimated.
            dearest_extra = max(0, rates._extra_read, rates._extra_write, rates._extra_write_1h)
            per_call = max(per_call, rates.per_call)
            input_rate = max(input_rate, rates.input + dearest_extra)
            output_rate = max(output_rate, rates.output + max(0, rates._extra_reasoning))
            cases[above] = (per_call, input_rate, output_rate)
        return list(cases.items())

    def cost(
        self,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
        reasoning_tokens: int = 0,
    ) -> int:
        """Price a call that was made.

        A part larger than its whole counts as the whole. Where cache writes and reads are so together, the reads
        give way, as a rule the cheaper of the two.

        Args:
            input_tokens: All input, cache reads and writes included, at least 0.
            output_tokens: All output, reasoning included, at least 0.
            cache_read_tokens: The part of *input_tokens* that was read from a cache.
            cache_write_tokens: The part of *input_tokens* that was written to a cache.
            cache_write_1h_tokens: The part of *cache_write_tokens* that is kept there for an hour.
            reasoning_tokens: The part of *output_tokens* that was reasoning.

        Returns:
            Picodollars, rounded up once.
        """
        rates = self._tier_of(input_tokens) if self.tiers else self
        price = input_tokens * rates.input + output_tokens * rates.output
        uncached = input_tokens
        if cache_write_tokens > 0:
            written = min(cache_write_tokens, uncached)
            long = min(max(cache_write_1h_tokens, 0), written)
            price += (written - long) * rates._extra_write + long * rates._extra_write_1h
            uncached -= written
        if cache_read_tokens > 0:
            price += min(cache_read_tokens, uncached) * rates._extra_read
        if reasoning_tokens > 0:
            price += min(reasoning_tokens, output_tokens) * rates._extra_reasoning
        return rates.per_call - (-price // _TOKENS)

    def ceiling(self, input_tokens: int, output_tokens: int) -> int:
        """Price the worst case of a call that is yet to be made.

        No call with at most this much input and output costs more: however much of it is written to a cache, for
        however long, or is reasoning, and whichever of the *upcoming* rates it is billed at.

        Args:
            input_tokens: All input, at least 0.
            output_tokens: All output, at least 0.

        Returns:
            Picodollars, rounded up once.
        """
        per_call, input_rate, output_rate = self._worst_at(input_tokens) if self._worst_above else self._worst
        return per_call - (-(input_tokens * input_rate + output_tokens * output_rate) // _TOKENS)

    def affordable_output(self, input_tokens: int, output_tokens: int, room: int) -> int:
        """Find how much output an amount pays for in the worst case.

        Args:
            input_tokens: All input, at least 0.
            output_tokens: The most output that is wanted, at least 0.
            room: Picodollars.

        Returns:
            The largest number of tokens, at most *output_tokens*, with a `ceiling` within *room*; -1 where that of
            no output at all is not.
        """
        per_call, input_rate, output_rate = self._worst_at(input_tokens) if self._worst_above else self._worst
        # Rounded up, a price is within a whole amount exactly when it is before rounding.
        left = (room - per_call) * _TOKENS - input_tokens * input_rate
        if left < 0:
            return -1
        if output_tokens * output_rate <= left:
            return output_tokens
        return left // output_rate

    def _tier_of(self, input_tokens: int) -> Rates:
        for above, rates in reversed(self.tiers):
            if input_tokens > above:
                return rates
        return self

    def _worst_at(self, input_tokens: int) -> _Worst:
        for above, worst in self._worst_above:
            if input_tokens > above:
                return worst
        return self._worst


def rates_from_mapping(model: str, mapping: Mapping[str, Any]) -> Rates:
    """Read one entry of a user's price table.

    Args:
        model: The model's name, for the error message.
        mapping: USD per million tokens: ``"input"`` and ``"output"``, and ``"cache_read"``, ``"cache_write"`` and
            ``"cache_write_1h"``, to be kept for an hour, where they have prices of their own; each as Decimal, int,
            str or finite float (by its repr).

    Returns:
        The rates, rounded up to a whole picodollar per million tokens.

    Raises:
        DefinitionError: If the entry is no mapping, a key is missing or unknown, or a value is no price.
    """
    entry = f'prices["{model}"]'
    if not isinstance(mapping, Mapping):
        raise DefinitionError(
            f'{entry} must be a mapping of USD per million tokens, such as {{"input": "0.25", "output": 2}}, '
            f"not {mapping!r}"
        )
    refuse_unknown_keys(entry, mapping, _PRICED)
    for key in ("input", "output"):
        if key not in mapping:
            raise DefinitionError(f"{entry}.{key} is missing; give USD per million tokens, 0 where it is free")
    rates = {
        key: picodollars(usd, f"{entry}.{key} (USD per million tokens)", DefinitionError)
        for key, usd in mapping.items()
    }
    read, write, write_1h = (rates.get(key) for key in _PRICED[2:])
    return Rates(rates["input"], rates["output"], read, write, write_1h)
