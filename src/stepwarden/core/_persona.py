"""Personas: the decorator, the block and the registration that give an agent role its contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

from ._account import Account
from ._budget import Budget
from ._callable import check_decorated
from ._declare import decorated_or_block, function_and_name, registered
from ._definition import PersonaDefinition, Stage, StepDefinition, persona_definition
from ._kinds import PersonaScope
from ._policy import SideEffectLike
from .errors import DefinitionError

if TYPE_CHECKING:
    from types import TracebackType

P = ParamSpec("P")
R = TypeVar("R")


class PersonaBlock(Protocol):
    """Type what `persona` returns: a decorator that keeps the type of what it wraps, and a block."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    def __enter__(self) -> PersonaScope: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    async def __aenter__(self) -> PersonaScope: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@overload
def persona(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def persona(
    name: str | None = None,
    *,
    model: str | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    tools: Iterable[str] | None = None,
    side_effect_level: SideEffectLike | None = None,
    stages: Iterable[Stage] = (),
    accounts: Iterable[Account] = (),
) -> PersonaBlock: ...
def persona(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    model: str | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    tools: Iterable[str] | None = None,
    side_effect_level: SideEffectLike | None = None,
    stages: Iterable[Stage] = (),
    accounts: Iterable[Account] = (),
) -> Any:
    """Make a function a persona: an agent role that calls steps, and may limit what each of them does.

    It decorates whatever `step` does, bare, ``@persona``, or with arguments. A block of code becomes a persona with
    ``with persona("name") as scope`` or ``async with``.

    Args:
        function: The function, where the decorator is bare; or the name.
        name: The persona's name; by default the function's.
        model: The model where neither the call nor a step names one.
        budget: Its limits, a `Budget` or a mapping of its fields.
        tools: The tools that anything inside it may call, as names and ``prefix*`` patterns; None for no ceiling, an
            empty list for no tools.
        side_effect_level: The highest side effect that tools inside it may have, a `SideEffect` or its name in lower
            case; None for no ceiling.
        stages: What it allows its steps, one `Stage` a step; a step without one may do what the persona may.
        accounts: Budgets that outlive its activations, shared by everything that names them in the same ledger.

    Returns:
        The decorated function; or a block, which is a decorator too.

    Raises:
        DefinitionError: If an argument cannot be right, or the function cannot be decorated.
    """
    function, name = function_and_name(function, name, "persona")
    # Read once, since a block declares again for each function that it decorates.
    declared: Any = tuple(stages) if isinstance(stages, Iterator) else stages
    owed: Any = tuple(accounts) if isinstance(accounts, Iterator) else accounts

    def declare(function_name: str) -> PersonaDefinition:
        return PersonaDefinition(
            name=function_name if name is None else name,
            function=function_name,
            model=model,
            budget=budget,
            tools=tools,
            side_effect_level=side_effect_level,
            stages=declared,
            accounts=owed,
        )

    return decorated_or_block(function, name, "persona", declare)


def register_persona(function: Callable[P, R], definition: PersonaDefinition) -> Callable[P, R]:
    """Make a function a persona by a definition; the same as decorating it.

    Args:
        function: The function; one that is a persona already gets the new definition in place of the old.
        definition: What it declares; its *function* becomes that of the function given.

    Returns:
        The decorated function.

    Raises:
        DefinitionError: If the function cannot be decorated, or the definition is none.
    """
    return cast("Callable[P, R]", registered(function, definition, PersonaDefinition, "persona"))


def persona_from_dict(function: Callable[P, R], mapping: Mapping[str, Any]) -> Callable[P, R]:
    """Make a function a persona by a mapping, as a file of settings has it; an unknown key is an error.

    Args:
        function: The function.
        mapping: The keyword arguments of `persona`; each stage a mapping with *name*, *allowed_tools* and
            *side_effect_level*.

    Returns:
        The decorated function.

    Raises:
        DefinitionError: If a key is unknown or a value cannot be right, with the name of the field.
    """
    declared = persona_definition(getattr(function, "__name__", "function"), mapping)
    check_decorated(function, "persona", named="name" in mapping)
    return register_persona(function, declared)


def definition(function: Callable[..., Any]) -> StepDefinition | PersonaDefinition:
    """Return what a decorated function declares, for type checkers; at run time it is `function.definition` too.

    Args:
        function: A step or persona.

    Raises:
        DefinitionError: If it is neither.
    """
    declared = getattr(function, "definition", None)
    if not isinstance(declared, StepDefinition | PersonaDefinition):
        raise DefinitionError(f"{function!r} is neither a step nor a persona")
    return declared
