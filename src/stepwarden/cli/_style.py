"""What the tables have in common: the colours of the statuses, and columns that fit the terminal."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

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

_NARROW = 96
"""Characters; below this the optional columns are left out."""


def is_narrow(console: Console) -> bool:
    """Tell whether a console is too narrow for every column."""
    return console.width < _NARROW


def lay_out(
    console: Console, columns: Sequence[str], *, right: Collection[str] = (), optional: Collection[str] = ()
) -> Table:
    """Make an empty table without lines, that puts no row on two lines.

    Args:
        console: Where it will be shown.
        columns: The heads.
        right: Which of them stand on the right: numbers.
        optional: Which of them a narrow console goes without.
    """
    gap = 1 if is_narrow(console) else 2
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        if name in optional and is_narrow(console):
            continue
        # What people named themselves may be cut, numbers never.
        is_name = name in {"name", "model"}
        table.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="ellipsis",
            no_wrap=True,
            max_width=30 if is_name else None,
            min_width=8 if is_name else None,
        )
    return table
