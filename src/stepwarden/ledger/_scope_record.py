"""A scope as the fields of a record, without its receipt being made where nothing happened in it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from stepwarden.core._budget import Limits
from stepwarden.core._plan import Plan
from stepwarden.core._receipt import Status
from stepwarden.core._scope import Scope

from ._canonical import LARGEST
from ._plain_receipt import PlainForm, PlainReceipt
from ._receipt_record import _budget

_COMPLETED = Status.COMPLETED
_MOST_FORMS = 256


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


class PlainReceipts:
    """Make the receipts of a run's scopes in which nothing was spent or noted, without making what users read.

    Args:
        run: The run's id.
    """

    __slots__ = ("_forms", "_run")

    def __init__(self, run: str) -> None:
        self._run = run
        self._forms: dict[tuple[Plan, Plan | None, bool], PlainForm | None] = {}

    def receipt(self, scope: Scope, at_ns: int) -> PlainReceipt | dict[str, Any] | None:
        """Return the receipt of a scope that has closed, or its fields; None where something was spent or noted.

        The fields are what `receipt_fields` makes of its receipt, at a fraction of the cost.

        Args:
            scope: The scope.
            at_ns: When it closed, in nanoseconds since the epoch.
        """
        duration_ns = scope.closed_ns - scope.opened_ns
        if scope.meter is not None or scope.detail is not None or scope.last_model is not None or duration_ns > LARGEST:
            return None
        parent = scope.parent
        if scope.status is _COMPLETED and parent is not None:
            form = self._form(scope, parent)
            if form is not None:
                return PlainReceipt(form, at_ns, duration_ns, parent.serial, scope.serial)
        fields = described(scope)
        fields["duration_ns"] = duration_ns
        if scope.status is not _COMPLETED:
            fields["status"] = str(scope.status)
        return fields

    def _form(self, scope: Scope, parent: Scope) -> PlainForm | None:
        persona, plan, forms = scope.persona_scope, scope.plan, self._forms
        # All that a scope has and `described` tells follows from these, but for the numbers.
        key = (plan, None if persona is None else persona.plan, parent.run is parent)
        if key in forms:
            form = forms[key]
            if form is None and (plan.limits is None or plan.limits.nanoseconds is None):
                fields = described(scope)
                del fields["step"]
                if not key[2]:
                    del fields["parent"]
                form = forms[key] = PlainForm(self._run, fields)
            return form
        # Only when it comes a second time: a block is often its plan's only one.
        if len(forms) >= _MOST_FORMS:
            forms.clear()
        forms[key] = None
        return None
