"""A receipt as the fields of its record, and back: compact, since what is empty is left out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from stepwarden.core import errors
from stepwarden.core._budget import BUDGET_FIELDS, Budget, Usage, nanoseconds
from stepwarden.core._money import dollars, picodollars
from stepwarden.core._receipt import CallRecord, Receipt, ReceiptError, Status, ToolRecord

from ._canonical import LARGEST, whole

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NOTHING = Usage()
_NO_LIMIT = Budget()
_LONGEST_USD = 32
"""Characters; what is longer has more decimals than picodollars, or is no amount that anybody has."""

_USAGE_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "calls",
    "tool_calls",
    "unpriced_calls",
    "estimated_calls",
)
_counts_of = attrgetter(*_USAGE_COUNTS)
_limits_of = attrgetter(*BUDGET_FIELDS)

# Their texts are ours: names and numbers. What quotes a value that it refuses (a ValueError) may quote anything.
_OURS = frozenset(
    name
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, errors.StepwardenError) and not issubclass(error, ValueError)
)


def fields_of(receipt: Receipt, *, with_messages: bool) -> dict[str, Any]:
    """Return the fields of a receipt record, without what is empty.

    Args:
        receipt: The receipt.
        with_messages: Whether the texts of errors that are not ours are kept.
    """
    run = receipt.run_id
    name = receipt.name
    own = receipt.own
    fields: dict[str, Any] = {
        "scope": receipt.kind,
        "step": _short(receipt.step_id, run),
        "name": name,
        "status": receipt.status.value,
        "started_at": str((receipt.started_at - _EPOCH) // _MICROSECOND * 1_000),
        "duration_ns": whole(nanoseconds(receipt.duration)),
    }
    if receipt.parent_id is not None:
        fields["parent"] = _short(receipt.parent_id, run)
    if receipt.persona is not None:
        fields["persona"] = receipt.persona
    if receipt.function != name:
        fields["function"] = receipt.function
    if receipt.stage is not None:
        fields["stage"] = receipt.stage
    if receipt.model is not None:
        fields["model"] = receipt.model
    if receipt.error is not None:
        kind, message = receipt.error
        fields["error"] = [kind, message] if with_messages or kind in _OURS else [kind]
    if own != _NOTHING:
        fields["own"] = _usage(own)
    if receipt.total != own:
        fields["total"] = _usage(receipt.total)
    if receipt.budget != _NO_LIMIT:
        fields["budget"] = _budget(receipt.budget)
    if receipt.calls:
        fields["calls"] = [
            [model, whole(tokens_in), whole(tokens_out), usd(cost), outcome, clamped]
            for model, tokens_in, tokens_out, cost, outcome, clamped in receipt.calls
        ]
    if receipt.tools:
        fields["tools"] = [list(tool) for tool in receipt.tools]
    _add_what_few_have(fields, receipt)
    return fields


def _add_what_few_have(fields: dict[str, Any], receipt: Receipt) -> None:
    for name in ("overshoot", "uncertain", "late"):
        usage = getattr(receipt, name)
        if usage != _NOTHING:
            fields[name] = _usage(usage)
    if receipt.open_holds:
        fields["open_holds"] = receipt.open_holds
    if receipt.clamped_calls:
        fields["clamped_calls"] = receipt.clamped_calls
    if receipt.warnings:
        fields["warnings"] = list(receipt.warnings)


def usd(amount: Decimal) -> str:
    """Write US dollars in plain digits: no exponent, no zeros at the end, at most picodollars, rounded up."""
    text = f"{amount:f}"
    if len(text) > _LONGEST_USD:
        text = f"{dollars(picodollars(amount, 'amount')):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _short(scope: str, run: str) -> int | str:
    # The ids of a run's scopes are its own, a point and a number, and the record has the run's already.
    owner, _, serial = scope.rpartition(".")
    if owner == run and serial.isdecimal() and serial.isascii() and (number := int(serial)) <= LARGEST:
        return number if str(number) == serial else scope
    return scope


def _long(scope: int | str, run: str) -> str:
    return f"{run}.{scope}" if isinstance(scope, int) else scope


def _usage(usage: Usage) -> dict[str, int | str]:
    fields = {name: whole(count) for name, count in zip(_USAGE_COUNTS, _counts_of(usage), strict=True) if count}
    if usage.cost_usd:
        fields["cost_usd"] = usd(usage.cost_usd)
    return fields


def _budget(budget: Budget) -> dict[str, int | str]:
    limits = zip(BUDGET_FIELDS, _limits_of(budget), strict=True)
    fields = {name: limit for name, limit in limits if limit is not None}
    if budget.max_usd is not None:
        fields["max_usd"] = usd(budget.max_usd)
    if budget.max_seconds is not None:
        fields["max_seconds"] = repr(budget.max_seconds)
    return {name: whole(limit) if isinstance(limit, int) else limit for name, limit in fields.items()}


# --- back again: what a record may have, checked by its types -------------------------------------

_Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)] | Annotated[str, msgspec.Meta(pattern="^[1-9][0-9]{15,}$")]
_Time = Annotated[str, msgspec.Meta(pattern="^(0|-?[1-9][0-9]*)$")]
_Usd = Annotated[str, msgspec.Meta(pattern="^(0|[1-9][0-9]*)(\\.[0-9]*[1-9])?$")]
_Seconds = Annotated[str, msgspec.Meta(pattern="^[0-9]+(\\.[0-9]+)?(e[+-][0-9]+)?$")]


class _Spent(msgspec.Struct, forbid_unknown_fields=True):
    input_tokens: _Count = 0
    output_tokens: _Count = 0
    cache_read_tokens: _Count = 0
    cache_write_tokens: _Count = 0
    reasoning_tokens: _Count = 0
    calls: _Count = 0
    tool_calls: _Count = 0
    unpriced_calls: _Count = 0
    estimated_calls: _Count = 0
    cost_usd: _Usd = "0"

    def usage(self) -> Usage:
        counts = {name: int(count) for name, count in zip(_USAGE_COUNTS, _counts_of(self), strict=True)}
        return Usage(**counts, cost_usd=Decimal(self.cost_usd))


class _Limited(msgspec.Struct, forbid_unknown_fields=True):
    max_tokens: _Count | None = None
    max_input_tokens: _Count | None = None
    max_output_tokens: _Count | None = None
    max_calls: _Count | None = None
    max_tool_calls: _Count | None = None
    max_usd: _Usd | None = None
    max_seconds: _Seconds | None = None

    def budget(self) -> Budget:
        limits: dict[str, Any] = dict(zip(BUDGET_FIELDS, _limits_of(self), strict=True))
        whole_ones = {
            name: int(limit) for name, limit in limits.items() if limit is not None and name not in _FRACTIONS
        }
        seconds = None if self.max_seconds is None else float(self.max_seconds)
        return Budget(**whole_ones, max_usd=self.max_usd, max_seconds=seconds)


_FRACTIONS = frozenset({"max_usd", "max_seconds"})


class _ReceiptRecord(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    kind: str
    run: str
    seq: int
    at: str
    scope: str
    step: int | str
    name: str
    status: Status
    started_at: _Time
    duration_ns: _Count
    parent: int | str | None = None
    persona: str | None = None
    function: str | None = None
    stage: str | None = None
    model: str | None = None
    error: Annotated[list[str], msgspec.Meta(min_length=1, max_length=2)] | None = None
    own: _Spent = msgspec.field(default_factory=_Spent)
    total: _Spent | None = None
    budget: _Limited = msgspec.field(default_factory=_Limited)
    overshoot: _Spent = msgspec.field(default_factory=_Spent)
    uncertain: _Spent = msgspec.field(default_factory=_Spent)
    late: _Spent = msgspec.field(default_factory=_Spent)
    open_holds: int = 0
    clamped_calls: int = 0
    calls: list[tuple[str | None, _Count, _Count, _Usd, str, bool]] = []
    tools: list[tuple[str, str, str | None]] = []
    warnings: list[str] = []


def receipt_of(fields: Mapping[str, Any]) -> Receipt:
    """Return the receipt that a record tells of; a text that was not kept is empty.

    Args:
        fields: The record, the common fields included.

    Raises:
        LedgerError: If a field is not what it must be, naming it.
    """
    try:
        record = msgspec.convert(fields, _ReceiptRecord)
    except msgspec.ValidationError as error:
        raise errors.LedgerError(f"it is no receipt record: {error}") from None
    own = record.own.usage()
    return Receipt(
        kind=record.scope,
        run_id=record.run,
        step_id=_long(record.step, record.run),
        parent_id=None if record.parent is None else _long(record.parent, record.run),
        persona=record.persona,
        name=record.name,
        function=record.name if record.function is None else record.function,
        stage=record.stage,
        status=record.status,
        error=None if record.error is None else ReceiptError(*record.error, *[""] * (2 - len(record.error))),
        model=record.model,
        own=own,
        total=own if record.total is None else record.total.usage(),
        budget=record.budget.budget(),
        overshoot=record.overshoot.usage(),
        uncertain=record.uncertain.usage(),
        open_holds=record.open_holds,
        clamped_calls=record.clamped_calls,
        started_at=_EPOCH + timedelta(microseconds=int(record.started_at) // 1_000),
        duration=int(record.duration_ns) / 1e9,
        calls=tuple(
            CallRecord(model, int(tokens_in), int(tokens_out), Decimal(cost), outcome, clamped)
            for model, tokens_in, tokens_out, cost, outcome, clamped in record.calls
        ),
        tools=tuple(ToolRecord(*tool) for tool in record.tools),
        late=record.late.usage(),
        warnings=tuple(record.warnings),
    )
