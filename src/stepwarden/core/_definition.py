"""What steps and personas declare: frozen values, checked where they are declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ._account import Account, parse_accounts
from ._boundary import ErrorBoundary, parse_boundary
from ._budget import Budget, parse_budget, parse_name
from ._policy import Policy, SideEffect, SideEffectLike, parse_ceiling, parse_tools
from ._unknown import refuse_unknown_keys
from .errors import DefinitionError


def parse_model(value: object, path: str) -> str | None:
    """Read a model's name, where an empty string counts as not declared."""
    if value is not None and not isinstance(value, str):
        raise DefinitionError(f"{path} must be a model name or None, not {value!r}")
    return str(value) if value else None  # a StrEnum is kept as what it says


def parse_output_default(value: object, path: str) -> int | None:
    """Read the output limit assumed for a call that names none, in tokens."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise DefinitionError(f"{path} must be an int >= 1 or None, not {value!r}")
    return value


def check_fallback(fallback: object, *, has_boundary: bool) -> None:
    """Refuse a fallback beside no boundary at all: nothing would ever return it."""
    if fallback is not None and not has_boundary:
        cure = "only error_boundary='continue' returns one; give it, or leave the fallback out"
        raise DefinitionError(f"step.fallback is {fallback!r}, and step.error_boundary is missing: {cure}")


@dataclass(frozen=True, slots=True, init=False)
class Stage:
    """Declare what a persona allows one of its steps.

    Args:
        step: The step's name, or the decorated function.
        allowed_tools: Names and ``prefix*`` patterns; None for no ceiling, empty allows none.
        side_effect_level: The highest side effect allowed, or None for no ceiling.

    Raises:
        DefinitionError: If a field cannot be right.
    """

    step: str
    allowed_tools: frozenset[str] | None
    side_effect_level: SideEffect | None

    def __init__(
        self,
        step: str | Callable[..., Any],
        allowed_tools: Iterable[str] | None = None,
        side_effect_level: SideEffectLike | None = None,
    ) -> None:
        if callable(step):
            declared = getattr(step, "definition", None)
            if not isinstance(declared, StepDefinition):
                raise DefinitionError(f"stage.step must be a step's name or a decorated step, not {step!r}")
            step = declared.name
        path = f"stage[{step!r}]"
        object.__setattr__(self, "step", parse_name(step, "stage.step"))
        object.__setattr__(self, "allowed_tools", parse_tools(allowed_tools, f"{path}.allowed_tools"))
        object.__setattr__(self, "side_effect_level", parse_ceiling(side_effect_level, f"{path}.side_effect_level"))

    @property
    def policy(self) -> Policy:
        """The stage as a policy."""
        return Policy(self.allowed_tools, self.side_effect_level)


@dataclass(frozen=True, slots=True, init=False)
class StepDefinition:
    """Declare one step.

    Args:
        name: The step's name.
        function: ``__name__`` of its function; for a block, its name.
        model: The default model for calls inside it.
        budget: Its limits, or None.
        error_boundary: What it does when its own budget is exhausted.
        fallback: What ``continue`` returns.
        tools: Its own tool ceiling: names and ``prefix*`` patterns; None for none of its own.
        side_effect_level: Its own side-effect ceiling.
        default_max_output_tokens: The output assumed for a call that names no limit, in tokens.

    Raises:
        DefinitionError: If a field cannot be right.
    """

    name: str
    function: str
    model: str | None
    budget: Budget | None
    error_boundary: ErrorBoundary
    fallback: Any = field(hash=False)
    tools: frozenset[str] | None
    side_effect_level: SideEffect | None
    default_max_output_tokens: int | None

    def __init__(
        self,
        name: str,
        function: str | None = None,
        model: str | None = None,
        budget: Budget | Mapping[str, Any] | None = None,
        error_boundary: ErrorBoundary | str = ErrorBoundary.FAIL,
        fallback: Any = None,
        tools: Iterable[str] | None = None,
        side_effect_level: SideEffectLike | None = None,
        default_max_output_tokens: int | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", parse_name(name, "step.name"))
        put(self, "function", parse_name(name if function is None else function, "step.function"))
        put(self, "model", parse_model(model, "step.model"))
        put(self, "budget", parse_budget(budget, "step.budget"))
        put(self, "error_boundary", parse_boundary(error_boundary, "step.error_boundary"))
        put(self, "fallback", fallback)
        put(self, "tools", parse_tools(tools, "step.tools"))
        put(self, "side_effect_level", parse_ceiling(side_effect_level, "step.side_effect_level"))
        output = parse_output_default(default_max_output_tokens, "step.default_max_output_tokens")
        put(self, "default_max_output_tokens", output)


@dataclass(frozen=True, slots=True, init=False)
class PersonaDefinition:
    """Declare one persona.

    Args:
        name: The persona's name.
        function: ``__name__`` of its function; for a block, its name.
        model: The model where neither the call nor a step names one.
        budget: Its limits, or None.
        tools: The tool ceiling of the whole persona; None for none.
        side_effect_level: The side-effect ceiling of the whole persona.
        stages: What it allows its steps, one `Stage` a step.
        accounts: Budgets that outlive its activations.

    Raises:
        DefinitionError: If a field cannot be right, a step has two stages, or a stage names a tool that
            the persona's own *tools* do not allow.
    """

    name: str
    function: str
    model: str | None
    budget: Budget | None
    tools: frozenset[str] | None
    side_effect_level: SideEffect | None
    stages: tuple[Stage, ...]
    accounts: tuple[Account, ...]

    def __init__(
        self,
        name: str,
        function: str | None = None,
        model: str | None = None,
        budget: Budget | Mapping[str, Any] | None = None,
        tools: Iterable[str] | None = None,
        side_effect_level: SideEffectLike | None = None,
        stages: Iterable[Stage] = (),
        accounts: Iterable[Account] = (),
    ) -> None:
        put = object.__setattr__
        put(self, "name", parse_name(name, "persona.name"))
        put(self, "function", parse_name(name if function is None else function, "persona.function"))
        put(self, "model", parse_model(model, "persona.model"))
        put(self, "budget", parse_budget(budget, "persona.budget"))
        put(self, "tools", parse_tools(tools, "persona.tools"))
        put(self, "side_effect_level", parse_ceiling(side_effect_level, "persona.side_effect_level"))
        put(self, "stages", _parse_stages(stages, self.tools))
        put(self, "accounts", parse_accounts(accounts, "persona.accounts"))


def _parse_stages(stages: object, tools: frozenset[str] | None) -> tuple[Stage, ...]:
    if isinstance(stages, str | bytes | Mapping) or not isinstance(stages, Iterable):
        raise DefinitionError(f"persona.stages must be a list of Stage, not {stages!r}")
    parsed: dict[str, Stage] = {}
    for stage in stages:
        if not isinstance(stage, Stage):
            raise DefinitionError(f"persona.stages must be a list of Stage, and has {stage!r}")
        if stage.step in parsed:
            raise DefinitionError(f"persona.stages has two stages for step {stage.step!r}")
        for tool in stage.allowed_tools or ():
            if tools is not None and (Policy(tools) & Policy([tool])).tools != frozenset({tool}):
                known = ", ".join(sorted(tools)) or "none"
                raise DefinitionError(
                    f"stage[{stage.step!r}].allowed_tools has {tool!r}, outside the persona's own tools ({known})"
                )
        parsed[stage.step] = stage
    return tuple(parsed.values())


_STEP_KEYS = tuple(f.name for f in fields(StepDefinition) if f.name != "function")
_PERSONA_KEYS = tuple(f.name for f in fields(PersonaDefinition) if f.name != "function")
_STAGE_KEYS = ("name", "allowed_tools", "side_effect_level")


def step_definition(function: str, mapping: Mapping[str, Any]) -> StepDefinition:
    """Read a step's declaration from a mapping, strictly.

    Args:
        function: ``__name__`` of the step's function, its name by default.
        mapping: The fields of `StepDefinition` but *function*; the budget as a mapping.

    Raises:
        DefinitionError: If it is no mapping, a key is unknown or a value cannot be right.
    """
    given = _fields("step", mapping, _STEP_KEYS)
    check_fallback(given.get("fallback"), has_boundary="error_boundary" in given)
    return StepDefinition(**{"name": function, **given}, function=function)


def persona_definition(function: str, mapping: Mapping[str, Any]) -> PersonaDefinition:
    """Read a persona's declaration from a mapping, strictly.

    Args:
        function: ``__name__`` of the persona's function, its name by default.
        mapping: The fields of `PersonaDefinition` but *function*; each stage as a mapping with a *name*.

    Raises:
        DefinitionError: If it is no mapping, a key is unknown or a value cannot be right.
    """
    given = _fields("persona", mapping, _PERSONA_KEYS)
    stages = given.pop("stages", None)
    stages = [] if stages is None else stages
    if not isinstance(stages, list | tuple):
        raise DefinitionError(f"persona.stages must be a list of mappings, not {stages!r}")
    return PersonaDefinition(
        **{"name": function, **given},
        function=function,
        stages=[stage if isinstance(stage, Stage) else _stage(index, stage) for index, stage in enumerate(stages)],
    )


def _fields(what: str, mapping: object, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(mapping, Mapping):
        raise DefinitionError(f"{what} must be a mapping of its fields, not {mapping!r}")
    refuse_unknown_keys(what, mapping, known)
    return dict(mapping)


def _stage(index: int, mapping: object) -> Stage:
    path = f"persona.stages[{index}]"
    given = _fields(path, mapping, _STAGE_KEYS)
    if "name" not in given:
        raise DefinitionError(f"{path}.name is missing: a stage names the step that it is for")
    name = parse_name(given.pop("name"), f"{path}.name")
    return Stage(name, **given)
