"""Which persona `module:name` means."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from stepwarden import PersonaDefinition, StepDefinition

from ._problem import UsageError, describe


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Let modules in the current directory be imported, as ``python -m`` does; a script's own folder comes later."""
    here = str(Path.cwd())
    is_added = here not in sys.path
    if is_added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if is_added and here in sys.path:
            sys.path.remove(here)


def find_persona(target: str) -> Callable[..., Any]:
    """Import the module that *target* names, and return the decorated function in it.

    Args:
        target: ``module:persona``; both parts may be dotted.

    Returns:
        A persona or step.

    Raises:
        UsageError: If there is none; the message lists what the module has.
    """
    module_name, colon, path = target.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        hint = Path(module_name).stem
        raise UsageError(
            f"{target!r} names a file; name the module as Python imports it, "
            f"`{hint}:{path or 'persona'}`, in the folder that it is in"
        )
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"{target!r} does not name a persona; it must be module:persona, such as agent:captain")
    module = _import(module_name)
    if not colon or not path:
        raise UsageError(f"{target!r} does not name a persona; it must be module:persona, and {_what_it_has(module)}")
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise UsageError(f"module {module_name!r} has no {path!r}; {_what_it_has(module)}") from None
    if not _is_activated_by_call(found):
        raise UsageError(f"{target!r} is neither a persona nor a step but {_kind_of(found)}; {_what_it_has(module)}")
    return found  # type: ignore[no-any-return]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"no module {name!r} in the current directory or among the installed packages") from error
        raise UsageError(f"module {name!r} cannot be imported: {describe(error)}") from error
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        raise UsageError(f"module {name!r} cannot be imported: {describe(error)}") from error


def _is_activated_by_call(value: object) -> bool:
    return callable(value) and isinstance(getattr(value, "definition", None), PersonaDefinition | StepDefinition)


def _kind_of(value: object) -> str:
    if isinstance(value, type):
        return "a class"
    if callable(value):
        return "an undecorated function"
    return f"of type {type(value).__name__}"


def _what_it_has(module: ModuleType) -> str:
    has: dict[type, list[str]] = {PersonaDefinition: [], StepDefinition: []}
    for name, value in vars(module).items():
        if _is_activated_by_call(value):
            has[type(value.definition)].append(name)
    parts = [
        f"{kind} {', '.join(names)}"
        for kind, names in (("personas:", has[PersonaDefinition]), ("steps:", has[StepDefinition]))
        if names
    ]
    return f"it has {'; '.join(parts)}" if parts else "it has no persona and no step"
