"""What may be spent, and what was: the frozen values `Budget` and `Usage`, and the limits compiled from a budget."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Never

from ._money import Money, dollars, exact_usd, picodollars
from ._unknown import refuse_unknown_keys
from .errors import Amount, DefinitionError


@dataclass(frozen=True, slots=True, init=False)
class Budget:
    """Declare limits; None means no limit, and 0 is a real limit.

    Each limit applies to one activation of what declares it, and counts everything spent inside it.

    Example:
        >>> Budget(max_usd="0.05", max_tokens=2_000).max_usd
        Decimal('0.05')

    Args:
        max_tokens: Input and output tokens together.
        max_input_tokens: Input tokens, cache reads and writes included.
        max_output_tokens: Output tokens, reasoning included.
        max_calls: Model calls.
        max_tool_calls: Tool calls.
        max_usd: US dollars as Decimal, int, str or finite float (by its repr); kept as Decimal.
        max_seconds: Wall time from opening, waiting included, in seconds.

    Raises:
        DefinitionError: If a field is of another type, negative, NaN or infinite.
        TypeError: If a field is unknown; the message names the one that was probably meant.
    """

    max_tokens: int | None
    max_input_tokens: int | None
    max_output_tokens: int | None
    max_calls: int | None
    max_tool_calls: int | None
    max_usd: Decimal | None
    max_seconds: float | None

    # Written out since it takes more types than the fields keep.
    def __init__(
        self,
        *,
        max_tokens: int | None = None,
        max_input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        max_calls: int | None = None,
        max_tool_calls: int | None = None,
        max_usd: Money | None = None,
        max_seconds: float | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_unknown_keys("Budget", unknown, BUDGET_FIELDS, TypeError)
        put = object.__setattr__
        put(self, "max_tokens", _count("max_tokens", max_tokens))
        put(self, "max_input_tokens", _count("max_input_tokens", max_input_tokens))
        put(self, "max_output_tokens", _count("max_output_tokens", max_output_tokens))
        put(self, "max_calls", _count("max_calls", max_calls))
        put(self, "max_tool_calls", _count("max_tool_calls", max_tool_calls))
        put(self, "max_usd", None if max_usd is None else exact_usd(max_usd, "budget.max_usd", DefinitionError))
        put(self, "max_seconds", None if max_seconds is None else parse_seconds(max_seconds, "budget.max_seconds"))

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Budget:
        """Build a budget from a mapping of its field names, such as a settings file has.

        Args:
            mapping: Names of fields to their values.

        Returns:
            The budget.

        Raises:
            DefinitionError: If it is no mapping, a key is unknown or a value cannot be right.
        """
        if not isinstance(mapping, Mapping):
            raise DefinitionError(f"budget must be a mapping of limits, not {mapping!r}")
        refuse_unknown_keys("budget", mapping, BUDGET_FIELDS)
        return cls(**mapping)


def _count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DefinitionError(f"budget.{name} must be an int >= 0 or None, not {value!r}")
    return value


def parse_seconds(value: object, path: str) -> float:
    """Read a time in seconds; raise a DefinitionError that names *path* for what is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max:
        return float(value)
    raise DefinitionError(f"{path} must be a finite number of seconds >= 0, not {value!r}")


BUDGET_FIELDS = tuple(field.name for field in fields(Budget))


@dataclass(frozen=True, slots=True)
class Usage:
    """Count what was spent, held, set aside or overspent, depending on where it is used.

    Args:
        input_tokens: All input, cache reads and writes included, whatever the provider's own convention.
        output_tokens: All output, reasoning included.
        cache_read_tokens: Input read from the provider's cache.
        cache_write_tokens: Input written to it.
        reasoning_tokens: Output spent on reasoning.
        cost_usd: US dollars; what is given as int, str or finite float (by its repr) is kept as Decimal.
        calls: Model calls.
        tool_calls: Tool calls.
        unpriced_calls: Calls without a cost, since their model had no price.
        estimated_calls: Calls whose usage was estimated, not reported.

    Raises:
        ValueError: If the cost is negative, not finite or no amount.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    calls: int = 0
    tool_calls: int = 0
    unpriced_calls: int = 0
    estimated_calls: int = 0

    def __post_init__(self) -> None:
        if self.cost_usd.__class__ is not Decimal:
            object.__setattr__(self, "cost_usd", exact_usd(self.cost_usd, "usage.cost_usd"))

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


class Limits:
    """Hold a budget's limits as plain integers, for the comparisons of the hot path.

    USD are picodollars and seconds nanoseconds; None is no limit. `rare` tells whether any limit other than
    tokens and USD is set, so that most scopes compare two numbers only.
    """

    __slots__ = ("budget", "calls", "input", "nanoseconds", "output", "rare", "tokens", "tools", "usd")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.tokens = budget.max_tokens
        self.input = budget.max_input_tokens
        self.output = budget.max_output_tokens
        self.usd = None if budget.max_usd is None else picodollars(budget.max_usd, "budget.max_usd")
        self.calls = budget.max_calls
        self.tools = budget.max_tool_calls
        self.nanoseconds = None if budget.max_seconds is None else nanoseconds(budget.max_seconds)
        self.rare = any(one is not None for one in (self.input, self.output, self.calls, self.tools, self.nanoseconds))

    @classmethod
    def of(cls, budget: Budget | None) -> Limits | None:
        """Compile *budget*, or return None where it limits nothing."""
        if budget is None or all(getattr(budget, name) is None for name in BUDGET_FIELDS):
            return None
        return cls(budget)

    def items(self) -> tuple[tuple[str, int | None], ...]:
        """Return every limit in the order in which an exceeded one is reported."""
        return (
            ("max_tokens", self.tokens),
            ("max_input_tokens", self.input),
            ("max_output_tokens", self.output),
            ("max_usd", self.usd),
            ("max_calls", self.calls),
            ("max_tool_calls", self.tools),
            ("max_seconds", self.nanoseconds),
        )


def parse_name(value: object, path: str) -> str:
    """Read a name: Unicode text that is not blank; raise a DefinitionError that names *path* for anything else."""
    if not isinstance(value, str) or not value.strip():
        raise DefinitionError(f"{path} must be a non-empty name, not {value!r}")
    if not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
        raise DefinitionError(f"{path} must be Unicode text, and half of a surrogate pair is none: {value!r}")
    return value.strip()


def parse_budget(value: object, path: str) -> Budget | None:
    """Read a budget, given as one or as a mapping of its fields."""
    if value is None or isinstance(value, Budget):
        return value
    if isinstance(value, Mapping):
        return Budget.from_dict(value)
    raise DefinitionError(f"{path} must be a Budget, a mapping of its fields or None, not {value!r}")


def nanoseconds(seconds: float) -> int:
    """Convert seconds to whole nanoseconds, however many they are."""
    whole = int(seconds)
    return whole * 1_000_000_000 + round((seconds - whole) * 1e9)


def in_units(limit: str, value: int) -> Amount:
    """Convert an internal amount to the unit that users see: USD as Decimal, seconds as float, else int."""
    if limit == "max_usd":
        return dollars(value)
    return value / 1_000_000_000 if limit == "max_seconds" else value
