"""Steps for hosts that keep call frames of their own: scopes that are pushed and popped with those frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ._activation import describe
from ._boundary import Raised, Returned, outcome_of, own_exhaustion
from ._budget import parse_name
from ._definition import PersonaDefinition, StepDefinition, persona_definition, step_definition
from ._frames import Frames, HostPlan, HostRun
from ._hooks import Hook, check_event
from ._kinds import StepScope
from ._leaf import get_leaf, resolve, restore, set_leaf, step_out
from ._receipt import Receipt, ReceiptError, Status
from ._run import Run, status_of
from ._scope import Scope
from ._watch import close_scope, tell_refused, tell_resumed, tell_suspended
from .errors import DefinitionError, RunClosedError, ScopeOrderError

if TYPE_CHECKING:
    from types import TracebackType

D = TypeVar("D", StepDefinition, PersonaDefinition)
_WITH_ERROR = (Status.FAILED, Status.SKIPPED, Status.ESCALATED, Status.DENIED)


class StepHost:
    """Open and close scopes for a host with its own call frames, over the same scopes as the decorators.

    What is pushed is in force like any other scope: `record_usage`, `reserve`, tools and policies find it. The host
    calls no hook but those of thresholds; it asks `matching_hooks` and calls them itself. A frame's depth is the number
    of frames on the host's stack with it. One thread uses a host at a time; hosts that take turns in one context do so
    inside `attach`.

    Args:
        run: An open run; None for one of its own, which ``with StepHost() as host`` opens.

    Raises:
        RunClosedError: If *run* is not open.
    """

    def __init__(self, run: Run | None = None) -> None:
        if run is not None and not isinstance(run, Run):
            raise DefinitionError(f"host.run must be an open Run or None, not {run!r}")
        self._steps: dict[str, HostPlan] = {}
        self._personas: dict[str, HostPlan] = {}
        self._frames = Frames()
        self._taken: dict[Scope, ScopeOrderError | None] = {}
        self._base: Scope | None = None
        self._own_run: Run | None = None
        if run is not None:
            if not run.is_open:
                raise RunClosedError(f"run `{run.name}` is not open, so no host can push steps under it")
            # A host that is made inside a step is part of that step.
            current = resolve(get_leaf())
            self._base = current if current is not None and run._holds(current) else run

    @property
    def run(self) -> Run:
        """The run that it pushes under.

        Raises:
            RunClosedError: If it has none yet.
        """
        return self._around().run

    def __enter__(self) -> Self:
        if self._own_run is not None:
            raise RunClosedError("this host has a run of its own open already; make a new StepHost")
        if self._base is None:
            self._own_run = self._base = HostRun().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run, self._own_run = self._own_run, None
        left_open = self._frames.innermost()
        try:
            self._unwind(-1, Status.ABANDONED if error is None else status_of(error), error)
        finally:
            self._abandon_taken()
            if run is not None:
                self._base = None
                run.__exit__(kind, error, trace)
        if left_open is not None and error is None:
            raise ScopeOrderError(f"the host was left while {left_open.scope.kind} `{left_open.scope.name}` was open")

    def register_step(self, function: str, definition: StepDefinition) -> None:
        """Bind a function of the host's language to a step; a second time replaces.

        Args:
            function: The function's name.
            definition: What it declares; its *function* becomes *function*.

        Raises:
            DefinitionError: If either cannot be right.
        """
        self._steps[function] = _plan(function, definition, StepDefinition)

    def register_persona(self, function: str, definition: PersonaDefinition) -> None:
        """Bind a function of the host's language to a persona; as `register_step`."""
        self._personas[function] = _plan(function, definition, PersonaDefinition)

    def register_step_from_dict(self, function: str, mapping: Mapping[str, Any]) -> None:
        """Bind a function to a step by a mapping, as strictly as `step_from_dict`."""
        self.register_step(function, step_definition(parse_name(function, "function"), mapping))

    def register_persona_from_dict(self, function: str, mapping: Mapping[str, Any]) -> None:
        """Bind a function to a persona by a mapping, as strictly as `persona_from_dict`."""
        self.register_persona(function, persona_definition(parse_name(function, "function"), mapping))

    def is_tracked(self, function: str) -> bool:
        """Tell whether a function is registered as a step or a persona."""
        return function in self._steps or function in self._personas

    def step_definition(self, function: str) -> StepDefinition | None:
        """Return what a registered step declares, or None."""
        plan = self._steps.get(function)
        return None if plan is None else plan.definition  # type: ignore[return-value]

    def reset(self) -> None:
        """Forget what is registered and what has completed; what is still open is abandoned. Hooks are the run's."""
        self._unwind(-1, Status.ABANDONED, None)
        self._abandon_taken()
        self._steps.clear()
        self._personas.clear()
        self._frames.completed.drain()

    def push_persona(self, function: str, frame_depth: int) -> bool:
        """Open a persona for a frame that was just pushed; arguments and errors as for `push_step`."""
        return self._push(self._personas.get(function), frame_depth, ())

    def push_step(self, function: str, frame_depth: int, args: tuple[Any, ...] = ()) -> bool:
        """Open a step for a frame that was just pushed, after ending what belongs to deeper frames.

        Args:
            function: The function that the frame runs.
            frame_depth: The depth of the frame.
            args: What it was called with, for `active_step_args`.

        Returns:
            Whether it was opened; False where *function* is not registered.

        Raises:
            RunClosedError: If the run has ended, or none was opened yet.
        """
        return self._push(self._steps.get(function), frame_depth, args)

    def _push(self, plan: HostPlan | None, depth: int, args: tuple[Any, ...]) -> bool:
        if plan is None:
            return False
        self.prune_below_frame(depth)
        self._frames.push(plan, depth, args, self._around())
        return True

    def _around(self) -> Scope:
        """Return the innermost scope that this host has open, or else what it was made in."""
        frame = self._frames.innermost()
        if frame is not None:
            return frame.scope
        base = self._base
        if base is None:
            raise RunClosedError("this host has no run: enter it as `with StepHost() as host`, or give it an open Run")
        return base if base.status is None or base.kind == "run" else base.nearest_open_around()

    def active_step_frame_depth(self) -> int | None:
        """Return the frame depth of the innermost step that this host has open, or None."""
        frame = self._frames.innermost(step=True)
        return None if frame is None else frame.depth

    def active_step(self) -> StepScope | None:
        """Return the innermost step that this host has open, or None."""
        frame = self._frames.innermost(step=True)
        return frame.scope if frame is not None and isinstance(frame.scope, StepScope) else None

    def active_step_args(self) -> tuple[Any, ...] | None:
        """Return what the innermost step was pushed with, or None."""
        frame = self._frames.innermost(step=True)
        return None if frame is None else frame.args

    def current_persona_name(self) -> str | None:
        """Return the name of the innermost persona around what this host has open, or None."""
        return None if self._base is None else self._around().persona

    def prune_below_frame(self, depth: int, error: BaseException | None = None) -> None:
        """End every step and persona whose frame was unwound, innermost first.

        Args:
            depth: How many frames are left.
            error: What unwound them, so that they end as failed or cancelled; None: they end as completed.

        Raises:
            ScopeOrderError: If scopes that Python code opened inside them were still open; they are abandoned.
        """
        if isinstance(depth, bool) or not isinstance(depth, int):
            raise TypeError(f"depth must be an int, not {depth!r}")
        if depth < 0:
            raise ValueError(f"depth must be >= 0, not {depth}")
        self._unwind(depth, Status.COMPLETED if error is None else status_of(error), error)

    def _unwind(self, depth: int, status: Status, error: BaseException | None) -> None:
        named = describe(error) if error is not None and status is not Status.CANCELLED else None
        _raise_stray(self._frames.unwind(depth, status, named), error)

    def _abandon_taken(self) -> None:
        while self._taken:
            scope, _ = self._taken.popitem()
            close_scope(scope, Status.ABANDONED)
            self._frames.complete(scope)

    def take_active_step(self, depth: int) -> StepScope | None:
        """Take the innermost step off the stack without ending it: what is spent from now on is not its own.

        Args:
            depth: The depth of its frame.

        Returns:
            The step, to be ended by `finish_active_step`; None where that frame has none.
        """
        frame = self._frames.step_at(depth)
        if frame is None or not isinstance(frame.scope, StepScope):
            return None
        stray = self._frames.end(Status.COMPLETED, None, above=frame)
        self._frames.stack.pop()
        self._taken[frame.scope] = step_out(frame.scope) or stray
        tell_suspended(frame.scope)
        return frame.scope

    def finish_active_step(
        self, scope: StepScope, status: Status | str, error: BaseException | str | None = None
    ) -> None:
        """End a step that was taken.

        Args:
            scope: What `take_active_step` returned.
            status: How it ended.
            error: What ended it, for failed, skipped, escalated and denied.

        Raises:
            ScopeOrderError: If it was not taken, or was finished before; or if scopes that Python code opened inside
                it were still open when it was taken, and are abandoned.
            ValueError: If there is no such status, or it leaves no error.
        """
        ended, named = _outcome(status, error)
        if scope not in self._taken:
            raise ScopeOrderError(f"step {getattr(scope, 'name', scope)!r} is none that was taken from this host")
        stray = self._taken.pop(scope)
        close_scope(scope, ended, named)
        self._frames.complete(scope)
        _raise_stray(stray, error)

    def pop_and_record(self, depth: int, status: Status | str, error: BaseException | str | None = None) -> bool:
        """End the innermost step with a status.

        Args:
            depth: The depth of its frame.
            status: How it ended.
            error: What ended it, for failed, skipped, escalated and denied.

        Returns:
            Whether it was ended; False where that frame has no step.

        Raises:
            ScopeOrderError: If scopes that Python code opened inside it were still open; they are abandoned.
            ValueError: If there is no such status, or it leaves no error.
        """
        ended, named = _outcome(status, error)
        frame = self._frames.step_at(depth)
        if frame is None:
            return False
        stray = self._frames.end(ended if named is None else Status.FAILED, named, above=frame)
        _raise_stray(self._frames.end(ended, named) or stray, error)
        return True

    def apply_error_boundary(self, error: BaseException, depth: int) -> Returned | Raised:
        """Let the step of a frame do what it declares about its own exhaustion.

        Args:
            error: What leaves the frame.
            depth: The depth of the frame.

        Returns:
            What leaves the frame instead. The step has ended as failed, skipped or escalated then; where *error* is
            not its own budget error, or the frame has no step, it is `Raised` as it was and nothing has ended.
        """
        frame = self._frames.step_at(depth)
        own = None if frame is None else own_exhaustion(error, frame.scope.id)
        if frame is None or own is None:
            return Raised(error)
        status, outcome = outcome_of(frame.scope.plan, error, own)
        if isinstance(outcome, Raised) and outcome.error is not error:
            tell_refused(frame.scope, outcome.error)
        stray = self._frames.end(Status.FAILED, describe(own), above=frame)
        stray = self._frames.end(status, describe(own)) or stray
        if stray is not None:
            stray.__cause__ = error
            return Raised(stray)
        return outcome

    def matching_hooks(
        self, event: str, persona: str | None = None, step_name: str | None = None, budget_pct: float | None = None
    ) -> list[Hook[Any, Any]]:
        """Return the run's hooks for something that happens, in the order in which they were registered.

        Args:
            event: The name of the event; that of every threshold is ``"OnBudgetThreshold"``.
            persona: The persona's name; None meets patterns as the empty string.
            step_name: The step's name, or None.
            budget_pct: The share of a limit that is spent, in percent; without it no threshold matches.

        Raises:
            DefinitionError: If there is no such event.
        """
        return self.run.hooks.matching(check_event(event), persona, step_name, budget_pct)

    def peek_completed_steps(self) -> tuple[Receipt, ...]:
        """Return the receipts of this host's finished steps, the newest 10,000, in completion order."""
        self._frames.innermost()
        return self._frames.completed.receipts

    def drain_completed_steps(self) -> tuple[Receipt, ...]:
        """Return the receipts of this host's finished steps and forget them; the run still has them."""
        self._frames.innermost()
        return self._frames.completed.drain()

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Have nothing of this host active inside; what is left open inside is abandoned, and the rest is back then."""
        stack, self._frames.stack = self._frames.stack, []
        token = set_leaf(self._around())
        for frame in reversed(stack):
            tell_suspended(frame.scope)
        try:
            yield
        finally:
            try:
                self._unwind(-1, Status.ABANDONED, None)
            finally:
                self._frames.stack = stack
                restore(token)
                for frame in stack:
                    tell_resumed(frame.scope)

    @contextmanager
    def attach(self) -> Iterator[Self]:
        """Put what this host has open in force here: in another thread or task, or when its turn has come."""
        outers = [(frame.scope, frame.scope.outer) for frame in self._frames.stack]
        for scope, _ in outers:
            scope.outer = scope.parent  # where this context goes on when it is popped here
            tell_resumed(scope)
        token = set_leaf(self._around())
        try:
            yield self
        finally:
            for scope, outer in reversed(outers):
                scope.outer = outer
                tell_suspended(scope)
            restore(token)


def _plan(function: object, definition: D, kind: type[D]) -> HostPlan:
    name = parse_name(function, "function")
    if not isinstance(definition, kind):
        raise DefinitionError(f"definition of {name!r} must be a {kind.__name__}, not {definition!r}")
    return HostPlan(replace(definition, function=name))


def _raise_stray(stray: ScopeOrderError | None, error: object) -> None:
    if stray is not None:
        raise stray from (error if isinstance(error, BaseException) else None)


def _outcome(status: Status | str, error: BaseException | str | None) -> tuple[Status, ReceiptError | None]:
    try:
        ended = Status(status)
    except ValueError:
        known = ", ".join(repr(str(one)) for one in Status)
        raise ValueError(f"status must be one of {known}, not {status!r}") from None
    if error is None:
        return ended, None
    if ended not in _WITH_ERROR:
        raise ValueError(f"error must be None for a step that ended as {ended}, not {error!r}")
    return ended, describe(error) if isinstance(error, BaseException) else ReceiptError("Error", error)
