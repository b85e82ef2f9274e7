"""What a scope may do: tools and side effects, in a type that can only narrow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from .errors import DefinitionError


class SideEffect(IntEnum):
    """Order what a tool may do to the world, from nothing to the network; each level includes those before it.

    Attributes:
        NONE: It only computes.
        READ_ONLY: It reads files or other state.
        WORKSPACE_WRITE: It writes files in the workspace.
        PROCESS_EXEC: It starts programs.
        NETWORK: It talks to other machines.
    """

    NONE = 0
    READ_ONLY = 1
    WORKSPACE_WRITE = 2
    PROCESS_EXEC = 3
    NETWORK = 4


SideEffectLike = SideEffect | str
_BY_NAME = {level.name.lower(): level for level in SideEffect}


def parse_side_effect(value: object, field: str) -> SideEffect:
    """Read a side-effect level.

    Args:
        value: A `SideEffect`, or its name in lower case.
        field: The name that an error message uses for it.

    Raises:
        DefinitionError: If it is neither.
    """
    if isinstance(value, SideEffect):
        return value
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]
    raise DefinitionError(f"{field} must be one of {', '.join(_BY_NAME)}, not {value!r}")


def parse_ceiling(value: object, field: str) -> SideEffect | None:
    """Read a side-effect ceiling: None for none, else as `parse_side_effect`."""
    return None if value is None else parse_side_effect(value, field)


def parse_tools(value: object, field: str) -> frozenset[str] | None:
    """Read a tool ceiling: None for none, else names and ``prefix*`` patterns.

    Args:
        value: None, or an iterable of strings (a list, tuple, set or frozenset).
        field: The name that an error message uses for it.

    Raises:
        DefinitionError: If it is anything else, or a name is empty or has a ``*`` before its end.
    """
    if value is None:
        return None
    if not isinstance(value, list | tuple | set | frozenset):
        raise DefinitionError(f"{field} must be a list of tool names, not {value!r}")
    for name in value:
        if not isinstance(name, str):
            raise DefinitionError(f"{field} must be a list of strings, and has {name!r}")
        if not name.strip() or "*" in name[:-1]:
            raise DefinitionError(f"{field} has {name!r}; a tool is a name or a `prefix*` pattern")
    return _without_redundant(value)


def _without_redundant(tools: Iterable[str]) -> frozenset[str]:
    # One form for each set of allowed names, so that equal ceilings compare as equal.
    names = frozenset(tools)
    prefixes = tuple(name[:-1] for name in names if name.endswith("*"))
    if not prefixes:
        return names
    return frozenset(
        name for name in names if not any(name != prefix + "*" and name.startswith(prefix) for prefix in prefixes)
    )


def _narrower(one: str, other: str) -> str | None:
    """Return the pattern for what both allow, or None where that is nothing."""
    if one == other:
        return one
    if other.endswith("*") and one.startswith(other[:-1]):
        return one
    if one.endswith("*") and other.startswith(one[:-1]):
        return other
    return None


@dataclass(frozen=True, slots=True, init=False)
class Policy:
    """Say which tools and side effects are allowed; combine two with ``&``, which only ever narrows.

    Example:
        >>> team = Policy(tools=["github_*", "ci"], side_effect_level="network")
        >>> guest = Policy(tools=["github_read", "shell"], side_effect_level="read_only")
        >>> sorted((team & guest).tools), (team & guest).side_effect_level.name
        (['github_read'], 'READ_ONLY')

    Args:
        tools: None for no ceiling, else names and ``prefix*`` patterns; an empty set allows nothing.
        side_effect_level: The highest level allowed, or None for no ceiling.

    Raises:
        DefinitionError: If a tool is not a name or pattern, or the level is unknown.
    """

    tools: frozenset[str] | None
    side_effect_level: SideEffect | None

    # Written out since it takes more types than the fields keep.
    def __init__(self, tools: Iterable[str] | None = None, side_effect_level: SideEffectLike | None = None) -> None:
        object.__setattr__(self, "tools", parse_tools(tools, "policy.tools"))
        object.__setattr__(self, "side_effect_level", parse_ceiling(side_effect_level, "policy.side_effect_level"))

    def __and__(self, other: Policy) -> Policy:
        """Return the policy that allows exactly what both allow."""
        if not isinstance(other, Policy):
            return NotImplemented
        if other == UNRESTRICTED:
            return self
        if self == UNRESTRICTED:
            return other
        if self.tools is None or other.tools is None:
            tools = self.tools if other.tools is None else other.tools
        else:
            both = (_narrower(one, another) for one in self.tools for another in other.tools)
            tools = _without_redundant(name for name in both if name is not None)
        levels = [p.side_effect_level for p in (self, other) if p.side_effect_level is not None]
        return Policy(tools, min(levels) if levels else None)

    def allows_tool(self, name: str) -> bool:
        """Tell whether a tool of this name may be called."""
        if self.tools is None or name in self.tools:
            return True
        return any(known.endswith("*") and name.startswith(known[:-1]) for known in self.tools)

    def refusal(self, name: str, side_effect: SideEffect) -> str | None:
        """Return why this tool is refused, or None where it is allowed.

        Args:
            name: The tool's name.
            side_effect: What the tool may do.
        """
        if not self.allows_tool(name):
            known = ", ".join(sorted(self.tools or ())) or "none"
            return f"tool `{name}` is not among the allowed tools ({known})"
        ceiling = self.side_effect_level
        if ceiling is not None and side_effect > ceiling:
            return (
                f"tool `{name}` has the side effect {side_effect.name.lower()}, "
                f"and at most {ceiling.name.lower()} is allowed"
            )
        return None


UNRESTRICTED = Policy()
