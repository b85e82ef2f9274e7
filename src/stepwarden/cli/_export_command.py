"""`stepwarden receipts export`: write a run's records to a file that anybody can verify."""

import os
import sys
from pathlib import Path

from stepwarden.ledger._export import write_export

from ._format import plural
from ._json import encode
from ._ledger_path import find_run, reading
from ._output import say
from ._problem import UsageError


def export_run(wanted: str, out: str | None, *, ledger: str | None, as_json: bool) -> int:
    """Write a receipt file.

    Args:
        wanted: The run.
        out: The file; None for stdout.
        ledger: What ``--ledger`` names, or None.
        as_json: Whether one JSON object tells what was written; the file itself is the same.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no such run, or the file exists or cannot be written.
        LedgerError: If the ledger cannot be read.
    """
    if out is None and as_json:
        raise UsageError("--json tells what was written to a file: name one with --out")
    with reading(ledger) as opened, opened.snapshot():
        row = find_run(opened, wanted)
        end = opened.end(row.id)
        rows = ((data, head) for _, data, head in opened.records(row.id))
        if out is None:
            write_export(sys.stdout.buffer, row.id, rows, end)
            return 0
        file = Path(out)
        try:
            with file.open("xb") as writing:
                write_export(writing, row.id, rows, end)
                writing.flush()
                os.fsync(writing.fileno())
        except FileExistsError:
            raise UsageError(f"{file} already exists and is not overwritten; choose another file") from None
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    if as_json:
        say(encode({"run": row.id, "file": out, "records": end.count, "signed": end.signed is not None}))
        return 0
    signed = "signed" if end.signed is not None else "not signed: only its integrity can be checked"
    say(f"{file}: run {row.id}, {plural(end.count, 'record')}, {signed}")
    return 0
