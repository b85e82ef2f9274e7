"""The receipts of a run as a table, with what it spent in all."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwarden import Receipt, Run

from ._format import clock, share, usd
from ._outcome import Ending
from ._problem import one_line
from ._style import STATUS_STYLES, is_narrow, lay_out, named

_MAX_ROWS = 200

_COLUMNS = ("kind", "name", "status", "model", "calls", "in", "out", "USD", "budget", "time")

_ENDING_STYLES = {Ending.DONE: "green", Ending.CANCELLED: "dim"}


def receipts_table(console: Console, run: Run, ending: Ending) -> Table:
    """Make the table: a row for each receipt, in the order and under the scope in which it was opened, then the run.

    A row counts what was spent in the scope and under it, as its budget does.

    Args:
        console: Where it will be shown.
        run: The run, which has ended.
        ending: How it ended.
    """
    table = lay_out(
        console,
        _COLUMNS,
        right=("calls", "in", "out", "USD", "budget", "time"),
        optional=("model",),
        gap=1 if is_narrow(console) else 2,
    )
    receipts = run.receipts[-_MAX_ROWS:]
    left_out = run.receipts_dropped + len(run.receipts) - len(receipts)
    if left_out:
        table.add_row("", Text(f"({left_out:,} earlier ones)", "dim"))
    for receipt, depth in as_tree(receipts):
        _add(
            table,
            {
                "kind": Text(receipt.kind),
                "name": named("  " * depth + one_line(receipt.name), "bold" if receipt.kind == "persona" else ""),
                "status": Text(str(receipt.status), STATUS_STYLES[receipt.status]),
                "model": named(one_line(receipt.model or "")),
                **_numbers(console, receipt),
            },
        )
    table.add_section()
    _add(
        table,
        {
            "kind": Text("run"),
            "name": named(one_line(run.name)),
            "status": Text(ending.replace("_", " "), _ENDING_STYLES.get(ending, "bold red")),
            "model": Text(),
            **_numbers(console, run),
        },
        style="bold",
    )
    return table


def _add(table: Table, cells: dict[str, Text], style: str = "") -> None:
    table.add_row(*(cells[str(column.header)] for column in table.columns), style=style)


def _numbers(console: Console, of: Receipt | Run) -> dict[str, Text]:
    spent = of.total
    seconds = of.duration if isinstance(of, Receipt) else of.elapsed
    part, limit = share(spent, of.budget, seconds)
    return {
        "calls": Text(f"{spent.calls:,}" if spent.calls else ""),
        "in": Text(f"{spent.input_tokens:,}" if spent.calls else ""),
        "out": Text(f"{spent.output_tokens:,}" if spent.calls else ""),
        "USD": Text(usd(spent.cost_usd) if spent.calls else ""),
        "budget": Text(part if is_narrow(console) else f"{part} {limit}".strip()),
        "time": Text(clock(seconds)),
    }


def as_tree(receipts: Sequence[Receipt]) -> list[tuple[Receipt, int]]:
    """Sort receipts from outside to inside, each under its parent, with its depth.

    The log has them in the order in which they ended. Where parallel scopes were opened by turns, their children
    are brought together here.
    """
    known = {receipt.step_id for receipt in receipts}
    children: dict[str | None, list[Receipt]] = {}
    for receipt in sorted(receipts, key=_serial):
        parent = receipt.parent_id if receipt.parent_id in known else None
        children.setdefault(parent, []).append(receipt)
    sorted_out: list[tuple[Receipt, int]] = []
    # A stack of our own: an agent may nest deeper than the interpreter does.
    waiting = [(receipt, 0) for receipt in reversed(children.get(None, ()))]
    while waiting:
        receipt, depth = waiting.pop()
        sorted_out.append((receipt, depth))
        waiting.extend((child, depth + 1) for child in reversed(children.get(receipt.step_id, ())))
    return sorted_out


def _serial(receipt: Receipt) -> int:
    # The last part of an id counts the scopes of a tree in the order in which they were opened.
    return int(receipt.step_id.rpartition(".")[2])
