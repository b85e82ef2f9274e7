"""`llm_call`: one call of the step's own model, guarded, for who needs no SDK of their own."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from stepwarden.core._budget import Usage
from stepwarden.core._leaf import default_model
from stepwarden.core.errors import DefinitionError

from ._estimate import Estimate, parse_estimate

if TYPE_CHECKING:
    import asyncio

    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Reply:
    """Hold what a model replied.

    Args:
        text: What it said.
        model: The model that answered, or None where the reply does not say.
        usage: The tokens that it reports; what it cost is on the step's receipt.
        finish_reason: Why it ended, such as ``"stop"`` or ``"length"``; None where the reply does not say.
    """

    text: str
    model: str | None
    usage: Usage
    finish_reason: str | None


def llm_call(
    prompt: str,
    *,
    system: str | None = None,
    model: str | Model | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    timeout: float | None = None,
    settings: Mapping[str, Any] | None = None,
    estimate: Estimate = "likely",
) -> Reply:
    """Call a model once, under the budget of the step around: by default the step's own model.

    It goes through pydantic-ai (extra ``llm``), and is guarded like any other call.

    Args:
        prompt: What is asked.
        system: The instructions, or None.
        model: The model as pydantic-ai names it, ``"provider:model"``, or a model of pydantic-ai's; None: the step's.
        max_tokens: The most output, in tokens; None: the step's default, where a limit is in force.
        temperature: The temperature, or None for the model's own.
        timeout: The longest that the request may take, in seconds, or None.
        settings: Further settings of pydantic-ai's.
        estimate: How the input is estimated before it is sent, as for `guard`: ``"likely"``, ``"upper_bound"``, or a
            function of the request that returns tokens.

    Returns:
        The reply.

    Raises:
        BudgetExceededError: If the budget has no room for it; then nothing is sent.
        DefinitionError: If no model is named anywhere, or *estimate* is invalid.
        TypeError: If an argument is of another type.
        ValueError: If *max_tokens* or *timeout* is not above 0.
        ImportError: If the extra is not installed.
    """
    _require()
    from pydantic_ai.direct import model_request_sync

    from .pydantic_ai import LateModel

    messages, given = _asked(prompt, system, settings, (max_tokens, temperature, timeout))
    how = parse_estimate(estimate)
    # Only inside is it known which event loop sync calls of this thread have now.
    return _read(model_request_sync(LateModel(lambda: _resolved(model, how)), messages, model_settings=given))


async def llm_call_async(
    prompt: str,
    *,
    system: str | None = None,
    model: str | Model | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - the request's own, which the provider's client keeps
    settings: Mapping[str, Any] | None = None,
    estimate: Estimate = "likely",
) -> Reply:
    """Ask a model once like `llm_call`, without blocking the event loop."""
    _require()
    from pydantic_ai.direct import model_request

    messages, given = _asked(prompt, system, settings, (max_tokens, temperature, timeout))
    asked = _resolved(model, parse_estimate(estimate))
    return _read(await model_request(asked, messages, model_settings=given))


def _require() -> None:
    try:
        import pydantic_ai  # noqa: F401
    except ImportError as missing:
        raise ImportError(
            "llm_call needs pydantic-ai, which is not installed; install it with: pip install 'stepwarden[llm]'"
        ) from missing


_REMEMBERED = 256
"""How many guarded models are kept; more is an application that makes a function for each estimate."""


class _Models:
    """Keep the models that were named, whose clients keep connections, and guards of models for each estimate."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._guarded: dict[tuple[str | int, Estimate], Model] = {}

    def guarded(self, named: Model | str, estimate: Estimate) -> Model:
        """Return a model, or that of a name, guarded: a guard copies the model's client, which costs a call's time."""
        key = named if isinstance(named, str) else id(named), estimate
        found = self._guarded.get(key)
        if found is None:
            from pydantic_ai.models import Model, infer_model

            from .pydantic_ai import GuardedModel

            if not isinstance(named, str | Model):
                raise TypeError(f'model must be "provider:model", a model of pydantic-ai\'s or None, not {named!r}')
            if isinstance(named, str):
                if named not in self._models:
                    self._models[named] = infer_model(named)
                named = self._models[named]
            if len(self._guarded) >= _REMEMBERED:
                self._guarded.clear()
            # It keeps the model, whose id so stays its own.
            self._guarded[key] = found = GuardedModel(named, estimate=estimate)
        return found


# A client's connections belong to one event loop.
_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Models] = weakref.WeakKeyDictionary()


def _resolved(model: str | Model | None, estimate: Estimate) -> Model:
    import asyncio

    named = model or default_model()
    if named is None:
        raise DefinitionError("llm_call: no model is named, and no step or persona around declares one; give model=...")
    loop = asyncio.get_running_loop()
    models = _by_loop.get(loop)
    if models is None:
        models = _by_loop.setdefault(loop, _Models())
    return models.guarded(named, estimate)


_NONE = type(None)
_NUMBERS = frozenset({int, float, _NONE})
# The types of the arguments as they mostly are, which is looked up faster than asked about.
_USUAL = (
    frozenset({str}), frozenset({str, _NONE}), frozenset({dict, _NONE}), frozenset({int, _NONE}), _NUMBERS, _NUMBERS,
)  # fmt: skip
_TAKEN: tuple[tuple[str, Any, str], ...] = (
    ("prompt", str, "a str"),
    ("system", str | None, "a str or None"),
    ("settings", Mapping | None, "a mapping of pydantic-ai's settings or None"),
    ("max_tokens", int | None, "an int or None"),
    ("temperature", int | float | None, "a number or None"),
    ("timeout", int | float | None, "a number of seconds or None"),
)


def _asked(
    prompt: str,
    system: str | None,
    settings: Mapping[str, Any] | None,
    numbers: tuple[int | None, float | None, float | None],
) -> tuple[list[ModelMessage], ModelSettings]:
    """Read what is asked; *numbers* are the most output in tokens, the temperature, and the time-out in seconds."""
    from pydantic_ai.messages import ModelRequest

    arguments = (prompt, system, settings, *numbers)
    for value, usual in zip(arguments, _USUAL, strict=True):
        if value.__class__ not in usual:
            _check_types(arguments)
    max_tokens, temperature, timeout = numbers
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens must be >= 1, not {max_tokens!r}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds > 0, not {timeout!r}")
    given: dict[str, Any] = {} if settings is None else {**settings}
    if max_tokens is not None:
        given["max_tokens"] = max_tokens
    if temperature is not None:
        given["temperature"] = temperature
    if timeout is not None:
        given["timeout"] = timeout
    return [ModelRequest.user_text_prompt(prompt, instructions=system)], cast("ModelSettings", given)


def _check_types(arguments: tuple[object, ...]) -> None:
    for value, (name, kind, wanted) in zip(arguments, _TAKEN, strict=True):
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"{name} must be {wanted}, not {value!r}")


def _read(response: ModelResponse) -> Reply:
    usage = response.usage
    return Reply(
        text="".join(part.content for part in response.parts if part.part_kind == "text"),
        model=response.model_name,
        usage=Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            reasoning_tokens=usage.output_reasoning_tokens,
            calls=1,
        ),
        finish_reason=response.finish_reason,
    )
