"""What a span says of a step or persona: names, numbers and statuses, and nothing of what was said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwarden.core._budget import BUDGET_FIELDS
from stepwarden.core._receipt import Status

from . import _names as names

if TYPE_CHECKING:
    from stepwarden.core._budget import Usage
    from stepwarden.core._scope import Scope

Value = str | int | float
FAILURES = (Status.FAILED, Status.ESCALATED, Status.DENIED)
_COUNTS = ("input_tokens", "output_tokens", "calls", "tool_calls")
_RARE_COUNTS = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "unpriced_calls", "estimated_calls")


def at_the_start(scope: Scope) -> dict[str, Value]:
    """Return what is known when an activation opens, which is what a sampler sees."""
    found: dict[str, Value | None] = {
        names.KIND: scope.kind,
        names.NAME: scope.name,
        names.RUN_ID: scope.run.id,
        names.SCOPE_ID: scope.id,
        names.AGENT: scope.persona,
    }
    if scope.kind == "persona":
        found[names.OPERATION] = names.INVOKE_AGENT
    else:
        found[names.BOUNDARY] = str(scope.plan.boundary)
        found[names.STAGE] = _stage_of(scope)
    if scope.model is not None:
        found[names.PROVIDER], found[names.REQUEST_MODEL] = _provider_and_model(scope.model)
    if scope.limits is not None:
        budget = scope.budget
        for field in BUDGET_FIELDS:
            limit = getattr(budget, field)
            found[names.BUDGET + field] = float(limit) if field == "max_usd" and limit is not None else limit
    return {name: value for name, value in found.items() if value is not None}


def at_the_end(scope: Scope) -> dict[str, Value]:
    """Return what is known once an activation has closed."""
    own, total = scope.own, scope.total
    found: dict[str, Value] = {
        names.STATUS: str(scope.status),
        names.INPUT_TOKENS: total.input_tokens,
        names.OUTPUT_TOKENS: total.output_tokens,
        names.COST_USD: float(total.cost_usd),
        names.OWN_COST_USD: float(own.cost_usd),
    }
    if total.cache_read_tokens:
        found[names.CACHE_READ_TOKENS] = total.cache_read_tokens
    uncertain = scope.uncertain.cost_usd
    if uncertain:
        found[names.UNCERTAIN_COST_USD] = float(uncertain)
    if scope.last_model is not None:
        found[names.RESPONSE_MODEL] = _provider_and_model(scope.last_model)[1]
    if scope.error is not None and scope.status in FAILURES:
        found[names.ERROR_TYPE] = scope.error.type
    found.update(_counts(names.TOTAL, total))
    found.update(_counts(names.OWN, own))
    return found


def _stage_of(scope: Scope) -> str | None:
    """Return the stage of the persona around that matches a step, which has the step's name, or None."""
    persona = scope.persona_scope
    return scope.name if persona is not None and scope.name in persona.plan.stages else None


def _counts(prefix: str, usage: Usage) -> dict[str, Value]:
    counts = {prefix + field: getattr(usage, field) for field in _COUNTS}
    rare = {prefix + field: getattr(usage, field) for field in _RARE_COUNTS}
    return counts | {name: count for name, count in rare.items() if count}


def _provider_and_model(model: str) -> tuple[str | None, str]:
    """Split ``"openai:gpt-5"``; a name without a provider has none."""
    provider, colon, bare = model.partition(":")
    return (provider, bare) if colon else (None, model)
