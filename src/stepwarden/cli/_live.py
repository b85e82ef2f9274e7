"""The live view of a run on a terminal: what is open now, and what each scope has spent of its budget."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stepwarden import Receipt, Run, Usage

from ._format import clock, held_of, tokens_of, usd_of
from ._problem import one_line
from ._style import STATUS_STYLES, lay_out, named

if TYPE_CHECKING:
    from stepwarden.core._scope import Scope

_FINISHED_SHOWN = 6
_LINES_AROUND = 4
"""Lines of a terminal that are not for scopes: the head, the run, what is left out, the cursor."""


class LiveTable:
    """Draw the open scopes, below them the run, and above them what has finished last.

    It is gone when the run has ended: the receipts say more.
    """

    def __init__(self, console: Console, run: Run) -> None:
        self._console = console
        self._run = run
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            # What the agent prints appears above the table. Where stdout is no terminal, it is not touched.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def look(self) -> None:
        """Read the run once and draw it."""
        self._live.update(draw(self._run, self._console), refresh=True)


def draw(run: Run, console: Console) -> Table:
    """Make the table of one look at a run.

    Args:
        run: The run.
        console: The terminal, which says how much room there is.
    """
    room = max(3, console.height - _LINES_AROUND)
    finished = run.receipts
    scopes = run.open_scopes
    shown = scopes[:room]
    table = lay_out(
        console,
        ["kind", "name", "status", "model", "time", "tokens", "USD", "held"],
        right=("time", "tokens", "USD", "held"),
        optional=("model",),
    )
    # A list's last 0 are all of it.
    for receipt in finished[len(finished) - min(_FINISHED_SHOWN, room - len(shown), len(finished)) :]:
        _add_finished(table, receipt)
    depths = _depths(shown)
    for scope in shown:
        _add_open(table, scope, depths[scope.id])
    if len(scopes) > len(shown):
        table.add_row("", f"and {len(scopes) - len(shown):,} more")
    _add_open(table, run, 0)
    return table


def _add_finished(table: Table, receipt: Receipt) -> None:
    status = Text(str(receipt.status), STATUS_STYLES[receipt.status])
    _add(table, receipt, depth=0, status=status, seconds=receipt.duration, held=Usage(), style="dim")


def _add_open(table: Table, scope: Scope, depth: int) -> None:
    _add(table, scope, depth=depth, status=Text("open", "cyan"), seconds=scope.elapsed, held=scope.held)


def _add(
    table: Table, of: Receipt | Scope, *, depth: int, status: Text, seconds: float, held: Usage, style: str = ""
) -> None:
    cells = {
        "kind": Text(of.kind),
        "name": named("  " * depth + one_line(of.name)),
        "status": status,
        "model": named(one_line(of.model or "")),
        "time": Text(clock(seconds)),
        "tokens": Text(tokens_of(of.total, of.budget)),
        "USD": Text(usd_of(of.total, of.budget)),
        "held": Text(held_of(held)),
    }
    table.add_row(*(cells[str(column.header)] for column in table.columns), style=style)


def _depths(scopes: Sequence[Scope]) -> dict[str, int]:
    # Outermost first, so a parent's depth is known before its children's; the run itself is no row above them.
    depths: dict[str, int] = {}
    for scope in scopes:
        around = "" if scope.parent is None else scope.parent.id
        depths[scope.id] = depths[around] + 1 if around in depths else 0
    return depths
