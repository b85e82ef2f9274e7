"""`stepwarden stats`: how activations went, and where budgets are set too tight or too loose."""

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwarden.ledger._rows import StatsRow

from ._choice import choose
from ._format import usd
from ._json import encode
from ._ledger_path import reading
from ._output import say
from ._problem import one_line
from ._screen import screen, show
from ._style import lay_out, named

GROUPINGS = ("persona", "step", "model", "day")
_WITH_BUDGETS = ("persona", "step")
_MAX_ROWS = 30

_TIGHT_SHARE = 0.05
"""The share of activations that ran out from which a budget is too tight."""

_LOOSE_PRESSURE = 0.25
"""What all but a twentieth keep below: then the tightest limit could be a quarter of what it is."""

_ENOUGH = 20
"""Activations; fewer tell nothing of what is usual."""

_RIGHT = ("runs", "times", "ran out", "USD p50", "p95", "tokens p50", "p95 ", "budget p95")


def show_stats(*, by: str | None, ledger: str | None, as_json: bool, **options: str | None) -> int:
    """Show statistics.

    Args:
        by: One of `GROUPINGS`; None for each of them.
        ledger: What ``--ledger`` names, or None.
        as_json: Whether one JSON object has every number.
        options: Which receipts count, as in `choose`.

    Returns:
        The exit status.

    Raises:
        UsageError: If an option cannot be read.
        LedgerError: If the ledger cannot be read.
    """
    groupings = GROUPINGS if by is None else (by,)
    with reading(ledger) as opened:
        chosen = choose(opened, **options)
        found = {grouping: opened.stats(grouping, chosen) for grouping in groupings}
    if as_json:
        tables = {
            grouping: [_record_of(row, with_budget=grouping in _WITH_BUDGETS) for row in rows]
            for grouping, rows in found.items()
        }
        say(encode(tables))
        return 0
    console = screen(stderr=False)
    for place, (grouping, rows) in enumerate(found.items()):
        if place:
            show(console, "")
        show(console, _table(console, grouping, rows))
        if len(rows) > _MAX_ROWS:
            show(console, Text(f"and {len(rows) - _MAX_ROWS:,} more; --json has them all", "dim"))
    if any(judge(row) for grouping in _WITH_BUDGETS for row in found.get(grouping, ())):
        show(console, "")
        show(
            console,
            Text("tight: at least 5% ran out; loose: 95% used at most a quarter of their tightest limit", "dim"),
        )
    return 0


def judge(row: StatsRow) -> str:
    """Tell whether budgets are ``"tight"`` or ``"loose"``; empty where they fit, or too little is known."""
    if row.activations < _ENOUGH or row.pressure is None:
        return ""
    if row.ran_out >= _TIGHT_SHARE:
        return "tight"
    return "loose" if row.pressure.p95 <= _LOOSE_PRESSURE else ""


def _table(console: Console, grouping: str, rows: Sequence[StatsRow]) -> Table:
    # A budget belongs to a persona or a step; across all that a model or a day has seen it tells nothing.
    columns = (*_RIGHT, " ") if grouping in _WITH_BUDGETS else _RIGHT[:-1]
    table = lay_out(console, (grouping, *columns), right=_RIGHT, optional=("runs",))
    for row in rows[:_MAX_ROWS]:
        pressure, verdict = row.pressure, judge(row)
        cells: dict[str, Text | str] = {
            grouping: named(one_line(row.key or "(none)")),
            "runs": f"{row.runs:,}",
            "times": f"{row.activations:,}",
            "ran out": f"{row.ran_out:.0%}" if row.ran_out else "",
            "USD p50": usd(row.cost_usd.p50),
            "p95": usd(row.cost_usd.p95),
            "tokens p50": f"{row.tokens.p50:,}",
            "p95 ": f"{row.tokens.p95:,}",
            "budget p95": "" if pressure is None else f"{min(pressure.p95, 9.99):.0%}",
            " ": Text(verdict, "bold red" if verdict == "tight" else "yellow"),
        }
        table.add_row(*(cells[str(column.header)] for column in table.columns))
    if not rows:
        table.add_row(Text("nothing yet", "dim"))
    return table


def _record_of(row: StatsRow, *, with_budget: bool) -> dict[str, object]:
    return {**asdict(row), "budget": judge(row) or None if with_budget else None}
