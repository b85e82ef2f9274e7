"""Receipt files: a run's records as JSON Lines with their head, to be verified anywhere."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

from stepwarden.core.errors import LedgerError

from ._canonical import canonical, parse
from ._diagnosis import Row
from ._finding import Finding, Tampering, Verdict
from ._sign import SignedHead
from ._verify import End, verify

FORMAT = "stepwarden-receipts-1"
_BEFORE_HEAD = b'{"head":"'
_BEFORE_RECORD = b'","record":'
_END = b'{"count":'
_LONGEST_FIRST_LINE = 100_000
_LONGEST_LAST_LINE = 4_096
_HEAD_AT = len(_BEFORE_HEAD)
_HEAD_END = _HEAD_AT + 64
_RECORD_AT = _HEAD_END + len(_BEFORE_RECORD)


def write_export(file: BinaryIO, run: str, rows: Iterable[Row], end: End) -> None:
    """Write a receipt file.

    Args:
        file: Where, open for binary writing.
        run: The run's id.
        rows: The records in order, each with the head after it.
        end: How they end.
    """
    file.write(canonical({"format": FORMAT, "run": run}) + b"\n")
    file.writelines(_join(head.hex().encode(), data) for data, head in rows)
    last: dict[str, Any] = {"count": end.count, "head": end.head.hex()}
    if end.signed is not None:
        signed = end.signed
        last["signed"] = {
            "count": signed.count,
            "head": signed.head.hex(),
            "key": signed.key.hex(),
            "signature": signed.signature.hex(),
        }
    file.write(canonical(last) + b"\n")


def verify_export(path: Path, key: bytes | None = None) -> Verdict:
    """Check a receipt file with nothing else at hand.

    Args:
        path: The file.
        key: The public key that decides, 32 bytes; without one only integrity is claimed.

    Returns:
        The verdict.

    Raises:
        LedgerError: If the file cannot be read or is no receipt file.
    """
    try:
        with path.open("rb") as file:
            return _Export(path, file).verify(key)
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from error


class _Export:
    """Be an open receipt file.

    Args:
        path: What error messages call it.
        file: The file.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._ends: list[bytes] = []

    def verify(self, key: bytes | None) -> Verdict:
        """Check it."""
        run = self._read_first()
        # How the records end is needed before they are checked.
        last = self._read_last()
        found: list[Finding] = []
        end = None
        if last is not None:
            try:
                end = _parse_end(last)
            except LedgerError as error:
                found.append(Finding(Tampering.EDITED, None, None, f"the line that ends the records: {error}"))
        verdict = verify(run, self._rows, end, key, found=found)
        if len(self._ends) > 1:
            detail = "more than one line tells how the records end"
            extra = Finding(Tampering.INSERTED, None, None, detail)
            verdict = replace(verdict, findings=(*verdict.findings, extra), signed=None if key is None else False)
        return verdict

    def _rows(self) -> Iterator[Row]:
        """Give the records; a line that is no record's is given as it stands, with no head, to be named."""
        self._file.seek(0)
        self._file.readline()
        self._ends = []
        for line in self._file:
            head = line[_HEAD_AT:_HEAD_END]
            if (
                line[_HEAD_END:_RECORD_AT] == _BEFORE_RECORD
                and line.startswith(_BEFORE_HEAD)
                and line.endswith(b"}\n")
                and head.lower() == head
            ):
                try:
                    yield line[_RECORD_AT:-2], unhexlify(head)
                except ValueError:
                    yield line, b""
            elif line.startswith(_END):
                self._ends.append(line)
            elif line.endswith(b"\n") or self._ends:  # else the file was cut off in it
                yield line, b""

    def _read_last(self) -> bytes | None:
        size = self._file.seek(0, SEEK_END)
        self._file.seek(max(0, size - _LONGEST_LAST_LINE))
        last = self._file.readlines()[-1]
        if last.startswith(_END):
            return last
        for _ in self._rows():  # it is missing, or there is something behind it
            pass
        return self._ends[0] if self._ends else None

    def _read_first(self) -> str:
        line = self._file.readline(_LONGEST_FIRST_LINE)
        try:
            first = parse(line.removesuffix(b"\n"))
        except LedgerError:
            first = {}
        run = first.get("run")
        if first.keys() != {"format", "run"} or first["format"] != FORMAT or not isinstance(run, str):
            hint = "; its line ends were converted" if line.endswith(b"\r\n") else ""
            raise LedgerError(f"{self._path} is no receipt file: it does not begin with the line of {FORMAT}{hint}")
        return run


def _join(head: bytes, data: bytes) -> bytes:
    return b"%b%b%b%b}\n" % (_BEFORE_HEAD, head, _BEFORE_RECORD, data)


def _parse_end(line: bytes) -> End:
    if not line.endswith(b"\n"):
        raise LedgerError("it has no line end: the file was cut off in it")
    last = parse(line[:-1])
    signed = last.get("signed")
    if last.keys() - {"signed"} != {"count", "head"} or type(last["count"]) is not int or last["count"] < 0:
        raise LedgerError("it must have `count` and `head`, and may have `signed`")
    head = _unhex(last["head"], 32)
    if signed is None and "signed" not in last:
        return End(last["count"], head, None)
    if (
        not isinstance(signed, dict)
        or signed.keys() != {"count", "head", "key", "signature"}
        or type(signed["count"]) is not int
    ):
        raise LedgerError("its `signed` must have `count`, an integer, `head`, `key` and `signature`")
    parts = "1.{count}.{head}.{key}.{signature}".format_map(signed)
    return End(last["count"], head, SignedHead.parse(parts))


def _unhex(text: object, size: int) -> bytes:
    if isinstance(text, str) and len(text) == 2 * size and text.strip("0123456789abcdef") == "":
        return bytes.fromhex(text)
    raise LedgerError(f"a hash must be {2 * size} digits of lowercase hexadecimal, not {text!r}")
