"""A receipt as the fields of its record, and back: compact, since what is empty is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, Literal

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

_IF_CLAMPED = ((), (True,))

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


def fields_of(receipt: Receipt, at_ns: int | None, *, with_messages: bool) -> dict[str, Any]:
    """Return the fields of a receipt record, without what is empty or follows from the others.

    Args:
        receipt: The receipt.
        at_ns: The time of the record, if it is known; where it is the receipt's end, the beginning follows from it.
        with_messages: Whether the texts of errors that are not ours are kept.
    """
    run = receipt.run_id
    name = receipt.name
    own = receipt.own
    duration_ns = nanoseconds(receipt.duration)
    fields: dict[str, Any] = {"step": _short(receipt.step_id, run), "name": name, "duration_ns": whole(duration_ns)}
    started_us = (receipt.started_at - _EPOCH) // _MICROSECOND
    if at_ns is None or started_us != (at_ns - duration_ns) // 1_000:
        fields["started_at"] = str(started_us * 1_000)
    if receipt.kind != "step":
        fields["scope"] = receipt.kind
    if receipt.status is not Status.COMPLETED:
        fields["status"] = receipt.status.value
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
            [model, whole(tokens_in), whole(tokens_out), usd(cost), outcome, *_IF_CLAMPED[clamped]]
            for model, tokens_in, tokens_out, cost, outcome, clamped in receipt.calls
        ]
    _add_what_few_have(fields, receipt)
    return fields


def _add_what_few_have(fields: dict[str, Any], receipt: Receipt) -> None:
    for name in ("overshoot", "uncertain", "late"):
        usage = getattr(receipt, name)
        if usage != _NOTHING:
            fields[name] = _usage(usage)
    if receipt.tools:
        fields["tools"] = [list(tool) for tool in receipt.tools]
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


# --- back again: what a record may have, its fields in canonical order, so that writing it again needs no sorting ---

# Of numbers in strings the digits are checked where they are read: a pattern here would take longer than all the rest.
_Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)] | str
_DIGITS = re.compile("[1-9][0-9]{15,}")
_TIME = re.compile("0|-?[1-9][0-9]*")
_USD = re.compile("(0|[1-9][0-9]*)([.][0-9]*[1-9])?")
_SECONDS = re.compile("[0-9]+([.][0-9]+)?(e[+-][0-9]+)?")


_Call = Annotated[list[Any], msgspec.Meta(min_length=5, max_length=6)]


class Spent(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Be a usage as a record has it."""

    cache_read_tokens: _Count = 0
    cache_write_tokens: _Count = 0
    calls: _Count = 0
    cost_usd: str = "0"
    estimated_calls: _Count = 0
    input_tokens: _Count = 0
    output_tokens: _Count = 0
    reasoning_tokens: _Count = 0
    tool_calls: _Count = 0
    unpriced_calls: _Count = 0


