"""The scopes that one host has open, each with the depth of its call frame: a stack over the tree of scopes."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._activation import open_scope
from ._kinds import HookScope
from ._leaf import get_leaf, leave, resolve
from ._memory import MemoryLedger
from ._plan import Plan
from ._receipt import ReceiptError, Status
from ._run import Run
from ._scope import Scope
from ._tree import current_flow
from .errors import RunClosedError, ScopeOrderError


class HostPlan(Plan):
    """Mark what hosts push, so that none takes what another one pushed for its own."""

    __slots__ = ()


class HostRun(Run):
    """Mark the run that a host opened."""

    __slots__ = ()


class Frame(NamedTuple):
    """Pair one scope of a host with its frame.

    Args:
        depth: The number of frames on the host's stack with the one that it belongs to.
        scope: The scope.
        args: What its function was called with.
    """

    depth: int
    scope: Scope
    args: tuple[Any, ...]


class Frames:
    """Hold what a host has open, innermost last, and which of its steps have ended."""

    __slots__ = ("completed", "stack")

    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.completed = MemoryLedger()

    def innermost(self, *, step: bool = False) -> Frame | None:
        """Return the innermost frame, or the innermost of a step, or None."""
        while self.stack and self.stack[-1].scope.status is not None:
            self.complete(self.stack.pop().scope)  # ended from elsewhere: with its run, or with a step around
        return next((frame for frame in reversed(self.stack) if not step or frame.scope.kind == "step"), None)

    def step_at(self, depth: int) -> Frame | None:
        """Return the innermost frame of a step, if its depth is *depth*."""
        frame = self.innermost(step=True)
        return frame if frame is not None and frame.depth == depth else None

    def push(self, plan: Plan, depth: int, args: tuple[Any, ...], parent: Scope) -> None:
        """Open a scope inside *parent*, or inside what Python code has opened in it.

        Raises:
            RunClosedError: If the run has ended.
        """
        if parent.run.status is not None:
            raise RunClosedError(f"run `{parent.run.name}` has ended; no {plan.kind} `{plan.name}` opens under it")
        current = get_leaf()
        resolved = resolve(current)
        if resolved is not None and _is_inside(resolved, parent):
            parent = resolved
        scope = open_scope(plan, parent, current if isinstance(current, HookScope) else resolved, current)
        scope.flow = current_flow()
        self.stack.append(Frame(depth, scope, tuple(args)))

    def end(self, status: Status, error: ReceiptError | None, above: Frame | None = None) -> ScopeOrderError | None:
        """End the innermost scope, or all of those above a frame.

        Returns:
            The error to raise where scopes that Python code opened inside were still open, and are now abandoned.
        """
        stray: ScopeOrderError | None = None
        while self.stack[-1] is not above:
            scope = self.stack.pop().scope
            stray = leave(scope, status, error) or stray
            self.complete(scope)
            if above is None:
                break
        return stray

    def unwind(self, depth: int, status: Status, error: ReceiptError | None) -> ScopeOrderError | None:
        """End all scopes of deeper frames than *depth*, innermost first; return what `end` does."""
        stray: ScopeOrderError | None = None
        while (frame := self.innermost()) is not None and frame.depth > depth:
            stray = self.end(status, error) or stray
        return stray

    def complete(self, scope: Scope) -> None:
        """Keep the receipt of a step that has ended."""
        if scope.kind == "step":
            self.completed.keep(scope)


def _is_inside(scope: Scope | None, parent: Scope) -> bool:
    """Tell whether *scope* lies inside *parent* by scopes of Python code alone, and not by another host's."""
    while scope is not None and scope is not parent and not isinstance(scope.plan, HostPlan):
        scope = None if isinstance(scope, HostRun) else scope.parent
    return scope is parent
