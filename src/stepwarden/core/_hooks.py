"""Hooks: functions that are told of what happens, and may deny a step or replace what goes in or comes out."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from ._budget import parse_name
from .errors import Amount, DefinitionError

if TYPE_CHECKING:
    from ._receipt import Receipt

P = ParamSpec("P")
R = TypeVar("R")

THRESHOLD = "OnBudgetThreshold"
_EVENTS = (
    "PreStep", "PostStep", "OnStepFailed", THRESHOLD, "OnEscalation", "OnToolDenied", "PersonaStart", "PersonaEnd",
)  # fmt: skip
# Where these fire, nothing can be awaited: inside a sync call that a coroutine makes.
_SYNC_ONLY = (THRESHOLD, "OnToolDenied")


@dataclass(frozen=True, slots=True)
class BudgetThreshold:
    """Name the event that a scope's spending has reached a share of one of its limits.

    Args:
        percent: The share, above 0; 100 is the limit.

    Raises:
        DefinitionError: If it is not a positive finite number.
    """

    percent: float

    def __post_init__(self) -> None:
        percent: object = self.percent
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < percent <= sys.float_info.max:
            raise DefinitionError(f"threshold must be a positive finite percentage, not {percent!r}")


@dataclass(frozen=True, slots=True)
class Deny:
    """Refuse the step: returned by a PreStep hook.

    Args:
        reason: Why, for the error and the receipt.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class ReplaceArgs:
    """Call the step with other arguments: returned by a PreStep hook.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments; None for none.

    Raises:
        TypeError: If *args* is no tuple or list, or *kwargs* no mapping.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        args: object = self.args
        kwargs: object = self.kwargs
        if not isinstance(args, tuple | list) or not isinstance(kwargs, Mapping | None):
            raise TypeError(f"ReplaceArgs takes a tuple and a mapping or None, not {args!r} and {kwargs!r}")


@dataclass(frozen=True, slots=True)
class ReplaceOutput:
    """Return something else from the step: returned by a PostStep hook.

    Args:
        output: What the step returns instead.
    """

    output: Any


@dataclass(frozen=True, slots=True)
class HookEvent:
    """Tell a hook what happened.

    Args:
        event: The name of the event.
        target: ``"persona.step"``, or the one of the two that there is.
        persona: The persona's name, or None.
        step: The step's name, or None.
        function: ``__name__`` of the function, or None for a run.
        args: The step's positional arguments, where it has any.
        kwargs: The step's keyword arguments.
        output: What the step returned.
        error: What left the step, or why a tool was denied.
        pct: For a threshold, the share that was reached, in percent.
        limit: For a threshold, the `Budget` field that reached it.
        limit_value: Its value.
        consumed: What was spent of it.
        receipt: The receipt, once there is one.
    """

    event: str
    target: str
    persona: str | None = None
    step: str | None = None
    function: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    output: Any = None
    error: BaseException | None = None
    pct: float | None = None
    limit: str | None = None
    limit_value: Amount | None = None
    consumed: Amount | None = None
    receipt: Receipt | None = None


class _Armed:
    """Tell the hot path what was ever asked for in this process.

    Attributes:
        thresholds: Whether a threshold was registered.
        calls: Whether anything hears of calls at all: a threshold, a ledger or an account.
    """

    __slots__ = ("calls", "thresholds")

    def __init__(self) -> None:
        self.thresholds = self.calls = False


armed = _Armed()


class Hook(Generic[P, R]):
    """Wrap one registered hook: callable like its function, and removable."""

    def __init__(
        self, hooks: Hooks, function: Callable[P, R], event: str, persona: str, step: str | None, percent: float | None
    ) -> None:
        # First, since it copies the function's attributes, and that may be a hook for another event.
        functools.update_wrapper(self, function)
        self._hooks = hooks
        self.function = function
        self.event = event
        self.persona = persona
        self.step = step
        self.percent = percent

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def matches(self, event: str, persona: str | None, step: str | None, pct: float | None = None) -> bool:
        """Tell whether it is for this event; without a persona, patterns are matched against the empty string."""
        return (
            self.event == event
            and fnmatchcase(persona or "", self.persona)
            and (self.step is None or self.step == step)
            and (self.percent is None or (pct is not None and pct >= self.percent))
        )

    def remove(self) -> None:
        """Stop calling it; calling this twice does no harm."""
        self._hooks._remove(self)


class Hooks:
    """Register hooks, and keep them in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.registered: tuple[Hook[Any, Any], ...] = ()
        # What the hot path looks at: truth values, decided here and not on each call.
        self.has_thresholds = False
        self.is_heard = False
        self.hears_ends = False

    def on(
        self, event: str | BudgetThreshold, *, persona: str = "*", step: str | None = None
    ) -> Callable[[Callable[P, R]], Hook[P, R]]:
        """Register a function for an event.

        Example:
            >>> import stepwarden as sw
            >>> mine = sw.Hooks()
            >>> @mine.on("PreStep", step="publish")
            ... def gate(event):
            ...     return sw.Deny("publish needs the consent of a person")
            >>> with sw.Run(hooks=mine), sw.step("publish"):
            ...     print("never reached")
            Traceback (most recent call last):
                ...
            stepwarden.core.errors.HookDeniedError: step `publish` was denied by a PreStep hook: publish needs ...

        Args:
            event: ``"PreStep"``, ``"PostStep"``, ``"OnStepFailed"``, ``"OnBudgetThreshold(80)"`` or
                `BudgetThreshold`, ``"OnEscalation"``, ``"OnToolDenied"``, ``"PersonaStart"`` or ``"PersonaEnd"``.
            persona: A case-sensitive glob for the persona's name.
            step: The step's name, exactly; None for every step.

        Returns:
            A decorator that gives back the function as a `Hook`, which has ``remove()``.

        Raises:
            DefinitionError: If the event is unknown, a threshold or a name cannot be right, or a coroutine function
                is registered for an event that cannot await it.
        """
        name, percent = _parse_event(event)
        if not isinstance(persona, str):
            raise DefinitionError(f"persona must be a string, not {persona!r}")
        pattern = persona.strip()
        exact = None if step is None else parse_name(step, "step")

        def register(function: Callable[P, R]) -> Hook[P, R]:
            if not callable(function):
                raise DefinitionError(f"a hook must be callable, not {function!r}")
            if name in _SYNC_ONLY and inspect.iscoroutinefunction(function):
                raise DefinitionError(f"a hook for {name} cannot be a coroutine function: nothing awaits it there")
            hook = Hook(self, function, name, pattern, exact, percent)
            with self._lock:
                self._put((*self.registered, hook))
            return hook

        return register

    def matching(
        self, event: str, persona: str | None, step: str | None, pct: float | None = None
    ) -> list[Hook[Any, Any]]:
        """Return the hooks for this event, in the order of registration."""
        return [hook for hook in self.registered if hook.matches(event, persona, step, pct)]

    def clear(self) -> None:
        """Remove every hook."""
        with self._lock:
            self._put(())

    def _remove(self, hook: Hook[Any, Any]) -> None:
        with self._lock:
            self._put(tuple(one for one in self.registered if one is not hook))

    def _put(self, hooks: tuple[Hook[Any, Any], ...]) -> None:
        self.registered = hooks
        self.is_heard = self.hears_ends = bool(hooks)
        self.has_thresholds = any(hook.event == THRESHOLD for hook in hooks)
        if self.has_thresholds:
            armed.thresholds = armed.calls = True


def _parse_event(event: object) -> tuple[str, float | None]:
    if isinstance(event, BudgetThreshold):
        return THRESHOLD, event.percent
    name = event.strip() if isinstance(event, str) else ""
    written = re.fullmatch(rf"{THRESHOLD}\s*\((.*)\)", name)
    if written is not None:
        try:
            percent = float(written[1])
        except ValueError:
            raise DefinitionError(f"threshold must be a positive finite percentage, not {written[1]!r}") from None
        return THRESHOLD, BudgetThreshold(percent).percent
    if name == THRESHOLD:
        raise DefinitionError(f"{THRESHOLD} needs its percentage, such as '{THRESHOLD}(80)'")
    return check_event(event), None


def check_event(event: object) -> str:
    """Read the name of an event; raise a DefinitionError for what is none."""
    name = event.strip() if isinstance(event, str) else event
    if not isinstance(name, str) or name not in _EVENTS:
        raise DefinitionError(f"unknown event {event!r}; known: {', '.join(_EVENTS)}")
    return name
