"""`stepwarden verify`: check that what was recorded is what is there."""

from collections.abc import Iterable
from pathlib import Path
from string import hexdigits
from typing import Any

from stepwarden import LedgerError
from stepwarden.ledger._export import verify_export
from stepwarden.ledger._finding import Finding, Verdict
from stepwarden.ledger._reading import Reading
from stepwarden.ledger._sign import read_public_key
from stepwarden.ledger._stored import find_strays, verify_ledger, verify_run

from ._format import plural
from ._json import encode
from ._ledger_path import LAST, existing_ledger, find_run
from ._output import say
from ._problem import UsageError, complain, one_line

_SQLITE = b"SQLite format 3\x00"
_MAX_FINDINGS = 50
"""Of one run; who wants to know more of so much takes ``--json``."""


def verify_records(what: str | None, *, ledger: str | None, public_key: str | None, as_json: bool) -> int:
    """Check a run, a receipt file, or every run of a ledger.

    Args:
        what: A run, the path of a receipt file or of a ledger; None for the ledger that ``--ledger`` names.
        ledger: What ``--ledger`` names, or None.
        public_key: The file of the key that decides, or None.
        as_json: Whether one JSON object tells everything.

    Returns:
        The exit status: 0 if nothing is wrong, else 1.

    Raises:
        UsageError: If there is no such run, file or key.
        LedgerError: If the ledger cannot be read.
    """
    key = None if public_key is None else _read_key(public_key)
    file = None if what is None else Path(what)
    if file is not None and file.is_file():
        if not _is_ledger(file):
            return _tell([_verify_file(file, key)], (), str(file), as_json=as_json)
        ledger, what = what, None
    elif what not in (None, LAST) and not set(what).issubset(hexdigits):
        # Said before a ledger is looked for, which there need not be where a file is to be verified.
        raise UsageError(f"there is no run {one_line(what)}, and no file of that name")
    path = existing_ledger(ledger)
    with Reading(path) as opened:
        if what is not None:
            row = find_run(opened, what)
            return _tell([verify_run(opened, row.id, key)], (), str(path), as_json=as_json)
        return _tell(verify_ledger(opened, key), find_strays(opened), str(path), as_json=as_json)


def _read_key(file: str) -> bytes:
    try:
        return read_public_key(file)
    except LedgerError as error:
        raise UsageError(f"--public-key: {error}") from error


def _is_ledger(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error


def _verify_file(file: Path, key: bytes | None) -> Verdict:
    try:
        return verify_export(file, key)
    except LedgerError as error:
        raise UsageError(str(error)) from error


def _tell(verdicts: Iterable[Verdict], strays: tuple[Finding, ...], source: str, *, as_json: bool) -> int:
    runs = records = 0
    told: list[dict[str, Any]] = []
    # Of several claims the weakest one is made.
    claim, weakness = "there is no run in it", -1
    for verdict in verdicts:
        runs += 1
        records += verdict.count
        if _weakness(verdict) > weakness:
            claim, weakness = verdict.claim, _weakness(verdict)
        if as_json:
            told.append(_record_of(verdict))
        elif not verdict.is_intact:
            say(f"run {verdict.run}: {plural(verdict.count, 'record')}")
            _list(verdict.findings)
    if strays:
        claim, weakness = "not all of it is what was recorded", 2
    if as_json:
        answer = {
            "source": source,
            "is_intact": weakness < 1,
            "claim": claim,
            "runs": told,
            "findings": _records(strays),
        }
        say(encode(answer))
    else:
        _list(strays)
        say(f"{plural(runs, 'run')}, {plural(records, 'record')}: {claim}")
    if weakness > 0:
        complain(f"{source}: {claim}")
        return 1
    return 0


def _weakness(verdict: Verdict) -> int:
    if verdict.is_intact:
        return 0
    return 2 if any(finding.seq is not None for finding in verdict.findings) else 1


def _list(findings: tuple[Finding, ...]) -> None:
    for finding in findings[:_MAX_FINDINGS]:
        say(f"  {one_line(finding)}")
    if len(findings) > _MAX_FINDINGS:
        say(f"  and {len(findings) - _MAX_FINDINGS:,} more; --json has them all")


def _record_of(verdict: Verdict) -> dict[str, Any]:
    return {
        "run": verdict.run,
        "records": verdict.count,
        "is_intact": verdict.is_intact,
        "signed": verdict.signed,
        "claim": verdict.claim,
        "findings": _records(verdict.findings),
    }


def _records(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    return [
        {"what": finding.what, "seq": finding.seq, "kind": finding.kind, "detail": finding.detail}
        for finding in findings
    ]
