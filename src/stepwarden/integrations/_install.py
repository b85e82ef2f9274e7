"""Changing a library for the whole process, and changing it back."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable
from types import ModuleType

from stepwarden.core.errors import DefinitionError

from ._allow import parse_allow
from ._estimate import Estimate, parse_estimate

# Each has `install(allow, estimate)`, `uninstall()` and `ALLOWABLE`.
_INSTALLABLE = {
    "anthropic": "stepwarden.integrations.anthropic",
    "openai": "stepwarden.integrations.openai",
    "threading": "stepwarden.integrations._threads",
}
_lock = threading.RLock()


def install(*names: str, allow: Iterable[str] = (), estimate: Estimate = "likely") -> None:
    """Guard every client of an SDK in this process, or let every thread carry its scope.

    It reaches clients that were made earlier, too. A client that `guard` made is not guarded twice. Installing again
    does no harm; it only replaces *allow* and *estimate*.

    Args:
        names: ``"openai"`` and ``"anthropic"``: every client of that SDK is guarded as by `guard`. ``"threading"``:
            threads and thread pools carry the scope of the code that started or submitted the work.
        allow: Endpoints that the guards do not cover but let through, as for `guard`.
        estimate: How the input of a request is estimated, as for `guard`.

    Raises:
        DefinitionError: If no name is given or one is unknown, or another argument cannot be right; then nothing is
            installed.
        ImportError: If an SDK that is named is not installed.
    """
    if not names:
        raise DefinitionError(f"install() guards what it names, and nothing was named; known: {_known()}")
    modules = _modules("install", names)
    how = parse_estimate(estimate)
    allowed = parse_allow(allow, frozenset[str]().union(*(module.ALLOWABLE for module in modules)))
    with _lock:
        for module in modules:
            module.install(allowed & module.ALLOWABLE, how)


def uninstall(*names: str) -> None:
    """Undo `install`, exactly; does no harm where nothing is installed.

    Args:
        names: As for `install`.

    Raises:
        DefinitionError: If a name is unknown; then nothing is changed.
    """
    with _lock:
        for module in _modules("uninstall", names):
            module.uninstall()


def _modules(what: str, names: tuple[str, ...]) -> list[ModuleType]:
    for name in names:
        if name not in _INSTALLABLE:
            raise DefinitionError(f"cannot {what} {name!r}; known: {_known()}")
    return [importlib.import_module(_INSTALLABLE[name]) for name in names]


def _known() -> str:
    return ", ".join(map(repr, _INSTALLABLE))
