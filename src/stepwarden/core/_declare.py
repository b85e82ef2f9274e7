"""From a declaration to a decorated function or a block: what `step`, `persona` and `tool` have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ._block import Block
from ._budget import parse_name
from ._callable import check_decorated, undecorated
from ._definition import PersonaDefinition, StepDefinition
from ._plan import Plan
from ._shells import wrap
from .errors import DefinitionError


def function_and_name(function: Any, name: str | None, what: str) -> tuple[Any, str | None]:
    """Return the function that a bare decorator was given, or None, and the name, which may stand in its place.

    Raises:
        DefinitionError: If there are two names, or the name is none.
    """
    if isinstance(function, str):
        if name is not None:
            raise DefinitionError(f"{what}.name is given twice: {function!r} and {name!r}")
        name, function = function, None
    if name is not None:
        parse_name(name, f"{what}.name")
    return function, name


def decorated_or_block(
    function: Any, name: str | None, what: str, declare: Callable[[str], StepDefinition | PersonaDefinition]
) -> Any:
    """Decorate a function, or return a block, which is a decorator too.

    Args:
        function: The function, or None.
        name: The name that was given, or None.
        what: ``"step"`` or ``"persona"``.
        declare: Makes the definition for a function's ``__name__``.

    Raises:
        DefinitionError: If the function cannot be decorated, or the declaration cannot be right.
    """

    def decorate(target: Any) -> Any:
        check_decorated(target, what, named=name is not None)
        called: Any = getattr(target, "__name__", name)
        definition = declare(called)
        return wrap(undecorated(target, type(definition)), Plan(definition))

    if function is not None:
        return decorate(function)
    declare(what)  # a wrong argument is reported where it is declared, not when the block is entered
    return Block[Any](declare, decorate, what, name)


def registered(function: Any, definition: object, wanted: type[StepDefinition | PersonaDefinition], what: str) -> Any:
    """Decorate a function by a definition, in place of the one that it may have.

    Raises:
        DefinitionError: If the function cannot be decorated, or the definition is no *wanted*.
    """
    if not isinstance(definition, wanted):
        raise DefinitionError(f"definition must be a {wanted.__name__}, not {definition!r}")
    check_decorated(function, what, named=True)
    named = replace(definition, function=getattr(function, "__name__", definition.name))
    return wrap(undecorated(function, wanted), Plan(named))
