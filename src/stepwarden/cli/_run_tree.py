"""A recorded run as a tree: each scope with what it spent itself and in all, and under it its calls and tools."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwarden import CallRecord, Receipt, ToolRecord, Usage

from ._format import clock, share, usd
from ._problem import one_line
from ._style import STATUS_STYLES, is_narrow, lay_out, named
from ._table import as_tree

_COLUMNS = ("name", "status", "calls", "own", "USD", "total", "USD ", "budget", "time")
_RIGHT = ("calls", "own", "USD", "total", "USD ", "budget", "time")
_MAX_LEAVES = 20
"""Calls, and tools, that are shown of one scope; the newest are there, and ``--json`` has them all."""

_OUTCOMES = {"uncertain": "yellow", "failed": "bold red", "denied": "red", "refused": "red", "cancelled": "dim"}


def run_tree(console: Console, receipts: Sequence[Receipt]) -> Table:
    """Make the table.

    Args:
        console: Where it will be shown.
        receipts: What the scopes of the run have left, in the order in which they did.
    """
    table = lay_out(console, _COLUMNS, right=_RIGHT, optional=("budget",), gap=1 if is_narrow(console) else 2)
    for receipt, depth in as_tree(receipts):
        name = Text("  " * depth, no_wrap=True, overflow="ellipsis")
        name.append(one_line(receipt.name), "bold" if receipt.kind == "persona" else "")
        own, total = receipt.own, receipt.total
        part, limit = share(total, receipt.budget, receipt.duration)
        _add(
            table,
            {
                "name": name,
                "status": Text(str(receipt.status), STATUS_STYLES[receipt.status]),
                "calls": Text(f"{total.calls:,}" if total.calls else ""),
                "own": Text(f"{own.total_tokens:,}" if own.total_tokens else ""),
                "USD": Text(usd(own.cost_usd) if own.cost_usd else ""),
                "total": Text(f"{total.total_tokens:,}" if total.total_tokens else ""),
                "USD ": Text(usd(total.cost_usd) if total.cost_usd else ""),
                "budget": Text(f"{part} {limit}".strip()),
                "time": Text(clock(receipt.duration)),
            },
        )
        _add_leaves(table, receipt, "  " * (depth + 1))
    return table


def _add_leaves(table: Table, receipt: Receipt, indent: str) -> None:
    calls, tools = receipt.calls[-_MAX_LEAVES:], receipt.tools[-_MAX_LEAVES:]
    more = len(receipt.calls) - len(calls) + len(receipt.tools) - len(tools)
    if more:
        _add(table, {"name": named(f"{indent}({more:,} earlier calls)", "dim")})
    for call in calls:
        _add(table, _call_cells(call, indent))
    for tool in tools:
        _add(table, _tool_cells(tool, indent))


def _call_cells(call: CallRecord, indent: str) -> dict[str, Text]:
    spent = Usage(input_tokens=call.input_tokens, output_tokens=call.output_tokens, cost_usd=call.cost_usd)
    return {
        "name": named(f"{indent}· {one_line(call.model or 'a call')}", "dim"),
        "status": Text("clamped" if call.clamped else call.outcome, _OUTCOMES.get(call.outcome, "dim")),
        "own": Text(f"{spent.total_tokens:,}" if spent.total_tokens else "", "dim"),
        "USD": Text(usd(spent.cost_usd) if spent.cost_usd else "", "dim"),
    }


def _tool_cells(tool: ToolRecord, indent: str) -> dict[str, Text]:
    return {
        "name": named(f"{indent}· tool {one_line(tool.name)}", "dim"),
        "status": Text(tool.outcome, _OUTCOMES.get(tool.outcome, "dim")),
    }


def _add(table: Table, cells: dict[str, Text]) -> None:
    table.add_row(*(cells.get(str(column.header), Text()) for column in table.columns))
