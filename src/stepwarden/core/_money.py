"""Money: exact decimal dollars outside, integer picodollars (1e-12 USD) inside."""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal, InvalidOperation

Money = Decimal | int | str | float
"""What every `cost_usd=` and `max_usd=` takes: USD as Decimal, int, str or finite float (by its repr)."""

# A context of our own: the caller's precision, rounding and traps must not change what is charged.
_CONTEXT = Context(prec=200, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[InvalidOperation])
# Above this an amount is a mistake, and converting 1e999999 would take all memory.
_LARGEST_EXPONENT = 18
_ZERO = Decimal(0)


def picodollars(value: Money, field: str, error: type[ValueError] = ValueError) -> int:
    """Convert a USD amount to integer picodollars, rounded up.

    Args:
        value: USD as Decimal, int, str or finite float.
        field: The name that an error message uses for it.
        error: The class of the error raised, a ValueError.

    Returns:
        Picodollars, at least 0.

    Raises:
        ValueError: As *error*, if the value is no amount, not finite, negative or absurdly large.
    """
    return math.ceil(_CONTEXT.scaleb(exact_usd(value, field, error), 12))


def exact_usd(value: object, field: str, error: type[ValueError] = ValueError) -> Decimal:
    """Read a USD amount without rounding it; arguments and errors as in `picodollars`."""
    wanted = "a finite amount of USD >= 0 as Decimal, int, str or float"
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str | float):
        raise error(f"{field} must be {wanted}, not {value!r}")
    try:
        amount = Decimal(float.__repr__(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise error(f"{field} must be {wanted}, not {value!r}") from None
    if not amount.is_finite() or (amount and amount.is_signed()):
        raise error(f"{field} must be {wanted}, not {value!r}")
    if amount and amount.adjusted() > _LARGEST_EXPONENT:
        raise error(f"{field} must be below 1e{_LARGEST_EXPONENT + 1} USD, not {value!r}")
    return amount


def dollars(pico: int) -> Decimal:
    """Convert picodollars to exact USD without trailing zeros or an exponent."""
    if not pico:
        return _ZERO  # most amounts of most receipts
    amount = _CONTEXT.normalize(_CONTEXT.scaleb(Decimal(pico), -12))
    return _CONTEXT.quantize(amount, Decimal(1)) if amount.as_tuple().exponent > 0 else amount  # type: ignore[operator]


def format_usd(pico: int) -> str:
    """Show picodollars as dollars with at least two decimals, such as ``$0.05``."""
    whole, _, cents = f"{dollars(pico):f}".partition(".")
    return f"${whole}.{cents.ljust(2, '0')}"
