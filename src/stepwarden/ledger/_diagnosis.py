"""Naming what was done to records that do not fit together: which was edited, moved, added or taken away."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from stepwarden.core.errors import LedgerError

from ._chain import extend, genesis
from ._finding import Finding, Tampering
from ._record import decode

Row = tuple[bytes, bytes]
"""A record as it is stored, and the head that is stored beside it."""

_KIND = re.compile(rb'"kind":"([a-z_]{1,40})"')


@dataclass(frozen=True, slots=True)
class _Stored:
    """Be one stored record, and what can be read of it; *wrong* tells why it cannot be one of this run."""

    place: int
    data: bytes
    head: bytes
    seq: int
    kind: str | None
    wrong: str | None


def diagnose(run: str, rows: Sequence[Row], end: tuple[int, bytes] | None) -> tuple[Finding, ...]:
    """Name every record that is not as it was written.

    Args:
        run: The run's id.
        rows: The records, in the order in which they are stored.
        end: The count and the head that are stored for the run, or None where they are missing.

    Returns:
        What is wrong, by the numbers of the records.
    """
    stored = [_look_at(run, place, row) for place, row in enumerate(rows)]
    known, strangers = _find_places(stored, None if end is None else end[0])
    by_seq: dict[int, list[_Stored]] = {}
    for one in known:
        by_seq.setdefault(one.seq, []).append(one)
    findings = [
        Finding(Tampering.INSERTED, one.place, one.kind, f"at place {one.place}, where none is missing: {one.wrong}")
        for one in strangers
    ]
    findings += [
        Finding(Tampering.REORDERED, one.seq, one.kind, f"it stands at place {one.place}")
        for one in _moved(known)
        if len(by_seq[one.seq]) == 1
    ]
    findings += _Follower(run, by_seq, {head for _, head in rows}).follow()
    findings += _at_the_end(by_seq, end, is_clean=not findings, is_full=end is not None and len(rows) <= end[0])
    return tuple(sorted(findings, key=lambda finding: (finding.seq is None, finding.seq or 0)))


def run_of(rows: Iterable[Row]) -> str | None:
    """Return the run that every record which can be read belongs to; None where they differ or there is none."""
    run: str | None = None
    for data, _ in rows:
        try:
            found: str = decode(data)["run"]
        except LedgerError:
            continue
        if run not in {None, found}:
            return None
        run = found
    return run


def _look_at(run: str, place: int, row: Row) -> _Stored:
    data, head = row
    try:
        record = decode(data)
    except LedgerError as error:
        kind = _KIND.search(data)
        return _Stored(place, data, head, -1, None if kind is None else kind[1].decode(), str(error))
    if record["run"] != run:
        return _Stored(place, data, head, -1, record["kind"], f"it belongs to run {record['run']}")
    return _Stored(place, data, head, record["seq"], record["kind"], None)


def _find_places(stored: Sequence[_Stored], count: int | None) -> tuple[list[_Stored], list[_Stored]]:
    """Tell what stands where a record is missing, and so was edited beyond recognition, from what is extra."""
    numbers = {one.seq for one in stored if one.wrong is None}
    known, strangers = [], []
    before = -1
    for one in stored:
        seq = one.seq
        if one.wrong is not None:
            seq = before + 1
            if seq in numbers or (count is not None and seq >= count):
                strangers.append(one)
                continue
        known.append(replace(one, seq=seq))
        before = seq
    return known, strangers


def _moved(stored: Sequence[_Stored]) -> Iterator[_Stored]:
    """Give what stands outside the longest row of rising numbers, so that as few as possible are named."""
    tails: list[int] = []
    places: list[int] = []
    previous: list[int] = []
    for place, one in enumerate(stored):
        at = bisect_right(tails, one.seq)
        previous.append(places[at - 1] if at else -1)
        tails[at : at + 1] = [one.seq]
        places[at : at + 1] = [place]
    rising = set()
    place = places[-1] if places else -1
    while place >= 0:
        rising.add(place)
        place = previous[place]
    return (one for place, one in enumerate(stored) if place not in rising)


class _Follower:
    """Follow the chain in the order of the records' numbers.

    Args:
        run: The run's id.
        by_seq: The records of each number.
        heads: Every head that is stored beside a record.
    """

    def __init__(self, run: str, by_seq: dict[int, list[_Stored]], heads: set[bytes]) -> None:
        self._by_seq = by_seq
        self._heads = heads
        # What the next record may stand on; empty where that cannot be known.
        self._bases: tuple[bytes, ...] = (genesis(run),)

    def follow(self) -> Iterator[Finding]:
        """Give what is wrong, by number."""
        before = -1
        for seq in sorted(self._by_seq):
            if seq > before + 1:
                yield from self._miss(before + 1, seq)
            one = self._genuine(seq)
            for other in self._by_seq[seq]:
                if other is not one:
                    detail = f"there is another record of this number, and this one, at place {other.place}, is extra"
                    yield Finding(Tampering.INSERTED, seq, other.kind, detail)
            yield from self._step(one)
            before = seq

    def _miss(self, first: int, after: int) -> Iterator[Finding]:
        what = self._by_seq[after][0].kind
        for seq in range(first, after):
            yield Finding(Tampering.REMOVED, seq, None, f"it is missing before record {after} ({what})")
        self._bases = ()

    def _genuine(self, seq: int) -> _Stored:
        candidates = self._by_seq[seq]
        if len(candidates) == 1:
            return candidates[0]
        following = self._by_seq.get(seq + 1, [])
        fitting = [one for one in candidates if self._fits(one)] or candidates
        followed = [one for one in fitting if any(extend(one.head, after.data) == after.head for after in following)]
        return (followed or fitting)[0]

    def _fits(self, one: _Stored) -> bool:
        return any(extend(base, one.data) == one.head for base in self._bases)

    def _step(self, one: _Stored) -> Iterator[Finding]:
        computed = tuple(extend(base, one.data) for base in self._bases)
        if one.wrong is not None:
            yield Finding(Tampering.EDITED, one.seq, one.kind, one.wrong)
        elif self._bases and one.head not in computed and self._heads.isdisjoint(computed):
            detail = "it does not lead from the head before it to the one beside it"
            yield Finding(Tampering.EDITED, one.seq, one.kind, detail)
        # If the record was changed, the next one stands on the head that is stored; if the head was, on the true one.
        self._bases = (one.head, *computed)


def _at_the_end(
    by_seq: dict[int, list[_Stored]], end: tuple[int, bytes] | None, *, is_clean: bool, is_full: bool
) -> Iterator[Finding]:
    there = max(by_seq, default=-1) + 1
    last = "there is no record" if not there else f"record {there - 1} ({by_seq[there - 1][0].kind}) is the last"
    if end is None:
        yield Finding(Tampering.CUT_OFF, there, None, f"{last}, and no line after it tells how many there were")
        return
    count, head = end
    if count > there:
        yield Finding(Tampering.CUT_OFF, there, None, f"{last}, and there were {count:,}")
    for seq in sorted(by_seq):
        if seq >= count and not is_full:
            yield Finding(Tampering.INSERTED, seq, by_seq[seq][0].kind, f"there were only {count:,} records")
    if is_clean and count == there and count and by_seq[there - 1][0].head != head:
        detail = (
            "the head of the last record is not the one stored for the run: that one was changed, or a record together "
            "with every head after it, so which cannot be told"
        )
        yield Finding(Tampering.EDITED, None, None, detail)
