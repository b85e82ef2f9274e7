"""What the demo says before and after: what to look for, and how it showed."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwarden import Receipt, Status
from stepwarden.demo import MODEL, DemoOutcome

from ._problem import one_line
from ._style import STATUS_STYLES

_OPENING = {
    "skipped": "find_title may make one call and needs two: its fallback goes on",
    "escalated": "review could cost more than it may: nothing is sent, and whoever called decides",
    "denied": "use_tool may only read, so it cannot write a file; publish waits for a person",
    "shared": "two opinions at the same time, out of one budget: the second waits for the first",
}
_STYLES = {str(status): style for status, style in STATUS_STYLES.items()} | {"shared": "cyan", "adds up": "green"}


def show_opening(console: Console, path: str | None) -> None:
    """Say what the reader is going to see.

    Args:
        console: Where.
        path: The file that was named, or None.
    """
    source = "this project's README" if path is None else one_line(Path(path).name)
    console.print(
        Text.assemble(
            "An agent reads ", (source, "bold"), ". Each of its steps runs inside a contract of its own. The model is ",
            (MODEL, "bold"), ",\nin this process: no key, no network. Its price is made up, to have dollars to count. "
            "Look for:",
        )
    )  # fmt: skip
    console.print()
    _show(console, _OPENING.items())
    console.print()


def show_ending(console: Console, demo: DemoOutcome) -> None:
    """Say how what was promised has shown, out of the receipts.

    Args:
        console: Where.
        demo: What the demo has left.
    """
    console.print()
    _show(console, _findings(demo))


def _show(console: Console, lines: object) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for word, text in lines:
        table.add_row(Text(word, _STYLES[word]), Text(text))
    console.print(table)


def _findings(demo: DemoOutcome) -> Iterator[tuple[str, str]]:
    receipts = demo.run.receipts
    yield "x", str(receipts)
