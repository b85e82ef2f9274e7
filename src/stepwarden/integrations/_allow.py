"""`allow=`: what costs money, is not covered by a guard, and goes by all the same."""

from __future__ import annotations

from collections.abc import Iterable

from stepwarden.core.errors import DefinitionError


def parse_allow(allow: Iterable[str], known: frozenset[str]) -> frozenset[str]:
    """Read what a guard is to let by.

    Args:
        allow: Names of endpoints.
        known: The names that there are.

    Raises:
        DefinitionError: If it is no iterable of such names.
    """
    if isinstance(allow, str):
        raise DefinitionError(f"allow must be a list of endpoints, not the text {allow!r}; give [{allow!r}]")
    try:
        names = frozenset(allow)
    except TypeError:
        raise DefinitionError(f"allow must be a list of endpoints' names, not {allow!r}") from None
    for name in sorted(names - known, key=repr)[:1]:
        there = ", ".join(sorted(known)) or "none, since nothing here is sent"
        raise DefinitionError(f"allow: {name!r} is not an endpoint that a guard can let through; known: {there}")
    return names
