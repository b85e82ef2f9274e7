"""A scope as the fields of a record, without its receipt being made where nothing happened in it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from stepwarden.core._budget import Limits
from stepwarden.core._receipt import Status
from stepwarden.core._scope import Scope

from ._canonical import LARGEST
from ._receipt_record import _budget


def described(scope: Scope) -> dict[str, Any]:
    """Return what the records of a scope's beginning and end have in common, without what is empty.

    Args:
        scope: The scope.
    """
    plan, parent, persona = scope.plan, scope.parent, scope.persona_scope
    fields: dict[str, Any] = {"step": scope.serial, "name": plan.name}
    if scope.kind != "step":
        fields["scope"] = scope.kind
    if parent is not None:
        fields["parent"] = parent.id if parent.run is parent or parent.run is not scope.run else parent.serial
    if persona is not None:
        fields["persona"] = persona.plan.name
        stage = scope.stage
        if stage is not None:
            fields["stage"] = stage
    if plan.function != plan.name:
        fields["function"] = plan.function
    if plan.model is not None:
        fields["model"] = plan.model
    if scope.limits is not None:
        fields["budget"] = _limits(scope.limits)
    return fields


@lru_cache(maxsize=256)
def _limits(limits: Limits) -> dict[str, Any]:
    # Activations of one step share them, and nobody changes what is returned.
    return _budget(limits.budget)


def plain_receipt(scope: Scope) -> dict[str, Any] | None:
    """Return the fields of the receipt of a scope in which nothing was spent or noted; None where something was.

    They are what `receipt_fields` makes of its receipt, at a fraction of the cost.

    Args:
        scope: The scope, which has closed.
    """
    duration_ns = scope.closed_ns - scope.opened_ns
    if scope.meter is not None or scope.detail is not None or scope.last_model is not None or duration_ns > LARGEST:
        return None
    fields = described(scope)
    fields["duration_ns"] = duration_ns
    if scope.status is not Status.COMPLETED:
        fields["status"] = str(scope.status)
    return fields
