"""What the tables have in common: the colours of the statuses, and columns that fit the terminal."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwarden import Status

STATUS_STYLES = {
    Status.COMPLETED: "green",
    Status.FAILED: "bold red",
    Status.SKIPPED: "yellow",
    Status.ESCALATED: "magenta",
    Status.DENIED: "red",
    Status.CANCELLED: "dim",
    Status.ABANDONED: "dim red",
}

_NAMED = frozenset({"name", "model", "persona", "step", "what"})
_NARROW = 96
"""Characters; below this the optional columns are left out."""


def is_narrow(console: Console) -> bool:
    """Tell whether a console is too narrow for every column."""
    return console.width < _NARROW


def lay_out(
    console: Console,
    columns: Sequence[str],
    *,
    right: Collection[str] = (),
    optional: Collection[str] = (),
    gap: int = 1,
) -> Table:
    """Make an empty table without lines, that puts no row on two lines.

    Args:
        console: Where it will be shown.
        columns: The heads.
        right: Which of them stand on the right: numbers.
        optional: Which of them a narrow console goes without.
        gap: Characters between two columns.
    """
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        if name not in optional or not is_narrow(console):
            # Where there is no room, rich shortens the columns that may wrap: what people named, and no number.
            table.add_column(name, justify="right" if name in right else "left", no_wrap=name not in _NAMED)
    return table


def named(text: str, style: str = "") -> Text:
    """Make a cell of a column that is shortened where there is no room."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")
