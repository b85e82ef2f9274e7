"""Log records of refusals, escalations and denials, on the logger ``"stepwarden"``."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from stepwarden.core.errors import (
    BudgetExceededError,
    EscalationError,
    HookDeniedError,
    ReserveTimeoutError,
    StepwardenError,
    ToolDeniedError,
    UnpricedModelError,
)

if TYPE_CHECKING:
    from stepwarden.core._scope import Scope

logger = logging.getLogger("stepwarden")
# Without one, a program that has set up no logging would find warnings on its standard error.
logger.addHandler(logging.NullHandler())

_LOGGED = (
    BudgetExceededError, EscalationError, HookDeniedError, ReserveTimeoutError, ToolDeniedError, UnpricedModelError,
)  # fmt: skip
# What a model had answered before a stream was ended is content.
_CONTENT = ("partial",)


def log(scope: Scope, error: StepwardenError) -> None:
    """Log an error that refuses, escalates or denies something; an escalation as an error, the rest as a warning.

    Args:
        scope: The scope that meets it.
        error: The error, whose attributes are the record's.
    """
    if not isinstance(error, _LOGGED):
        return
    level = logging.ERROR if isinstance(error, EscalationError) else logging.WARNING
    if logger.isEnabledFor(level):
        logger.log(level, "%s", error, extra=_fields(scope, error))


def _fields(scope: Scope, error: StepwardenError) -> dict[str, Any]:
    """Return the attributes of an error that are names and numbers, with where it was met beside them."""
    fields: dict[str, Any] = {
        "error_type": type(error).__name__,
        "run_id": scope.run.id,
        "persona": scope.persona,
        "scope_kind": scope.kind,
        "scope_name": scope.name,
        "scope_id": scope.id,
    }
    sources = (error.error, error) if isinstance(error, EscalationError) else (error,)
    for source in sources:
        fields |= {name: value for name, value in vars(source).items() if _is_name_or_number(name, value)}
    return fields


def _is_name_or_number(name: str, value: object) -> bool:
    return name not in _CONTENT and (value is None or isinstance(value, str | int | float | Decimal))
