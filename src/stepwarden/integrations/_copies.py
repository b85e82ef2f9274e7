"""What is made of each model or tool once, because making it costs more than using it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

REMEMBERED = 256
"""How many are kept; more is an application that makes one for each request."""


class Copies(Generic[K, V]):
    """Keep what was made of each object that came by.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[K], V]) -> None:
        self._make = make
        # The objects themselves are kept beside, so that their ids stay their own.
        self._made: dict[int, tuple[K, object, V]] = {}

    def of(self, original: K, state: object = None) -> V:
        """Return what was made of an object, made now if it is new, or its *state* is another than it was then."""
        known = self._made.get(id(original))
        if known is None or known[1] is not state:
            if len(self._made) >= REMEMBERED:
                self._made.clear()
            self._made[id(original)] = known = (original, state, self._make(original))
        return known[2]
