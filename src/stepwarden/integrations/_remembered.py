"""What is remembered of calls that are over, for those that refer to them; the oldest is forgotten first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")

_MOST = 10_000


class Remembered(Generic[V]):
    """Remember a bounded number of values by their ids."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, V] = OrderedDict()
        # Re-entrant: a stream that is collected meanwhile settles its call on the same thread.
        self._lock = threading.RLock()

    def put(self, key: str, value: V) -> None:
        """Remember a value as the newest."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > _MOST:
                self._values.popitem(last=False)

    def get(self, key: str) -> V | None:
        """Return a value, or None where it is not known."""
        return self._values.get(key)

    def pop(self, key: str) -> V | None:
        """Return a value and forget it."""
        with self._lock:
            return self._values.pop(key, None)
