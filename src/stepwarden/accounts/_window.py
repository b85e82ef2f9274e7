"""The windows of time that an account has limits for, and what is known of it in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stepwarden.core._account import WINDOWS

if TYPE_CHECKING:
    from stepwarden.core._budget import Budget, Usage


def start_of(window: str, at_ns: int) -> int:
    """Return when the window began in which a time lies, in seconds since the epoch; *at_ns* is nanoseconds."""
    length = WINDOWS[window]
    return at_ns // 1_000_000_000 // length * length if length else 0


def time_of(start: int) -> datetime | None:
    """Return the beginning of a window as a time, or None of the one without."""
    return datetime.fromtimestamp(start, UTC) if start else None


@dataclass(frozen=True, slots=True)
class WindowState:
    """Tell of an account in one window.

    Args:
        window: ``"total"``, ``"daily"`` or ``"hourly"``.
        since: When it began (UTC); None for the one without end.
        budget: The limits in force.
        is_set: Whether an operator set them; else they were declared.
        spent: What was spent in it.
        uncertain: What is set aside for calls whose cost never became known.
        held: What open calls hold.
    """

    window: str
    since: datetime | None
    budget: Budget
    is_set: bool
    spent: Usage
    uncertain: Usage
    held: Usage


@dataclass(frozen=True, slots=True)
class AccountState:
    """Tell of an account.

    Args:
        name: Its name.
        paused: Why it is paused, which may be empty; None where it is not.
        windows: Its numbers in the windows that are running.
    """

    name: str
    paused: str | None
    windows: tuple[WindowState, ...]
