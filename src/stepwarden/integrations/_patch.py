"""Changing one attribute of a class, and changing it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT: Any = object()


class Patch:
    """Put something around a method of a class, for the whole process.

    Args:
        owner: The class.
        name: The method's name; the class may have inherited it.
        around: Makes what is put in of what was there.
    """

    def __init__(self, owner: type, name: str, around: Callable[[Any], Any]) -> None:
        self._owner = owner
        self._name = name
        self._own = vars(owner).get(name, _ABSENT)
        self._ours = around(getattr(owner, name))
        setattr(owner, name, self._ours)

    def take_back(self) -> None:
        """Give the class back what it had, unless somebody else has changed it since."""
        if vars(self._owner).get(self._name) is not self._ours:
            return
        if self._own is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)
