"""`stepwarden receipts`: list what steps and personas have left, the newest first."""

from datetime import timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwarden.ledger._rows import ReceiptFilter, ReceiptRow

from ._choice import choose
from ._format import clock, plural, usd
from ._json import encode
from ._ledger_path import reading, short
from ._output import say
from ._problem import UsageError, one_line
from ._screen import screen, show
from ._style import STATUS_STYLES, is_narrow, lay_out, named
from ._when import minute

_COLUMNS = ("ended (UTC)", "run", "persona", "name", "status", "model", "tokens", "USD", "budget", "time")
_RIGHT = ("tokens", "USD", "budget", "time")


def list_receipts(*, ledger: str | None, limit: int, as_json: bool, **options: str | None) -> int:
    """List receipts.

    Args:
        ledger: What ``--ledger`` names, or None.
        limit: The most of them.
        as_json: Whether one JSON object has them all, whole.
        options: What they are chosen by, as in `choose`.

    Returns:
        The exit status.

    Raises:
        UsageError: If an option cannot be read.
        LedgerError: If the ledger cannot be read.
    """
    if limit < 1:
        raise UsageError(f"--limit must be a number of receipts >= 1, not {limit}")
    with reading(ledger) as opened:
        chosen = choose(opened, **options)
        found = opened.receipts(chosen, limit=limit + 1)
    rows, has_more = found[:limit], len(found) > limit
    if as_json:
        say(encode({"receipts": [_record_of(row) for row in rows], "has_more": has_more}))
        return 0
    console = screen(stderr=False)
    if not rows:
        show(console, Text("no receipts" if chosen == ReceiptFilter() else "no receipts like these"))
        return 0
    show(console, _table(console, rows))
    if has_more:
        show(console, Text(f"the newest {plural(limit, 'receipt')}; --limit shows more", "dim"))
    return 0


def _table(console: Console, rows: tuple[ReceiptRow, ...]) -> Table:
    table = lay_out(console, _COLUMNS, right=_RIGHT, optional=("model", "budget"))
    with_year = not is_narrow(console)
    for row in rows:
        receipt = row.receipt
        ended_at = receipt.started_at + timedelta(seconds=receipt.duration)
        cells = {
            "ended (UTC)": Text(minute(ended_at, with_year=with_year)),
            "run": Text(short(receipt.run_id)),
            "persona": named(one_line(receipt.persona or "")),
            "name": named(one_line(receipt.name), "bold" if receipt.kind == "persona" else ""),
            "status": Text(str(receipt.status), STATUS_STYLES[receipt.status]),
            "model": named(one_line(receipt.model or "")),
            "tokens": Text(f"{receipt.total.total_tokens:,}" if receipt.total.total_tokens else ""),
            "USD": Text(usd(receipt.total.cost_usd) if receipt.total.cost_usd else ""),
            "budget": Text("" if row.pressure is None else f"{min(row.pressure, 9.99):.0%}"),
            "time": Text(clock(receipt.duration)),
        }
        table.add_row(*(cells[str(column.header)] for column in table.columns))
    return table


def _record_of(row: ReceiptRow) -> dict[str, object]:
    return {"seq": row.seq, "pressure": row.pressure, "ran_out": row.ran_out, "receipt": row.receipt}
