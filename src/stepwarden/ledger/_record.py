"""Records: what a ledger stores, one after the other, for each run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stepwarden.core._receipt import Receipt
from stepwarden.core.errors import LedgerError

from ._canonical import canonical, parse
from ._receipt_record import fields_of, receipt_of

VERSION = 1
KINDS = frozenset(
    {"run_started", "scope_opened", "hold", "settlement", "usage", "tool", "receipt", "late", "run_ended"}
)
_COMMON = frozenset({"v", "kind", "run", "seq", "at"})
_TIME = re.compile(r"0|-?[1-9][0-9]*")


def encode(kind: str, run: str, seq: int, at_ns: int, fields: Mapping[str, object]) -> bytes:
    """Write a record as canonical JSON.

    Args:
        kind: One of `KINDS`.
        run: The run's id.
        seq: Its number in the run, from 0.
        at_ns: When it was written, in nanoseconds since the epoch.
        fields: Its own fields: strings, integers, booleans, None, and lists and string-keyed mappings of them.

    Returns:
        The record.

    Raises:
        LedgerError: If the kind is unknown, or a field is nothing that a record can have, such as a float.
    """
    if kind not in KINDS:
        raise LedgerError(f"a record's kind must be one of {', '.join(sorted(KINDS))}, not {kind!r}")
    record = {**fields, "v": VERSION, "kind": kind, "run": run, "seq": seq, "at": str(at_ns)}
    if len(record) != len(fields) + len(_COMMON):
        raise LedgerError(f"a field of a {kind} record may not be named {' or '.join(sorted(_COMMON & fields.keys()))}")
    return canonical(record)


def decode(data: bytes) -> Mapping[str, Any]:
    """Read a record, and refuse bytes that `encode` would not have written.

    Args:
        data: The record, as it is stored.

    Returns:
        Its fields, the common ones included.

    Raises:
        LedgerError: If it is not canonical JSON, or a common field is not what it must be.
    """
    record = parse(data)
    version, kind, run, seq, at = (record.get(name) for name in ("v", "kind", "run", "seq", "at"))
    if type(version) is not int or version != VERSION:
        raise LedgerError(f"its version `v` must be {VERSION}, not {version!r}; a newer stepwarden may read it")
    if not isinstance(kind, str) or kind not in KINDS:
        raise LedgerError(f"its `kind` must be one of {', '.join(sorted(KINDS))}, not {kind!r}")
    if not isinstance(run, str):
        raise LedgerError(f"its `run` must be the id of a run, not {run!r}")
    if type(seq) is not int or seq < 0:
        raise LedgerError(f"its `seq` must be a number from 0, not {seq!r}")
    if not isinstance(at, str) or not _TIME.fullmatch(at):
        raise LedgerError(f"its `at` must be nanoseconds since the epoch in decimal digits, not {at!r}")
    return record


def receipt_fields(receipt: Receipt, at_ns: int | None = None, *, with_messages: bool = False) -> dict[str, Any]:
    """Return the fields of a receipt record, without what is empty or follows from the others.

    Args:
        receipt: The receipt.
        at_ns: The time that `encode` will be given, in nanoseconds since the epoch: the receipt's end, so that its
            beginning follows. None writes the beginning out.
        with_messages: Whether the texts of errors that are not ours are kept: they may quote a prompt or an output.

    Returns:
        The fields, for `encode`.
    """
    return fields_of(receipt, at_ns, with_messages=with_messages)


def receipt_from(fields: Mapping[str, Any]) -> Receipt:
    """Return the receipt that a record tells of.

    Args:
        fields: A receipt record as `decode` gives it.

    Returns:
        The receipt.

    Raises:
        LedgerError: If a field is not what it must be, naming it.
    """
    return receipt_of(fields)
