"""Times as people write and read them."""

import re
from datetime import UTC, datetime, timedelta

from ._problem import UsageError

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"([0-9]{1,6})([mhdw])")


def read_time(text: str, option: str) -> datetime:
    """Read a time: ISO 8601, in UTC where it names no zone, or how long ago it was: ``90m``, ``24h``, ``7d``, ``2w``.

    Args:
        text: What was given.
        option: The option that it was given for.

    Raises:
        UsageError: If it is neither.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} must be a time such as 2026-11-25, 2026-11-25T09:30 (in UTC), or 24h or 7d ago, not {text!r}"
        ) from None


def minute(time: datetime, *, with_year: bool) -> str:
    """Show a time in UTC to the minute."""
    return f"{time:%Y-%m-%d %H:%M}" if with_year else f"{time:%m-%d %H:%M}"


def second(time: datetime) -> str:
    """Show a time in UTC to the second, with its zone."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
