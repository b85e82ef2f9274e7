"""How amounts are shown to a person: short, and never rounded to nothing."""

from decimal import Decimal

from stepwarden import Budget, Usage

_SHORT_NAMES = {
    "max_tokens": "tokens",
    "max_input_tokens": "input",
    "max_output_tokens": "output",
    "max_usd": "USD",
    "max_calls": "calls",
    "max_tool_calls": "tools",
    "max_seconds": "time",
}
_SMALLEST_PLAIN_USD = Decimal("0.001")
_LARGEST_SHARE = 9.995


def usd(amount: Decimal) -> str:
    """Show USD to four decimals, and less than a tenth of a cent to two digits: ``$1.5000``, ``$0.000045``."""
    if not amount:
        return "$0"
    decimals = 4 if amount >= _SMALLEST_PLAIN_USD else 1 - amount.adjusted()
    return f"${amount:,.{decimals}f}"


def usd_limit(limit: Decimal) -> str:
    """Show a limit in USD as somebody wrote it, with two decimals at least: ``$0.05``."""
    whole, _, decimals = f"{limit:,f}".partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(2, '0')}"


def clock(seconds: float) -> str:
    """Show a time: ``<1ms``, ``12ms``, ``3.4s``, ``1m15s``, ``2h03m``."""
    milliseconds = round(seconds * 1_000)
    if not milliseconds:
        return "<1ms"
    if milliseconds < 1_000:  # noqa: PLR2004 - a second
        return f"{milliseconds}ms"
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{rest:.1f}s"
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{int(rest):02}s"


def plural(count: int, noun: str) -> str:
    """Show how many of something there are: ``1 call``, ``1,200 calls``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def tokens_of(spent: Usage, budget: Budget) -> str:
    """Show the tokens spent, and the limit on them: ``120/4,000``, or ``60/96 out`` where only output is limited."""
    if budget.max_tokens is not None:
        return f"{spent.total_tokens:,}/{budget.max_tokens:,}"
    if budget.max_output_tokens is not None:
        return f"{spent.output_tokens:,}/{budget.max_output_tokens:,} out"
    if budget.max_input_tokens is not None:
        return f"{spent.input_tokens:,}/{budget.max_input_tokens:,} in"
    return f"{spent.total_tokens:,}" if spent.total_tokens else ""


def usd_of(spent: Usage, budget: Budget) -> str:
    """Show the USD spent, and the limit on them: ``$0.0012/$0.05``."""
    if budget.max_usd is not None:
        return f"{usd(spent.cost_usd)}/{usd_limit(budget.max_usd)}"
    return usd(spent.cost_usd) if spent.cost_usd else ""


def held_of(usage: Usage) -> str:
    """Show what open calls hold: ``825 $0.0130``."""
    parts = (f"{usage.total_tokens:,}" if usage.total_tokens else "", usd(usage.cost_usd) if usage.cost_usd else "")
    return " ".join(part for part in parts if part)


def amount(usage: Usage) -> str:
    """Show the tokens and the USD of a usage; of one that has neither, its calls: ``120 tokens, $0.0012``."""
    parts = []
    if usage.total_tokens:
        parts.append(plural(usage.total_tokens, "token"))
    if usage.cost_usd:
        parts.append(usd(usage.cost_usd))
    if usage.calls and not parts:
        parts.append(plural(usage.calls, "call"))
    if usage.tool_calls and not parts:
        parts.append(plural(usage.tool_calls, "tool call"))
    return ", ".join(parts)


def share(spent: Usage, budget: Budget, seconds: float) -> tuple[str, str]:
    """Show how much of its tightest limit is spent.

    Args:
        spent: What is spent.
        budget: The limits.
        seconds: How long it took, in seconds.

    Returns:
        The share and the short name of the limit, such as ``("80%", "output")``; empty where nothing is limited.
    """
    by_limit = {
        "max_tokens": float(spent.total_tokens),
        "max_input_tokens": float(spent.input_tokens),
        "max_output_tokens": float(spent.output_tokens),
        "max_usd": float(spent.cost_usd),
        "max_calls": float(spent.calls),
        "max_tool_calls": float(spent.tool_calls),
        "max_seconds": seconds,
    }
    shares = []
    for limit, used in by_limit.items():
        allowed = getattr(budget, limit)
        if allowed is not None:
            # Of a limit 0 nothing is spent, or infinitely much.
            part = used / float(allowed) if allowed else float("inf") if used else 0.0
            shares.append((part, limit))
    if not shares:
        return "", ""
    part, limit = max(shares, key=lambda each: each[0])
    return (f"{part:.0%}" if part < _LARGEST_SHARE else ">999%"), _SHORT_NAMES[limit]
