"""The kinds of scope that are no run: steps, personas, and what stands in while a hook runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ._hooks import armed
from ._receipt import ReceiptError, Status
from ._scope import Scope
from ._settings import settings

if TYPE_CHECKING:
    from ._plan import Plan


class StepScope(Scope):
    """Represent one activation of a step, open or closed; `current_step` and ``with step(...)`` give it.

    Attributes:
        parent: The scope around it.
        policy: The policy in force in it.
        status: How it ended, or None while it is open.
    """

    kind = "step"
    __slots__ = ()


class PersonaScope(Scope):
    """Represent one activation of a persona, open or closed; `current_persona` and ``with persona(...)`` give it.

    Attributes:
        parent: The scope around it.
        policy: The policy in force in it.
        status: How it ended, or None while it is open.
    """

    kind = "persona"
    __slots__ = ("matched",)

    matched: set[str]

    def open_under(self, plan: Plan, parent: Scope, outer: Scope | None) -> Self:
        """Open, with no stage met yet."""
        self.matched = set()
        super().open_under(plan, parent, outer)
        self.persona_scope = self
        if plan.accounts:
            armed.calls = True
            self.run.funds = self.run.funds or settings.load_funds()
        return self

    def close(self, status: Status, error: ReceiptError | None = None) -> bool:
        """End the activation, with a warning for every stage that no step met."""
        missed = [step for step in self.plan.stages if step not in self.matched]
        if missed and self.status is None and not self.tree.is_forked:
            self.make_detail().warnings += tuple(f"stage {step!r} matched no step" for step in missed)
        return super().close(status, error)


class HookScope(Scope):
    """Stand in for a step's parent while a hook runs: its spend is the parent's, and it has no default model."""

    kind = "hook"
    __slots__ = ()

    def __init__(self, parent: Scope) -> None:
        self.parent = parent
        self.run = parent.run
        self.tree = parent.tree
        self.persona_scope = parent.persona_scope
        self.policy = parent.policy
        self._model = None
        # Never open: whatever happens under it is sent to the parent by the slow path.
        self.status = Status.COMPLETED
        self.flow = None
