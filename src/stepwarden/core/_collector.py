"""Whether the garbage collector is at work on this thread, where CPython lets it run in the middle of anything."""

from __future__ import annotations

import gc
import sys
from threading import get_ident
from typing import Any


class _Collector:
    """Know the thread whose allocation started the collection under way, or None."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread: int | None = None

    def note(self, phase: str, info: dict[str, Any]) -> None:  # noqa: ARG002 - the collector's signature
        """Be told by the collector that it starts or stops."""
        self.thread = get_ident() if phase == "start" else None


_collector = _Collector()
# From 3.12 on, it waits until no C function is under way.
if sys.version_info < (3, 12):  # pragma: no branch - a version decides
    gc.callbacks.append(_collector.note)


def is_collecting() -> bool:
    """Tell whether what runs now may be a finaliser.

    Then it must set no context variable of the context that it finds: the collector may have interrupted the setting
    of another one there, and CPython 3.11 would go on with memory that is no longer its own.
    """
    return _collector.thread == get_ident()
