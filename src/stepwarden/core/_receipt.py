"""What a finished step or persona leaves: its receipt, made when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from ._budget import Budget, Usage


class Status(StrEnum):
    """Tell how an activation ended.

    Attributes:
        COMPLETED: It returned.
        FAILED: An exception left it.
        SKIPPED: It used up its own budget, and returned its fallback.
        ESCALATED: It used up its own budget, and raised an `EscalationError`.
        DENIED: A PreStep hook refused it, and its body did not run.
        CANCELLED: It was cancelled, interrupted from the keyboard, or a generator that was closed early.
        ABANDONED: It was still open when the scope around it ended.
    """

    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ESCALATED = "escalated"
    DENIED = "denied"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class ReceiptError(NamedTuple):
    """Name the error that ended an activation.

    Args:
        type: The class name of the error.
        message: Its text.
    """

    type: str
    message: str


class CallRecord(NamedTuple):
    """Tell of one model call.

    Args:
        model: The model that was called, or None where it was not named.
        input_tokens: Input tokens charged.
        output_tokens: Output tokens charged.
        cost_usd: US dollars charged.
        outcome: ``"recorded"`` (after the fact), ``"settled"`` or ``"uncertain"``.
        clamped: Whether the output limit was lowered to fit the budget.
    """

    model: str | None
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    outcome: str
    clamped: bool


class ToolRecord(NamedTuple):
    """Tell of one tool call.

    Args:
        name: The tool's name.
        outcome: ``"completed"``, ``"failed"``, ``"cancelled"`` (a generator that is closed early too), ``"denied"`` or
            ``"refused"`` (over a tool limit).
        reason: Why it was denied or refused, or how it failed; else None.
    """

    name: str
    outcome: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Record one activation of a step or persona.

    Args:
        kind: ``"step"`` or ``"persona"``.
        run_id: The id of the run that it belongs to.
        step_id: The id of this activation.
        parent_id: The id of the scope around it.
        persona: The name of the persona that it ran in (its own name for a persona), or None.
        name: The step's or persona's name.
        function: ``__name__`` of its function; for a block, its name.
        stage: The persona's stage that matched it, or None.
        status: How it ended.
        error: What ended it, for failed, skipped, escalated and denied.
        model: The last model used, else the declared one, else None.
        own: What it spent itself.
        total: What it and everything under it spent.
        budget: The limits in force at its end.
        overshoot: By how much its limits were passed; a token excess counts as output first.
        uncertain: What stays set aside for calls whose cost never became known.
        open_holds: How many holds it handed to the scope around it when it closed.
        clamped_calls: How many of its calls got a lower output limit than they asked for.
        started_at: When it was opened, in UTC.
        duration: How long it was open, in seconds.
        calls: Its model calls, the newest 1,000.
        tools: Its tool calls, the newest 1,000.
        late: The part of `own` that came from work which outlived a step inside it.
        warnings: What a reader should know, such as a budget that was extended, or by how much the input of its calls
            was estimated too low.
    """

    kind: str
    run_id: str
    step_id: str
    parent_id: str | None
    persona: str | None
    name: str
    function: str
    stage: str | None
    status: Status
    error: ReceiptError | None
    model: str | None
    own: Usage
    total: Usage
    budget: Budget
    overshoot: Usage
    uncertain: Usage
    open_holds: int
    clamped_calls: int
    started_at: datetime
    duration: float
    calls: tuple[CallRecord, ...]
    tools: tuple[ToolRecord, ...]
    late: Usage
    warnings: tuple[str, ...]

    def completed_step(self) -> dict[str, Any]:
        """Return the receipt as a short JSON-ready dict, with what the step itself spent.

        Returns:
            A dict with *name*, *function*, *model*, *input_tokens*, *output_tokens*, *cost_usd* (as a float),
            *llm_calls*, *status* and *error* (its message).
        """
        return {
            "name": self.name,
            "function": self.function,
            "model": self.model,
            "input_tokens": self.own.input_tokens,
            "output_tokens": self.own.output_tokens,
            "cost_usd": float(self.own.cost_usd),
            "llm_calls": self.own.calls,
            "status": str(self.status),
            "error": None if self.error is None else self.error.message,
        }
