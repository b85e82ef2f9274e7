"""Which model a framework's `StepModel` stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from stepwarden.core._leaf import default_model
from stepwarden.core.errors import DefinitionError

M = TypeVar("M")


def current_model(fallback: M | str | None, models: dict[str, M], resolve: Callable[[str], M]) -> M:
    """Return the model of the innermost scope that declares one, else the fallback.

    Args:
        fallback: The model, or its name, where no scope around declares one.
        models: The models that were made of names; what is made now is put there.
        resolve: Makes a model of a name.

    Raises:
        DefinitionError: If there is neither.
    """
    named = default_model() or fallback
    if named is None:
        raise DefinitionError(
            "StepModel: no step or persona around declares a model; give one of them model=..., or StepModel a fallback"
        )
    if not isinstance(named, str):
        return named
    if named not in models:
        models[named] = resolve(named)
    return models[named]
