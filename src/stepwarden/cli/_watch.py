"""Watching a run while it goes on, from a thread that can neither hurt the agent nor slow it down."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console

import stepwarden as sw

from ._lines import Lines
from ._live import LiveTable

INTERVAL = 0.125
"""Seconds between two looks."""

_REST_PER_LOOK = 20
"""A look that took long is followed by a rest this many times as long, so that looking costs a twentieth at most."""

_PATIENCE = 2.0
"""How long a terminal that takes no output may delay the beginning and the end of a run, in seconds."""

View = AbstractContextManager[LiveTable | Lines]


def watch(console: Console, run: sw.Run) -> AbstractContextManager[None]:
    """Show a run while a ``with`` block goes on: as a live table on a terminal, elsewhere as plain lines.

    Args:
        console: Where it is shown.
        run: The run, which is only read.
    """
    return _watching(LiveTable(console, run) if console.is_interactive else Lines(console, run))


@contextmanager
def _watching(view: View) -> Iterator[None]:
    is_shown, ended = threading.Event(), threading.Event()
    # A daemon: a terminal that blocks for ever must not keep the process alive.
    watcher = threading.Thread(target=_look_on, args=(view, is_shown, ended), name="stepwarden-watch", daemon=True)
    watcher.start()
    # What the agent prints first must already go above the live table.
    is_shown.wait(_PATIENCE)
    try:
        yield
    finally:
        ended.set()
        watcher.join(_PATIENCE)


def _look_on(view: View, is_shown: threading.Event, ended: threading.Event) -> None:
    # Opened and closed in here too, so that no failure of a terminal ever reaches the agent's thread.
    try:
        with view as shown:
            while True:
                is_last = ended.is_set()
                begun = time.perf_counter()
                shown.look()
                if is_last:
                    return
                is_shown.set()
                ended.wait(max(INTERVAL, _REST_PER_LOOK * (time.perf_counter() - begun)))
    except Exception:  # noqa: BLE001 - a view that fails ends; the agent goes on, and its receipts tell what happened
        return
    finally:
        is_shown.set()