class Limited(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Be a budget as a record has it."""

    max_calls: _Count | None = None
    max_input_tokens: _Count | None = None
    max_output_tokens: _Count | None = None
    max_seconds: str | None = None
    max_tokens: _Count | None = None
    max_tool_calls: _Count | None = None
    max_usd: str | None = None


class ReceiptRecord(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Be a receipt's record."""

    at: str
    budget: Limited | None = None
    calls: list[_Call] = []
    clamped_calls: int = 0
    duration_ns: _Count
    error: Annotated[list[str], msgspec.Meta(min_length=1, max_length=2)] | None = None
    function: str | None = None
    kind: Literal["receipt"]
    late: Spent | None = None
    model: str | None = None
    name: str
    open_holds: int = 0
    overshoot: Spent | None = None
    own: Spent | None = None
    parent: int | str | None = None
    persona: str | None = None
    run: str
    scope: Literal["step", "persona"] = "step"
    seq: Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
    stage: str | None = None
    started_at: str | None = None
    status: Literal["completed", "failed", "skipped", "escalated", "denied", "cancelled", "abandoned"] = "completed"
    step: int | str
    tools: list[tuple[str, str, str | None]] = []
    total: Spent | None = None
    uncertain: Spent | None = None
    v: Literal[1]
    warnings: list[str] = []


decode_receipt = msgspec.json.Decoder(ReceiptRecord).decode
"""Reads a receipt's record that was just encoded."""
_encode = msgspec.json.Encoder().encode


def read_receipt(data: bytes) -> ReceiptRecord | None:
    """Read a receipt's record in a third of the time that `parse` takes.

    Args:
        data: The record, as it is stored.

    Returns:
        The record; None for what is no receipt, or not in canonical form, or was written by a newer version.
    """
    try:
        record = decode_receipt(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    at = record.at
    is_canonical = _encode(record) == data and at.isdecimal() and at.isascii() and at[0] != "0"
    return record if is_canonical else None


def receipt_of(fields: Mapping[str, Any]) -> Receipt:
    """Return the receipt that a record tells of; a text that was not kept is empty.

    Args:
        fields: The record, the common fields included.

    Raises:
        LedgerError: If a field is not what it must be, naming it.
    """
    try:
        record = msgspec.convert(fields, ReceiptRecord)
    except msgspec.ValidationError as error:
        raise errors.LedgerError(f"it is not a receipt record: {error}") from None
    return as_receipt(record)


def as_receipt(record: ReceiptRecord) -> Receipt:
    """Return the receipt that a record tells of; arguments and errors as in `receipt_of`."""
    own = _usage_of("own", record.own)
    duration_ns = _number(record.duration_ns, "duration_ns")
    if record.started_at is None:
        started_ns = int(_matched(_TIME, record.at, "at")) - duration_ns
    else:
        started_ns = int(_matched(_TIME, record.started_at, "started_at"))
    return Receipt(
        kind=record.scope,
        run_id=record.run,
        step_id=_long(record.step, record.run),
        parent_id=None if record.parent is None else _long(record.parent, record.run),
        persona=record.persona,
        name=record.name,
        function=record.name if record.function is None else record.function,
        stage=record.stage,
        status=Status(record.status),
        error=None if record.error is None else ReceiptError(*record.error, *[""] * (2 - len(record.error))),
        model=record.model,
        own=own,
        total=own if record.total is None else _usage_of("total", record.total),
        budget=_budget_of(record.budget),
        overshoot=_usage_of("overshoot", record.overshoot),
        uncertain=_usage_of("uncertain", record.uncertain),
        open_holds=record.open_holds,
        clamped_calls=record.clamped_calls,
        started_at=_EPOCH + timedelta(microseconds=started_ns // 1_000),
        duration=duration_ns / 1e9,
        calls=tuple(_call_of(call) for call in record.calls),
        tools=tuple(ToolRecord(*tool) for tool in record.tools),
        late=_usage_of("late", record.late),
        warnings=tuple(record.warnings),
    )


def _call_of(call: list[Any]) -> CallRecord:
    model, tokens_in, tokens_out, cost, outcome, *clamped = call
    is_sound = isinstance(model, str | None) and isinstance(outcome, str) and clamped in ([], [True])
    if not is_sound or not isinstance(cost, str):
        raise errors.LedgerError(f"it is not a receipt record: calls cannot have {call!r}")
    return CallRecord(
        model,
        _number(tokens_in, "calls"),
        _number(tokens_out, "calls"),
        _money(cost, "calls"),
        outcome,
        clamped == [True],
    )


def usage_of(fields: Mapping[str, Any]) -> Usage:
    """Return the usage that a field of a record tells of.

    Args:
        fields: The field.

    Raises:
        LedgerError: If it is none.
    """
    try:
        return _usage_of("usage", msgspec.convert(fields, Spent))
    except msgspec.ValidationError as error:
        raise errors.LedgerError(f"it is not a usage: {error}") from None


def _usage_of(path: str, spent: Spent | None) -> Usage:
    if spent is None:
        return _NOTHING
    counts = zip(_USAGE_COUNTS, _counts_of(spent), strict=True)
    return Usage(
        **{name: _number(count, f"{path}.{name}") for name, count in counts},
        cost_usd=_money(spent.cost_usd, f"{path}.cost_usd"),
    )


def _budget_of(limited: Limited | None) -> Budget:
    if limited is None:
        return _NO_LIMIT
    limits: dict[str, Any] = dict(zip(BUDGET_FIELDS, _limits_of(limited), strict=True))
    usd, seconds = limits.pop("max_usd"), limits.pop("max_seconds")
    counts: dict[str, Any] = {
        name: _number(limit, f"budget.{name}") for name, limit in limits.items() if limit is not None
    }
    return Budget(
        **counts,
        max_usd=None if usd is None else _money(usd, "budget.max_usd"),
        max_seconds=None if seconds is None else float(_matched(_SECONDS, seconds, "budget.max_seconds")),
    )


def _number(value: int | str, path: str) -> int:
    return value if type(value) is int else int(_matched(_DIGITS, value, path))


def _money(text: str, path: str) -> Decimal:
    return Decimal(_matched(_USD, text, path))


def _matched(form: re.Pattern[str], text: Any, path: str) -> str:
    if isinstance(text, str) and form.fullmatch(text):
        return text
    raise errors.LedgerError(f"it is not a receipt record: {path} cannot be {text!r}")
