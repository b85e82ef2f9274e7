"""A declaration compiled for the hot path, once, when it is decorated or registered."""

from __future__ import annotations

from typing import Any

from ._account import Account
from ._boundary import ErrorBoundary
from ._budget import Limits
from ._definition import PersonaDefinition, Stage, StepDefinition
from ._policy import UNRESTRICTED, Policy


class Plan:
    """Hold what opening a scope needs of its declaration.

    Args:
        definition: What was declared.
    """

    __slots__ = (
        "accounts", "boundary", "default_max_output_tokens", "definition", "fallback", "function", "kind", "limits",
        "met", "model", "name", "policy", "staged_as", "stages",
    )  # fmt: skip

    def __init__(self, definition: StepDefinition | PersonaDefinition) -> None:
        self.definition = definition
        self.name = definition.name
        self.function = definition.function
        self.model = definition.model
        self.limits = Limits.of(definition.budget)
        self.policy = Policy(definition.tools, definition.side_effect_level)
        self.boundary = ErrorBoundary.FAIL
        self.fallback: Any = None
        self.default_max_output_tokens: int | None = None
        self.accounts: tuple[Account, ...] = ()
        self.stages: dict[str | None, Stage] = {}
        # By which name a persona's stages know it; None for what is no step.
        self.staged_as: str | None = None
        if isinstance(definition, StepDefinition):
            self.kind = "step"
            self.staged_as = definition.name
            self.boundary = definition.error_boundary
            self.fallback = definition.fallback
            self.default_max_output_tokens = definition.default_max_output_tokens
        else:
            self.kind = "persona"
            self.accounts = definition.accounts
            self.stages = {stage.step: stage for stage in definition.stages}
        # The last meeting, as one tuple so that threads see it whole: activations nearly always repeat it.
        self.met: tuple[Policy, Stage | None, Policy] = (UNRESTRICTED, None, self.policy)

    def meet(self, parent: Policy, stage: Stage | None) -> Policy:
        """Return the policy in force under *parent* and *stage*, and remember it for the next activation."""
        policy = parent if stage is None else parent & stage.policy
        policy &= self.policy
        self.met = (parent, stage, policy)
        return policy
