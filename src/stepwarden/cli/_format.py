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


def usd(amount: Decimal) -> str:
    """Show an amount of USD to four decimals, smaller ones to two digits: ``$1.50``, ``$0.0123``, ``$0.000045``."""
    decimals = 4 if amount.adjusted() >= -3 or not amount else 1 - amount.adjusted()
    whole, _, cents = f"{amount:,.{decimals}f}".partition(".")
    return f"${whole}.{cents.rstrip('0').ljust(2, '0')}"


def clock(seconds: float) -> str:
    """Show a time: ``12ms``, ``3.4s``, ``1m15s``, ``2h03m``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


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
        return f"{usd(spent.cost_usd)}/{usd(budget.max_usd)}"
    return usd(spent.cost_usd) if spent.cost_usd else ""


def amount(usage: Usage) -> str:
    """Show the tokens and the USD of a usage that may have only one of them, or nothing."""
    parts = []
    if usage.total_tokens:
        parts.append(f"{usage.total_tokens:,} tokens")
    if usage.cost_usd:
        parts.append(usd(usage.cost_usd))
    if usage.calls and not parts:
        parts.append(f"{usage.calls:,} calls")
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
        "max_tokens": spent.total_tokens,
        "max_input_tokens": spent.input_tokens,
        "max_output_tokens": spent.output_tokens,
        "max_usd": spent.cost_usd,
        "max_calls": spent.calls,
        "max_tool_calls": spent.tool_calls,
        "max_seconds": seconds,
    }
    shares = []
    for limit, used in by_limit.items():
        allowed = getattr(budget, limit)
        if allowed is not None:
            # Of a limit 0 nothing is spent, or infinitely much.
            part = float(used) / float(allowed) if allowed else float("inf") if used else 0.0
            shares.append((part, limit))
    if not shares:
        return "", ""
    part, limit = max(shares, key=lambda each: each[0])
    return (f"{part:.0%}" if part < 10 else ">999%"), _SHORT_NAMES[limit]
