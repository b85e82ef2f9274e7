"""Checking what lists and statistics are read from against the records that it was derived from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

from ._columns import ReceiptColumns, row_of
from ._finding import Finding, Tampering
from ._receipt_record import ReceiptRecord
from ._schema import SEQ_BITS

_AT_ONCE = 1_000
_WORDS = {"ended_at": "end", "own_cost": "own cost", "own_tokens": "own tokens", "ran_out": "running out"}
_SEQ_MASK = (1 << SEQ_BITS) - 1


class _Numbers(dict[str | None, int | None]):
    """Give the numbers of names, and one that no name has for one that has none."""

    def __missing__(self, name: str | None) -> int:
        return -1


class ListedReceipts:
    """Be the rows that lists are read from, to be met by the records one after the other.

    Args:
        rows: The rows of one run, each with the key of its record before it, in order.
        names: The names that the rows have by number.
        first: The key that the run's first record has.
        lags: Whether the newest receipts may have no row yet.
    """

    def __init__(
        self, rows: Iterator[tuple[Any, ...]], names: Mapping[int, str], first: int, *, lags: bool = False
    ) -> None:
        self._rows = rows
        self._lags = lags
        numbers = _Numbers({name: number for number, name in names.items()})
        numbers[None] = None
        self._number_of = numbers.__getitem__
        self._first = first
        self._true: list[tuple[Any, ...]] = []
        self._ahead: list[tuple[Any, ...]] = []
        self.findings: list[Finding] = []

    def meet(self, record: ReceiptRecord) -> None:
        """Take a receipt, to be compared with its row."""
        true = self._true
        true.append(row_of(record, self._first + record.seq, self._number_of))
        if len(true) >= _AT_ONCE:
            self._compare()

    def skip(self, seq: int) -> None:
        """Take a receipt whose record is of a newer version, and compare nothing."""
        self._true.append((self._first + seq,))

    def finish(self) -> None:
        """Compare what is left; rows that no record has met are extra."""
        self._compare()
        for row in (*self._ahead, *self._rows):
            self._extra(row)

    def _compare(self) -> None:
        true, self._true = self._true, []
        listed = self._ahead + list(islice(self._rows, len(true) - len(self._ahead)))
        self._ahead = []
        if listed != true:  # all of them at once, since they nearly always are
            self._tell(true, listed)

    def _tell(self, true: list[tuple[Any, ...]], listed: list[tuple[Any, ...]]) -> None:
        ahead = iter(listed)
        waiting = chain(ahead, self._rows)  # as many rows as there are extra ones are still to come
        row = next(waiting, None)
        for wanted in true:
            while row is not None and row[0] < wanted[0]:
                self._extra(row)
                row = next(waiting, None)
            if row is None and self._lags:
                continue
            if row is None or row[0] != wanted[0]:
                detail = "the ledger's lists do not show it"
                self.findings.append(Finding(Tampering.REMOVED, wanted[0] & _SEQ_MASK, "receipt", detail))
                continue
            if len(wanted) > 1 and row != wanted:
                self._differs(row, wanted)
            row = next(waiting, None)
        self._ahead = [] if row is None else [row, *ahead]

    def _differs(self, row: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
        pairs = zip(ReceiptColumns._fields, row[1:], wanted[1:], strict=True)
        wrong = [_WORDS.get(column, column) for column, listed, true in pairs if listed != true]
        detail = f"the ledger's lists show another {' and '.join(wrong)}"
        self.findings.append(Finding(Tampering.EDITED, wanted[0] & _SEQ_MASK, "receipt", detail))

    def _extra(self, row: tuple[Any, ...]) -> None:
        detail = "the ledger's lists show a receipt, and the record is none"
        self.findings.append(Finding(Tampering.INSERTED, row[0] & _SEQ_MASK, None, detail))
