"""Verifying what a ledger's file holds: each run's chain, and what lists and statistics are read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from stepwarden.core._money import dollars
from stepwarden.core.errors import LedgerError

from ._columns import cost_of, count_of
from ._diagnosis import Row
from ._finding import Finding, Tampering, Verdict
from ._listed import ListedReceipts
from ._reading import Reading
from ._receipt_record import ReceiptRecord
from ._rows import RunRow
from ._schema import SEQ_BITS
from ._verify import verify

_RUNS_AT_ONCE = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LONGEST_TIME = 32


def verify_ledger(reading: Reading, key: bytes | None = None) -> Iterator[Verdict]:
    """Check every run in a file, oldest first.

    Args:
        reading: The file.
        key: The public key that decides, 32 bytes; without one only integrity is claimed.

    Returns:
        The verdicts, made one after the other.
    """
    rows: list[RunRow] = []
    while page := reading.runs(limit=_RUNS_AT_ONCE, before=rows[-1].number if rows else None):
        rows += page
    for row in reversed(rows):
        yield verify_run(reading, row.id, key)


def find_strays(reading: Reading) -> tuple[Finding, ...]:
    """Find what belongs to no run of a file, since runs are only ever added; and whether the file itself is damaged."""
    damage = reading.damage()
    if damage is not None:
        return (Finding(Tampering.EDITED, None, None, f"the file is damaged: {damage}"),)
    runs, records, receipts = reading.strays()
    found = (
        (runs, Tampering.REMOVED, "runs were taken out of the ledger"),
        (records, Tampering.INSERTED, "records belong to no run of the ledger"),
        (receipts, Tampering.INSERTED, "receipts in the ledger's lists belong to no run"),
    )
    return tuple(Finding(what, None, None, f"{count:,} {detail}") for count, what, detail in found if count)


def verify_run(reading: Reading, run: str, key: bytes | None = None) -> Verdict:
    """Check a run in a file; one that is being written is checked as far as it was when the check began.

    Args:
        reading: The file.
        run: The run's id.
        key: The public key that decides, 32 bytes; without one only integrity is claimed.

    Returns:
        The verdict.

    Raises:
        LedgerError: If there is no such run, or the file cannot be read.
    """
    with reading.snapshot():
        row = reading.run(run)
        try:
            end = reading.end(row.id)
        except LedgerError as error:
            return Verdict(
                row.id, 0, (Finding(Tampering.EDITED, None, None, str(error)),), None if key is None else False
            )
        first = row.number << SEQ_BITS
        # The newest of a run that is being written are put on the lists a moment later.
        lists = ListedReceipts(reading.columns(row.id), reading.names(), first, lags=row.ended_at is None)
        told = _Told()

        def meet(record: ReceiptRecord | Mapping[str, Any]) -> None:
            if isinstance(record, ReceiptRecord):
                lists.meet(record)
            elif record["kind"] == "receipt":
                lists.skip(record["seq"])
            else:
                told.hear(record)

        verdict = verify(row.id, lambda: _rows(reading, row.id), end, key, meet=meet)
        if any(finding.seq is not None for finding in verdict.findings):
            return verdict  # what the lists show is compared with records that are known to be right
        lists.finish()
        found = (*verdict.findings, *lists.findings, *told.differences(row))
        return replace(verdict, findings=found, signed=None if key is None else not found)


def _rows(reading: Reading, run: str) -> Iterator[Row]:
    return ((data, head) for _, data, head in reading.records(run))


class _Told:
    """Be what a run's own records tell of it, to be compared with its row in the list of runs."""

    def __init__(self) -> None:
        self._started: Mapping[str, Any] | None = None
        self._ended: Mapping[str, Any] | None = None
        self._total: Mapping[str, Any] = {}

    def hear(self, record: Mapping[str, Any]) -> None:
        """Take a record that is no receipt."""
        kind = record["kind"]
        if kind == "run_started":
            self._started = record
        elif kind == "run_ended":
            self._ended = record
        self._total = record.get("total", self._total)

    def differences(self, row: RunRow) -> Iterator[Finding]:
        """Give what the list of runs shows otherwise."""
        started = self._started or {}
        wrong = [name for name in ("name", "tenant") if getattr(row, name) != started.get(name)]
        if row.parent != started.get("parent_run"):
            wrong.append("parent")
        if not _is_at(row.started_at, started):
            wrong.append("beginning")
        if wrong:
            yield _differs(0, "run_started", wrong)
        ended = self._ended
        if ended is None:
            if row.ended_at is not None:
                yield _differs(None, None, ["end"])
            return
        wrong = [] if row.status == ended.get("status") else ["status"]
        if not _is_at(row.ended_at, ended):
            wrong.append("end")
        listed, total = row.total, self._total
        names = ("input_tokens", "output_tokens", "calls")
        wrong += [name for name in names if getattr(listed, name) != count_of(total, name)]
        if listed.cost_usd != dollars(cost_of(total)):
            wrong.append("cost")
        if wrong:
            yield _differs(ended["seq"], "run_ended", wrong)


def _is_at(listed: datetime | None, record: Mapping[str, Any]) -> bool:
    at = int(record.get("at", "0")[:_LONGEST_TIME])
    return listed is not None and (listed - _EPOCH) // _MILLISECOND == at // 1_000_000


def _differs(seq: int | None, kind: str | None, wrong: list[str]) -> Finding:
    return Finding(Tampering.EDITED, seq, kind, f"the ledger's list of runs shows another {' and '.join(wrong)}")
