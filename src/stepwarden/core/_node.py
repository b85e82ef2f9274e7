"""The mutable heart of a scope: its counters and its link to the scope around it, laid out for the hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ._budget import Limits, Usage
from ._money import dollars
from ._policy import Policy
from ._tally import NO_EXTRA, NOTHING, Detail, Extra

if TYPE_CHECKING:
    from ._hold import Hold
    from ._kinds import PersonaScope
    from ._plan import Plan
    from ._queue import Waiter
    from ._receipt import Status
    from ._run import Run
    from ._scope import Scope
    from ._tree import Tree

# The counter behind each limit, and the limits that a hold counts toward.
_COUNTER = {
    "max_input_tokens": "input",
    "max_output_tokens": "output",
    "max_usd": "cost",
    "max_calls": "calls",
    "max_tool_calls": "tools",
}
_RESERVED = frozenset({"max_tokens", "max_input_tokens", "max_output_tokens", "max_usd", "max_calls"})


class Node:
    """Be one activation: what it may spend, what it and everything under it spent, and what is set aside.

    `aside_*` is held and uncertain together, what no further call may have; `total_*` keeps counting after the
    scope has closed, since whoever outlives it stays under its limits, while `own` and `total` are then frozen.
    """

    kind: ClassVar[str]
    __slots__ = (
        "_model", "aside_calls", "aside_cost", "aside_input", "aside_output", "closed_ns", "detail", "flow", "holds",
        "last_model", "limits", "opened_ns", "outer", "own_calls", "own_cost", "own_input", "own_output", "own_tools",
        "parent", "persona_scope", "plan", "policy", "queue", "run", "serial", "status", "total_calls", "total_cost",
        "total_input", "total_output", "total_tools", "tree",
    )  # fmt: skip

    plan: Plan
    parent: Scope | None
    outer: Scope | None
    run: Run
    tree: Tree
    persona_scope: PersonaScope | None
    policy: Policy
    _model: str | None
    limits: Limits | None
    status: Status | None
    flow: object
    detail: Detail | None
    queue: list[Waiter] | None
    holds: set[Hold] | None
    last_model: str | None

    def __init__(self, plan: Plan, parent: Scope, outer: Scope | None) -> None:
        self.plan = plan
        self.parent = parent
        self.outer = outer
        self.run = parent.run
        self.tree = tree = parent.tree
        self.persona_scope = persona = parent.persona_scope
        self.limits = plan.limits
        self._model = plan.model or parent._model
        stage = None
        if persona is not None and persona.plan.stages and plan.kind == "step":
            stage = persona.meet_stage(plan.name)
        met = plan.met
        if met[0] is parent.policy and met[1] is stage:
            self.policy = met[2]
        else:
            self.policy = plan.meet(parent.policy, stage)
        self.own_input = self.own_output = self.own_cost = self.own_calls = self.own_tools = 0
        self.total_input = self.total_output = self.total_cost = self.total_calls = self.total_tools = 0
        self.aside_input = self.aside_output = self.aside_cost = self.aside_calls = 0
        self.status = self.detail = self.queue = self.holds = self.last_model = self.flow = None
        self.serial = next(tree.serials)
        self.closed_ns = 0
        self.opened_ns = tree.clock()
        tree.open.add(self)  # type: ignore[arg-type] # only scopes are made

    # What the runtime reads and writes, under the tree's lock.

    def make_detail(self) -> Detail:
        """Return what only some scopes have, making it where it is missing."""
        if self.detail is None:
            self.detail = Detail()
        return self.detail

    def elapsed_ns(self) -> int:
        """Nanoseconds since it was opened; once closed, those that it was open."""
        return (self.closed_ns if self.status is not None else self.tree.clock()) - self.opened_ns

    def spent(self, limit: str) -> int:
        """Return what is spent of *limit*, late usage included, in internal units."""
        if limit == "max_tokens":
            return self.total_input + self.total_output
        if limit == "max_seconds":
            return self.tree.clock() - self.opened_ns
        return int(getattr(self, f"total_{_COUNTER[limit]}"))

    def aside(self, limit: str) -> int:
        """Return what is held and uncertain of *limit*, in internal units."""
        if limit == "max_tokens":
            return self.aside_input + self.aside_output
        return int(getattr(self, f"aside_{_COUNTER[limit]}")) if limit in _RESERVED else 0

    def uncertain_of(self, limit: str) -> int:
        """Return what is uncertain of *limit*, in internal units."""
        tally = self.detail.uncertain if self.detail else NOTHING
        if limit == "max_tokens":
            return tally.input + tally.output
        return int(getattr(tally, _COUNTER[limit])) if limit in _RESERVED else 0

    def freeze(self) -> None:
        """Keep `own` and `total` as they are, since usage arrives after the scope has closed."""
        detail = self.make_detail()
        if detail.frozen is None:
            detail.frozen = (self._usage("own"), self._usage("total"))

    def _usage(self, which: str) -> Usage:
        extra: Extra = getattr(self.detail, which) if self.detail else NO_EXTRA
        return Usage(
            input_tokens=getattr(self, f"{which}_input"),
            output_tokens=getattr(self, f"{which}_output"),
            cache_read_tokens=extra.cache_read,
            cache_write_tokens=extra.cache_write,
            reasoning_tokens=extra.reasoning,
            cost_usd=dollars(getattr(self, f"{which}_cost")),
            calls=getattr(self, f"{which}_calls"),
            tool_calls=getattr(self, f"{which}_tools"),
            unpriced_calls=extra.unpriced,
            estimated_calls=extra.estimated,
        )
