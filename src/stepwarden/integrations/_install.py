"""Changing a library for the whole process, and changing it back."""

from __future__ import annotations

import importlib
from types import ModuleType

from stepwarden.core.errors import DefinitionError

_INSTALLABLE = {"threading": "stepwarden.integrations._threads"}


def install(*names: str) -> None:
    """Change libraries so that every use of them in this process is under the scope it belongs to.

    Args:
        names: ``"threading"``: threads and thread pools carry the scope of whoever started or submitted.

    Raises:
        DefinitionError: If a name is unknown; then nothing is installed.
    """
    for module in _modules(names):
        module.install()


def uninstall(*names: str) -> None:
    """Change libraries back, exactly to what they were; harmless where nothing is installed.

    Args:
        names: As for `install`.

    Raises:
        DefinitionError: If a name is unknown; then nothing is changed.
    """
    for module in _modules(names):
        module.uninstall()


def _modules(names: tuple[str, ...]) -> list[ModuleType]:
    for name in names:
        if name not in _INSTALLABLE:
            known = ", ".join(repr(known) for known in _INSTALLABLE)
            raise DefinitionError(f"cannot install {name!r}; known: {known}")
    return [importlib.import_module(_INSTALLABLE[name]) for name in names]
