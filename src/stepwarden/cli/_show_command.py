"""`stepwarden show`: one run, as the tree of what happened in it."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from stepwarden import Receipt
from stepwarden.ledger._reading import Reading
from stepwarden.ledger._receipt_record import usage_of
from stepwarden.ledger._record import decode, receipt_from
from stepwarden.ledger._rows import ReceiptFilter, RunRow

from ._format import clock, plural, usd
from ._json import encode
from ._ledger_path import find_run, reading, short
from ._notes import Note, amounts_apart, lay_out_notes, notes_of
from ._output import say
from ._problem import UsageError, one_line
from ._run_tree import run_tree
from ._screen import screen, show
from ._style import STATUS_STYLES
from ._when import second

_MOST_LATE = 1_000
"""How many records may follow a run's end before it is no longer looked for."""


def show_run(wanted: str, *, ledger: str | None, limit: int, as_json: bool) -> int:
    """Show a run.

    Args:
        wanted: The run.
        ledger: What ``--ledger`` names, or None.
        limit: The most receipts, the newest.
        as_json: Whether one JSON object has everything.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no such run.
        LedgerError: If the ledger cannot be read.
    """
    if limit < 1:
        raise UsageError(f"--limit must be a number of receipts >= 1, not {limit}")
    with reading(ledger) as opened, opened.snapshot():
        row = find_run(opened, wanted)
        receipts, left_out = _newest(opened, row, limit)
        children = opened.children(row.id)
        started, ended = _first_and_last(opened, row.id)
    if as_json:
        run = {"budget": started.get("budget", {}), "uncertain": ended.get("uncertain", {})}
        answer = {"run": _record_of(row) | run, "receipts": receipts, "left_out": left_out, "inside": children}
        say(encode(answer))
        return 0
    console = screen(stderr=False)
    _show_head(console, row, started)
    if left_out:
        show(console, Text(f"({plural(left_out, 'earlier receipt')} left out; --limit shows more)", "dim"))
    if receipts:
        show(console, "")
        show(console, run_tree(console, receipts))
    for child in children:
        show(console, Text(f"inside it: run {short(child.id)} ({one_line(child.name)}), {_ending(child)}"))
    notes = [*notes_of(receipts), *_notes_of_run(row, ended)]
    if notes:
        show(console, "")
        show(console, lay_out_notes(notes))
    return 0


def _newest(opened: Reading, row: RunRow, limit: int) -> tuple[Sequence[Receipt], int]:
    """Return the newest receipts of a run, in the order in which they were left, and how many more there are."""
    if row.ended_at is not None:
        found = opened.receipts(ReceiptFilter(run=row.id), limit=limit)
        return [one.receipt for one in reversed(found)], row.receipts - len(found)
    # While it goes on, the lists may not have the newest yet; its records do.
    kept: deque[Mapping[str, Any]] = deque(maxlen=limit)
    count = 0
    for _, data, _ in opened.records(row.id):
        record = decode(data)
        if record["kind"] == "receipt":
            kept.append(record)
            count += 1
    return [receipt_from(record) for record in kept], count - len(kept)


def _first_and_last(opened: Reading, run: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the records of a run's beginning and of its end; of an end that is not there yet, nothing."""
    first = decode(next(opened.records(run)).data)
    last = (decode(record.data) for record in opened.last_records(run, _MOST_LATE))
    return first, next((record for record in last if record["kind"] == "run_ended"), {})


def _show_head(console: Console, row: RunRow, started: Mapping[str, Any]) -> None:
    style = "" if row.status is None else STATUS_STYLES[row.status]
    show(console, Text.assemble("run ", (one_line(row.name), "bold"), f" {row.id}"))
    parts = [Text(str(row.status or "still open"), style), Text(second(row.started_at))]
    if row.ended_at is not None:
        parts.append(Text(clock((row.ended_at - row.started_at).total_seconds())))
    if row.tenant is not None:
        parts.append(Text(f"tenant {one_line(row.tenant)}"))
    if row.parent is not None:
        parts.append(Text(f"inside run {short(row.parent)}"))
    parts.append(Text("signed" if row.signature else "not signed"))
    show(console, Text(", ").join(parts))
    if row.ended_at is not None:
        spent = row.total
        tokens = f"{spent.total_tokens:,} tokens ({spent.input_tokens:,} in, {spent.output_tokens:,} out)"
        show(console, f"spent {plural(spent.calls, 'call')}, {tokens}, {usd(spent.cost_usd)}")
    if started.get("budget"):
        limits = ", ".join(f"{name} {limit}" for name, limit in started["budget"].items())
        show(console, f"limits {limits}")


def _ending(row: RunRow) -> str:
    if row.ended_at is None:
        return "still open"
    return f"{row.status}, {row.total.total_tokens:,} tokens, {usd(row.total.cost_usd)}"


def _notes_of_run(row: RunRow, ended: Mapping[str, Any]) -> list[Note]:
    over, uncertain = (usage_of(ended.get(name, {})) for name in ("overshoot", "uncertain"))
    return [Note(row.name, text, "bold") for text in amounts_apart(over, uncertain)]


def _record_of(row: RunRow) -> dict[str, Any]:
    names = ("id", "name", "parent", "tenant", "started_at", "ended_at", "status", "total", "receipts", "signature")
    return {name: getattr(row, name) for name in names}
