"""The scopes: one for each activation of a run, persona or step, linked to the scope around it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Self

from ._amount import part, unpacked
from ._budget import BUDGET_FIELDS, Budget, Limits, Usage, in_units
from ._charge import charge, exceeded
from ._meter import Meter, meter_of, shown
from ._money import dollars
from ._policy import Policy
from ._queue import look
from ._receipt import CallRecord, Receipt, ReceiptError, Status
from ._tally import KEPT_RECORDS, NO_DETAIL, NO_EXTRA, NO_USAGE, Detail, Extra, missed_warning
from .errors import ForkedRunError, RunClosedError

if TYPE_CHECKING:
    from ._hold import Hold
    from ._kinds import PersonaScope
    from ._plan import Plan
    from ._queue import Waiter
    from ._run import Run
    from ._tree import Tree

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Scope:
    """Represent one activation of a run, persona or step; once closed, its numbers stay readable.

    Attributes:
        parent: The scope around it, or None.
        policy: The policy in force in it.
        status: How it ended, or None while it is open.
    """

    kind: ClassVar[str]
    __slots__ = (
        "_model", "closed_ns", "detail", "flow", "holds", "last_model", "limits", "meter", "opened_ns", "outer",
        "parent", "persona_scope", "plan", "policy", "queue", "run", "serial", "status", "tree",
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
    meter: Meter | None
    detail: Detail | None
    queue: list[Waiter] | None
    holds: set[Hold] | None
    last_model: str | None

    # There is no `__init__`: calling a class that has one costs as much again as all of this.
    def open_under(self, plan: Plan, parent: Scope, outer: Scope | None) -> Self:
        """Open as what *plan* declares, under *parent*; *outer* is the context's leaf again when it is left."""
        self.plan = plan
        self.parent = parent
        self.outer = outer
        self.run = parent.run
        self.tree = tree = parent.tree
        self.persona_scope = persona = parent.persona_scope
        self.limits = plan.limits
        self._model = plan.model or parent._model
        stage = None
        if persona is not None and persona.plan.stages:
            stage = persona.plan.stages.get(plan.staged_as)
            if stage is not None:
                persona.matched.add(plan.name)
        met_policy, met_stage, policy = plan.met
        if met_policy is not parent.policy or met_stage is not stage:
            policy = plan.meet(parent.policy, stage)
        self.policy = policy
        self.status = self.meter = self.detail = self.queue = self.holds = self.last_model = self.flow = None
        self.opened_ns = tree.clock()
        self.serial = serial = next(tree.serials)
        tree.open[serial] = self
        return self

    def __repr__(self) -> str:
        state = self.status or ("open" if self.tree.open.get(self.serial) is self else "not open")
        return f"<{self.kind} {self.name!r}, {state}, {self.id}>"

    @property
    def id(self) -> str:
        """The id of this activation, unique across runs and processes."""
        return f"{self.run.id}.{self.serial}"

    @property
    def name(self) -> str:
        """The name that was declared."""
        return self.plan.name

    @property
    def function(self) -> str:
        """``__name__`` of the function; for a block, its name."""
        return self.plan.function

    @property
    def persona(self) -> str | None:
        """The name of the innermost persona around it (its own, for a persona), or None."""
        return None if self.persona_scope is None else self.persona_scope.plan.name

    @property
    def model(self) -> str | None:
        """The default model in force here, or None."""
        return self._model

    @property
    def budget(self) -> Budget:
        """The limits of its own that are in force."""
        return Budget() if self.limits is None else self.limits.budget

    @property
    def own(self) -> Usage:
        """What it spent itself; nothing is added once it has closed, since what is late is another's own."""
        with self.tree.reading:
            return self._usage("own")

    @property
    def total(self) -> Usage:
        """What it and everything under it spent; frozen once it has closed."""
        with self.tree.reading:
            frozen = None if self.detail is None else self.detail.frozen
            return self._usage("total") if frozen is None else frozen.total

    @property
    def held(self) -> Usage:
        """What open calls in and under it hold."""
        with self.tree.reading:
            meter = self.meter
            extra = self.detail.total if self.detail else NO_EXTRA
            return NO_USAGE if meter is None else shown(meter.taken - meter.headway - meter.total - extra.uncertain)

    @property
    def uncertain(self) -> Usage:
        """What is set aside for calls that were sent and whose cost never became known."""
        with self.tree.reading:
            extra = self.detail.total if self.detail else NO_EXTRA
            return shown(extra.uncertain)

    @property
    def remaining(self) -> Budget:
        """What the whole chain leaves: limit - spent - uncertain - held, never below 0."""
        left: dict[str, int] = {}
        with self.tree.reading:
            scope: Scope | None = self
            while scope is not None:
                if scope.limits is not None:
                    for limit, value in scope.limits.items():
                        if value is not None:
                            room = max(0, value - scope.spent(limit) - scope.aside(limit))
                            left[limit] = min(room, left.get(limit, room))
                scope = scope.parent
        return Budget(**{limit: in_units(limit, room) for limit, room in left.items()})  # type: ignore[arg-type]

    @property
    def elapsed(self) -> float:
        """Seconds since it was opened; once closed, the seconds that it was open."""
        return self.elapsed_ns() / 1e9

    @property
    def error(self) -> ReceiptError | None:
        """What ended it, once closed as failed, skipped, escalated or denied."""
        return self.detail.error if self.detail else None

    @property
    def overshoot(self) -> Usage:
        """By how much its limits are passed; a token excess counts as output first."""
        limits = self.limits
        if limits is None or self.meter is None:
            return NO_USAGE
        spent = self.total
        over = {limit: 0 if value is None else max(0, self.spent(limit) - value) for limit, value in limits.items()}
        output = min(max(over["max_output_tokens"], over["max_tokens"]), spent.output_tokens)
        return Usage(
            input_tokens=max(over["max_input_tokens"], over["max_tokens"] - output),
            output_tokens=output,
            cost_usd=dollars(over["max_usd"]),
            calls=over["max_calls"],
            tool_calls=over["max_tool_calls"],  # only where a signal handler raised while one was refused
        )

    @property
    def receipt(self) -> Receipt | None:
        """The receipt, once closed; a run leaves none."""
        status = self.status
        if status is None or self.kind == "run":
            return None
        detail = self.detail or NO_DETAIL
        if detail.frozen is not None:
            return detail.frozen
        return Receipt(
            kind=self.kind,
            run_id=self.run.id,
            step_id=self.id,
            parent_id=None if self.parent is None else self.parent.id,
            persona=self.persona,
            name=self.name,
            function=self.function,
            stage=self.stage,
            status=status,
            error=detail.error,
            model=self.last_model or self.plan.model,
            own=self.own,
            total=self.total,
            budget=self.budget,
            overshoot=self.overshoot,
            uncertain=self.uncertain,
            open_holds=detail.handed_over,
            clamped_calls=detail.clamped,
            started_at=_EPOCH + timedelta(microseconds=(self.tree.anchor_ns + self.opened_ns) // 1_000),
            duration=self.elapsed,
            calls=tuple(
                CallRecord(model, tokens_in, tokens_out, dollars(cost), outcome, clamped)
                for model, amount, outcome, clamped in detail.calls[-KEPT_RECORDS:]
                for tokens_in, tokens_out, cost, _ in (unpacked(amount),)
            ),
            tools=tuple(detail.tools[-KEPT_RECORDS:]),
            late=shown(detail.late),
            warnings=(*detail.warnings, *missed_warning(*detail.missed)),
        )

    def check(self) -> None:
        """Raise if a limit on the chain is passed; count nothing.

        Raises:
            BudgetExceededError: For the outermost scope with a limit that is passed.
        """
        with self.tree.lock:
            passed = charge(None, meter_of(self), 0)
            if passed is not None:
                raise exceeded(passed.scope, "record")

    def extend(self, budget: Budget) -> None:
        """Raise the limits of this open scope; the receipt records it.

        Args:
            budget: The new limits; a field that is None stays as it is.

        Raises:
            TypeError: If it is not a `Budget`.
            ValueError: If a limit is lower than the one in force, or none is in force; then nothing changes.
            RunClosedError: If the scope has ended.
        """
        if not isinstance(budget, Budget):
            raise TypeError(f"extend takes a Budget with the new limits, not {budget!r}")
        with self.tree.lock:
            if self.status is not None:
                raise RunClosedError(f"{self.kind} `{self.name}` has ended, and its budget with it")
            old = self.budget
            given = {name: getattr(budget, name) for name in BUDGET_FIELDS if getattr(budget, name) is not None}
            for name, value in given.items():
                current = getattr(old, name)
                if current is None:
                    raise ValueError(f"{name}={value} would limit {self.kind} `{self.name}`, which has no {name}")
                if value < current:
                    raise ValueError(f"{name}={value} is lower than {current}, in force in {self.kind} `{self.name}`")
            if not given:
                return
            self.limits = limits = Limits(replace(old, **given))
            if self.meter is not None:
                self.meter.put_under(limits)
            changes = ", ".join(f"{name} {getattr(old, name)} -> {value}" for name, value in given.items())
            self.make_detail().warnings += (f"budget extended: {changes}",)
            look(self)
            if "max_seconds" in given and self.detail is not None and self.detail.reschedule is not None:
                self.detail.reschedule()

    @property
    def stage(self) -> str | None:
        """The persona's stage that matched it, or None."""
        persona = self.persona_scope
        stages = None if persona is None or persona is self else persona.plan.stages
        return self.name if stages and self.name in stages else None

    # What the runtime reads and writes.

    def make_detail(self) -> Detail:
        """Return what only some scopes have, making it where it is missing."""
        if self.detail is None:
            made = Detail()
            # A finaliser may have made one meanwhile, and counted in it; the first one counts.
            if self.detail is None:
                self.detail = made
        return self.detail

    def elapsed_ns(self) -> int:
        """Nanoseconds since it was opened; once closed, those that it was open."""
        return (self.closed_ns if self.status is not None else self.tree.clock()) - self.opened_ns

    def spent(self, limit: str) -> int:
        """Return what is spent of *limit*, late usage included, in internal units."""
        if limit == "max_seconds":
            return self.tree.clock() - self.opened_ns
        return 0 if self.meter is None else self.meter.spent(limit)

    def aside(self, limit: str) -> int:
        """Return what is held and uncertain of *limit*, in internal units."""
        return 0 if self.meter is None else self.meter.aside(limit)

    def uncertain_of(self, limit: str) -> int:
        """Return what is uncertain of *limit*, in internal units."""
        extra = self.detail.total if self.detail else NO_EXTRA
        return 0 if limit == "max_seconds" else part(extra.uncertain, limit)

    def freeze(self) -> None:
        """Keep the receipt as it is, before anything changes after the scope has closed; a run leaves none."""
        receipt = self.receipt  # the frozen one, where there is one
        self.make_detail().frozen = receipt

    def _usage(self, which: str) -> Usage:
        extra: Extra = getattr(self.detail, which) if self.detail else NO_EXTRA
        return NO_USAGE if self.meter is None else self.meter.usage(which, extra)

    def close(self, status: Status, error: ReceiptError | None = None) -> bool:
        """End the activation: hand its open holds to the nearest open scope and keep its receipt; once only.

        No lock is taken. Usage that another thread adds at this moment came just before or just after: what is read
        later is read under the lock. A hold that another thread opens at this moment is handed over by whoever of the
        two comes second.

        Args:
            status: How it ended.
            error: What ended it, for failed, skipped, escalated and denied.

        Returns:
            Whether it was open.
        """
        try:
            closed_ns = self.tree.clock()
        except ForkedRunError:
            return False  # the activation belongs to the parent process, which leaves its receipt
        was_open = self.status is None
        if was_open:
            if error is not None:
                self.make_detail().error = error
            self.closed_ns = closed_ns
            self.status = status
            self.run.keep(self)
        elif self.is_half_closed:
            self.run.memory.keep_once(self)
            if self.run.journal is not None:
                self.run.journal.closed(self)
        else:
            return False
        if self.meter is not None:
            self.meter.is_late = True
        if self.holds:
            self.hand_over()
        self.tree.open.pop(self.serial, None)
        return was_open

    @property
    def is_half_closed(self) -> bool:
        """Whether a signal handler raised while it closed; closing it once more makes up for that."""
        return self.status is not None and self.tree.open.get(self.serial) is self

    def hand_over(self) -> None:
        """Hand the open holds of this closed scope to the nearest open one."""
        with self.tree.lock:
            heir = self.nearest_open_around()
            detail = self.make_detail()
            holds = self.holds or set()
            count = sum(hold.is_open for hold in holds)
            # Nothing is called between these, so that no hold is without a keeper.
            detail.handed_over += count
            heir.holds = heir.holds | holds if heir.holds else holds
            self.holds = None
            for hold in holds:
                hold.keeper = heir

    def nearest_open_around(self) -> Scope:
        """Return the nearest open scope around this one; where none is open, its run."""
        scope = self.parent
        while scope is not None:
            if scope.status is None:
                return scope
            scope = scope.parent
        return self.run
