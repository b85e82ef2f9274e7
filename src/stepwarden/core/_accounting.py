"""What recording, settling and reserving share: counts, prices, and whose numbers late usage becomes."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, TypedDict

from ._amount import CALL, COST, MOST_BITS
from ._meter import meter_of
from ._tally import Extra
from .errors import StepwardenError, UnpricedModelError

if TYPE_CHECKING:
    from ._rates import Rates
    from ._scope import Scope


def count(value: object, name: str) -> int:
    """Read a number of tokens or calls, where a negative one counts as 0; arguments and errors as in `whole`."""
    return max(0, whole(value, name))


def whole(value: object, name: str) -> int:
    """Read a whole number.

    Args:
        value: An int, or what is one by ``__index__``; no bool.
        name: The name that an error message uses for it.

    Raises:
        TypeError: If it is anything else.
        ValueError: If it is larger than any call has.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {value!r}")
    number = operator.index(value)
    if number >> MOST_BITS > 0:
        raise ValueError(f"{name} must be below 2**{MOST_BITS}, not {number!r}")
    return number


def at_least_0(value: object, name: str) -> int:
    """Read a number that must not be negative: arguments and errors as in `whole`, and a ValueError for that."""
    number = whole(value, name)
    if number < 0:
        raise ValueError(f"{name} must be >= 0, not {value!r}")
    return number


def read_model(value: object) -> str:
    """Read a model's name that is no plain `str`: a StrEnum is one, too; raise a TypeError for what is no string."""
    if not isinstance(value, str):
        raise TypeError(f"model must be the name of a model or None, not {value!r}")
    return str(value)


def check_timeout(timeout: object) -> None:
    """Raise a TypeError or ValueError for what is no number of seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if math.isnan(timeout) or timeout < 0:
        raise ValueError(f"timeout must be a number of seconds >= 0, not {timeout!r}")


def actual_cost(
    rates: Rates | None,
    input_tokens: int,
    output_tokens: int,
    cache_read: int = 0,
    cache_write: int = 0,
    reasoning: int = 0,
) -> int | None:
    """Price a call that was made, in picodollars; None where its model has no price and it used any tokens."""
    if rates is None:
        return None if input_tokens or output_tokens else 0
    return rates.cost(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        reasoning_tokens=reasoning,
    )


class Details(TypedDict, total=False):
    """Say of a call what most calls do not have."""

    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    estimated: bool
    unpriced: bool


def measure(
    scope: Scope,
    model: str | None,
    priced: int | None,
    rates: Rates | None,
    input_tokens: int,
    output_tokens: int,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    reasoning_tokens: int = 0,
    *,
    estimated: bool = False,
    unpriced: bool = False,
) -> tuple[int, Extra | None, StepwardenError | None]:
    """Return a call with its cost, as an amount, what most calls do not have, and the error where it has no price.

    Args:
        scope: Whose call it was.
        model: The model that was called, or None.
        priced: The call with its cost, as an amount, where it is known without a price.
        rates: What its model charges, or None.
        input_tokens: All input.
        output_tokens: All output.
        cache_read_tokens: The part of the input that was read from a cache.
        cache_write_tokens: The part of the input that was written to a cache.
        reasoning_tokens: The part of the output that was reasoning.
        estimated: Whether the numbers were estimated.
        unpriced: Whether a part of it has no price, so that the cost is too low.

    Raises:
        TypeError: If a count is no int.
    """
    read = count(cache_read_tokens, "cache_read_tokens")
    write = count(cache_write_tokens, "cache_write_tokens")
    reasoned = count(reasoning_tokens, "reasoning_tokens")
    if priced is None:
        cost = actual_cost(rates, input_tokens, output_tokens, read, write, reasoned)
        priced = None if cost is None else CALL + (cost << COST)
    if priced is not None and not (read or write or reasoned or estimated or unpriced):
        return priced, None, None
    error = no_price(scope, model) if priced is None and has_usd_limit(scope) else None
    extra = Extra(read, write, reasoned, int(priced is None or unpriced), int(bool(estimated)))
    return priced or CALL, extra, error


def late_owner(scope: Scope, amount: int) -> Scope:
    """Find whose `own` an amount is that outlived its scope, and mark it there as late."""
    owner = scope.nearest_open_around()
    meter_of(scope).share()
    owner.make_detail().late += amount
    return owner


def has_usd_limit(scope: Scope | None) -> bool:
    """Tell whether any scope on a chain has a USD limit."""
    while scope is not None:
        if scope.limits is not None and scope.limits.usd is not None:
            return True
        scope = scope.parent
    return False


def no_price(scope: Scope, model: str | None) -> UnpricedModelError:
    """Make the error for a call that a USD limit cannot bound."""
    what = f"model {model!r} has no price" if model else "no model is named, so the call has no price"
    prices = 'prices={"model": {"input": ..., "output": ...}} (USD per million tokens) to the Run or to configure()'
    cure = f"give cost_usd, or {prices}" if model else "name the model, or give cost_usd"
    message = f"{what}, and a USD limit is in force around {scope.kind} `{scope.name}`; {cure}"
    return UnpricedModelError(message, model=model)
