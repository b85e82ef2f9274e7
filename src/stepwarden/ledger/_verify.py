"""Verifying a run: the stored bytes, the heads stored beside them, their count and their signature fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from stepwarden.core.errors import LedgerError

from ._chain import genesis
from ._diagnosis import Row, diagnose, run_of
from ._finding import Finding, Tampering, Verdict
from ._receipt_record import ReceiptRecord, read_receipt
from ._record import decode
from ._sign import SignedHead

_RECEIPT = b'"kind":"receipt"'


@dataclass(frozen=True, slots=True)
class End:
    """Tell how a run's records end, as it is stored beside them.

    Args:
        count: How many records there are.
        head: The head of their chain, 32 bytes.
        signed: The signature, or None.
        is_ended: Whether the run has ended, so that its last record but the late ones is its end.
    """

    count: int
    head: bytes
    signed: SignedHead | None
    is_ended: bool = False


def verify(
    run: str,
    rows: Callable[[], Iterable[Row]],
    end: End | None,
    key: bytes | None = None,
    *,
    found: Iterable[Finding] = (),
    meet: Callable[[ReceiptRecord | Mapping[str, Any]], object] | None = None,
) -> Verdict:
    """Check a run's records, and name every one that is not as it was written.

    Args:
        run: The run's id.
        rows: Reads the records in the order in which they are stored; read again where something is wrong.
        end: What is stored of their end; None where it is missing.
        key: The public key that decides, 32 bytes; without one only integrity is claimed.
        found: What is known to be wrong already.
        meet: Called with each record that fits, in order, up to the first that does not.

    Returns:
        The verdict.
    """
    findings = list(found)
    signed = None if end is None else end.signed
    walk = _walk(run, rows(), None if signed is None else signed.count, meet)
    if walk.fits and end is not None and (walk.count, walk.head) == (end.count, end.head):
        if end.is_ended and not walk.is_ended:
            detail = "the run has ended, and the record of its end is missing"
            findings.append(Finding(Tampering.CUT_OFF, walk.count, "run_ended", detail))
        findings += _against_signature(walk, signed)
    else:
        stored = list(rows())
        other = run_of(stored)
        if other is not None and other != run:
            detail = f"the run is called {run} here, and every record belongs to run {other}"
            return verify(other, rows, end, key, found=[*findings, Finding(Tampering.EDITED, None, None, detail)])
        walk.count = len(stored)
        findings += diagnose(run, stored, None if end is None else (end.count, end.head))
    findings += _judge(run, end, key, walk.after_signature)
    return Verdict(run, walk.count, tuple(findings), None if key is None else not findings)


@dataclass(slots=True)
class _Walk:
    """Be what a pass over the records has seen, up to the first that does not fit."""

    head: bytes
    count: int = 0
    at_signature: bytes | None = None
    after_signature: str | None = None
    is_ended: bool = False
    fits: bool = False


def _walk(
    run: str,
    rows: Iterable[Row],
    stop: int | None,
    meet: Callable[[ReceiptRecord | Mapping[str, Any]], object] | None,
) -> _Walk:
    head = genesis(run)
    walk = _Walk(head, at_signature=head if stop == 0 else None)
    for data, stored in rows:
        walk.head = head = sha256(head + data).digest()
        if head != stored:
            return walk
        record: Mapping[str, Any] = {}
        receipt = read_receipt(data) if _RECEIPT in data else None
        if receipt is not None:
            seq, owner, kind = receipt.seq, receipt.run, "receipt"
        else:
            try:
                record = decode(data)
            except LedgerError:
                return walk
            seq, owner, kind = record["seq"], record["run"], record["kind"]
            if kind == "run_ended":
                walk.is_ended = True
        if seq != walk.count or owner != run:
            return walk
        if meet is not None:
            meet(record if receipt is None else receipt)
        if seq == stop:
            walk.after_signature = kind
        walk.count = count = seq + 1
        if count == stop:
            walk.at_signature = head
    walk.fits = True
    return walk


def _against_signature(walk: _Walk, signed: SignedHead | None) -> list[Finding]:
    if signed is None:
        return []
    if signed.count > walk.count:
        detail = f"{signed.count:,} records were signed, and {walk.count:,} are there"
        return [Finding(Tampering.CUT_OFF, walk.count, None, detail)]
    if walk.at_signature != signed.head:
        detail = (
            f"the first {signed.count:,} records have another head than the signed one: one of them was changed "
            "together with every head after it, so which one cannot be told"
        )
        return [Finding(Tampering.EDITED, None, None, detail)]
    return []


def _judge(run: str, end: End | None, key: bytes | None, after: str | None) -> list[Finding]:
    signed = None if end is None else end.signed
    if end is None or signed is None:
        return (
            [] if key is None else [Finding(Tampering.UNSIGNED, None, None, "there is no signature over the records")]
        )
    if key is not None and signed.key != key:
        if signed.is_signed_by(key, run):
            detail = f"it was signed with the key given, and names another one, {signed.key.hex()}"
            return [Finding(Tampering.EDITED, None, None, detail)]
        return [Finding(Tampering.FORGED, None, None, f"signed with another key, {signed.key.hex()}")]
    if not signed.is_signed_by(signed.key, run):
        return [Finding(Tampering.FORGED, None, None, "the signature does not fit the head that it names")]
    if key is not None and signed.count < end.count:
        return [Finding(Tampering.UNSIGNED, signed.count, after, "it and what follows came after the signed head")]
    return []
