"""The consoles: where tables go, and how wide they are."""

import os

from rich.console import Console, RenderableType

from ._output import escaped

_WIDTH_WITHOUT_TERMINAL = 100
"""Characters; the full table fits into it."""


class _Screen(Console):
    """Write until nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Go quiet; rich would close stdout and end the process, and with it the agent."""
        self.quiet = True


def screen(*, stderr: bool) -> Console:
    """Make the console for stderr or stdout.

    Args:
        stderr: Whether it writes on stderr.
    """
    console = _Screen(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_WITHOUT_TERMINAL
    return console


def show(console: Console, what: RenderableType) -> None:
    """Show a table or a text, with escapes for what the encoding lacks; in a file without blanks at the ends of lines.

    Args:
        console: Where; one on stderr that has gone away is no error, since the exit status still tells.
        what: The table, or anything that rich can draw.

    Raises:
        OSError: If it was to go to stdout, and cannot: then what was asked for is lost.
    """
    try:
        if console.is_terminal and console.encoding == "utf-8":
            console.print(what)
            return
        with console.capture() as captured:
            console.print(what)
        for line in captured.get().splitlines():
            console.out(escaped(line.rstrip(), console.encoding), highlight=False)
    except OSError:
        if not console.stderr:
            raise
