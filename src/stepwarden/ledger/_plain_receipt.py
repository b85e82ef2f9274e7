"""Receipts of scopes in which nothing was spent or noted: alike but for a few numbers, and written as such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._canonical import canonical
from ._receipt_record import ReceiptRecord, decode_receipt
from ._record import VERSION

# Their places in canonical order; what else there is lies between them.
_NUMBERS = {"at": b'"%d"', "duration_ns": b"%d", "parent": b"%d", "seq": b"%d", "step": b"%d"}


class PlainForm:
    """Be what such receipts of one step or persona have in common in one run.

    Args:
        run: The run's id.
        fields: The fields that they have in common; without ``parent`` where that is another number for each.

    Attributes:
        nests: Whether it is.
        pattern: The record, with a place for each number that is another one for each.
        record: The record of one that has 0 for each of them.
    """

    __slots__ = ("fields", "nests", "pattern", "record")

    def __init__(self, run: str, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.nests = "parent" not in fields
        texts = {name: b'"%b":%b' % (name.encode(), number) for name, number in _NUMBERS.items()}
        common = {**fields, "v": VERSION, "kind": "receipt", "run": run}
        texts |= {name: canonical({name: value})[1:-1].replace(b"%", b"%%") for name, value in common.items()}
        # What SQLite is given as it is takes a fifth of the time that bytes take, which it first tries to adapt.
        self.pattern = bytearray(b"{" + b",".join(texts[name] for name in sorted(texts)) + b"}")
        self.record: ReceiptRecord = decode_receipt(PlainReceipt(self, 0, 0, 0, 0).encode(0))


class PlainReceipt:
    """Be such a receipt.

    Args:
        form: What it has in common with others.
        at_ns: When its scope ended, in nanoseconds since the epoch.
        duration_ns: How long that was open.
        parent: The number of the scope around it; for a form of which all have the same, any.
        step: Its scope's number.
    """

    __slots__ = ("_duration_ns", "_parent", "_step", "at_ns", "form")

    def __init__(self, form: PlainForm, at_ns: int, duration_ns: int, parent: int, step: int) -> None:
        self.form = form
        self.at_ns = at_ns
        self._duration_ns = duration_ns
        self._parent = parent
        self._step = step

    def encode(self, seq: int) -> bytes:
        """Write its record, which is the run's record of this number."""
        form = self.form
        if form.nests:
            return form.pattern % (self.at_ns, self._duration_ns, self._parent, seq, self._step)
        return form.pattern % (self.at_ns, self._duration_ns, seq, self._step)

    @property
    def ended_at(self) -> int:
        """When it ended as lists have it: in milliseconds, from a beginning in microseconds."""
        started_ns = (self.at_ns - self._duration_ns) // 1_000 * 1_000
        return (started_ns + self._duration_ns) // 1_000_000

    def __call__(self) -> dict[str, Any]:
        """Return the fields of its record."""
        fields = {**self.form.fields, "duration_ns": self._duration_ns, "step": self._step}
        return {**fields, "parent": self._parent} if self.form.nests else fields
