"""What a check of a run's records has found: nothing, or what was done to which record."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Tampering(StrEnum):
    """Tell what was done to a record, or what is wrong with the signature over all of them."""

    EDITED = "edited"
    REORDERED = "reordered"
    INSERTED = "inserted"
    REMOVED = "removed"
    CUT_OFF = "cut off"
    UNSIGNED = "unsigned"
    FORGED = "forged"


_OF_SIGNATURES = frozenset({Tampering.UNSIGNED, Tampering.FORGED})


@dataclass(frozen=True, slots=True)
class Finding:
    """Name one thing that is wrong.

    Args:
        what: What was done.
        seq: The number of the record, or None where it cannot be told.
        kind: The record's kind, or None where it cannot be told.
        detail: What shows it, as the rest of a sentence.
    """

    what: Tampering
    seq: int | None
    kind: str | None
    detail: str

    def __str__(self) -> str:
        if self.seq is None:
            return f"{self.what}: {self.detail}"
        kind = "" if self.kind is None else f" ({self.kind})"
        return f"{self.what}: record {self.seq}{kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Tell what is known of a run's records after they were checked.

    Args:
        run: The run's id.
        count: How many records there are.
        findings: What is wrong with them; empty where nothing is.
        signed: Whether the key that was given has signed all of them; None where none was given.
    """

    run: str
    count: int
    findings: tuple[Finding, ...]
    signed: bool | None

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def claim(self) -> str:
        """What may be said of the records, in one sentence."""
        if any(finding.what not in _OF_SIGNATURES for finding in self.findings):
            return "they are not what was recorded"
        if self.findings:
            return "they fit together, and are not what the holder of the key has signed"
        if self.signed:
            return "they are intact and complete, as the holder of the key has signed them"
        return "only integrity is claimed: they fit together, but no public key was given to tell who wrote them"
