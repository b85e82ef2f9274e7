"""Server-sent events, taken off the wire as they come and put back together byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

_BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")


class EventReader:
    """Show a stream of events to its caller as it came, but for those that the caller is not to see.

    Args:
        take: Called with each event whose data is a JSON object; returns whether it is shown.
    """

    def __init__(self, take: Callable[[dict[str, Any]], bool]) -> None:
        self._take = take
        self._pending = b""
        self.is_done = False
        """Whether the event has come that says that no other does."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes off the wire; return those of whole events that the caller is shown."""
        *events, self._pending = _split(self._pending + data)
        return b"".join(event for event in events if self._is_shown(event))

    def end(self) -> bytes:
        """Return what is left to be shown: an event without an end."""
        left, self._pending = self._pending, b""
        return left if left and self._is_shown(left) else b""

    def _is_shown(self, event: bytes) -> bool:
        data = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        if not data.startswith(b"{"):
            self.is_done = self.is_done or data == b"[DONE]"
            return True
        try:
            return self._take(json.loads(data))
        except ValueError:
            return True  # the SDK meets it too, and says what is wrong with it


def _split(data: bytes) -> list[bytes]:
    # An event ends with an empty line; every end of line occurs.
    events: list[bytes] = []
    start = at = 0
    while True:
        ends = [end for end in (data.find(blank, at) for blank in _BLANK_LINES) if end >= 0]
        if not ends:
            return [*events, data[start:]]
        at = min(ends)
        at += 4 if data[at : at + 2] == b"\r\n" else 2
        events.append(data[start:at])
        start = at
