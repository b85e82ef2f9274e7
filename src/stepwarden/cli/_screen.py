"""The consoles: where tables go, and how wide they are."""

import os

from rich.console import Console

_WIDTH_WITHOUT_TERMINAL = 100
"""Characters; the full table fits into it."""


def screen(*, stderr: bool) -> Console:
    """Make the console for stderr or stdout.

    Args:
        stderr: Whether it writes on stderr.
    """
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_WITHOUT_TERMINAL
    return console
