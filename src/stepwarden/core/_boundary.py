"""What a step does with its own exhaustion: fail, continue or escalate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ._receipt import Status
from .errors import BudgetExceededError, DefinitionError, EscalationError

if TYPE_CHECKING:
    from ._plan import Plan


class ErrorBoundary(StrEnum):
    """Choose what a step does when its own budget is exhausted.

    Attributes:
        FAIL: The `BudgetExceededError` goes on to the caller.
        CONTINUE: The step returns its fallback.
        ESCALATE: An `EscalationError` goes on to the caller, which no `continue` further out absorbs.
    """

    FAIL = "fail"
    CONTINUE = "continue"
    ESCALATE = "escalate"


def parse_boundary(value: object, field: str) -> ErrorBoundary:
    """Read an error boundary.

    Args:
        value: An `ErrorBoundary`, or its value.
        field: The name that an error message uses for it.

    Raises:
        DefinitionError: If it is neither.
    """
    try:
        return ErrorBoundary(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(repr(str(boundary)) for boundary in ErrorBoundary)
        raise DefinitionError(f"{field} must be one of {known}, not {value!r}") from None


def own_exhaustion(error: BaseException, scope_id: str) -> BudgetExceededError | None:
    """Find the scope's own budget error in what leaves it.

    Args:
        error: What leaves the step: an error, or a group, as a task group raises it.
        scope_id: The id of the activation that is left.

    Returns:
        The error, or the first leaf of a group all of whose leaves are this activation's budget errors; else None.
    """
    if isinstance(error, BudgetExceededError):
        return error if error.scope_id == scope_id else None
    if not isinstance(error, BaseExceptionGroup):
        return None
    found = [own_exhaustion(leaf, scope_id) for leaf in error.exceptions]
    return None if None in found else found[0]


@dataclass(frozen=True, slots=True)
class Returned:
    """Say that a boundary absorbed the error, and the step returns a value.

    Args:
        value: The step's fallback.
    """

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """Say that an error leaves the frame.

    Args:
        error: What leaves it: the error itself, or the `EscalationError` that stands for it.
    """

    error: BaseException


def outcome_of(plan: Plan, error: BaseException, own: BudgetExceededError) -> tuple[Status, Returned | Raised]:
    """Tell what becomes of an error that is the exhaustion of the step that it leaves.

    Args:
        plan: The step's declaration.
        error: What leaves it.
        own: Its own budget error in that, as `own_exhaustion` finds it.

    Returns:
        How the step ends, and what leaves it instead.
    """
    if plan.boundary is ErrorBoundary.CONTINUE:
        return Status.SKIPPED, Returned(plan.fallback)
    if plan.boundary is ErrorBoundary.ESCALATE:
        message = f"step `{plan.name}` escalated: {own}"
        escalated = EscalationError(message, step=plan.name, function=plan.function, error=own)
        escalated.__cause__ = error
        return Status.ESCALATED, Raised(escalated)
    return Status.FAILED, Raised(error)
