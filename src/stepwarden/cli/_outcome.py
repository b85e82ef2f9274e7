"""How a run of an agent ended, and what the process tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import stepwarden as sw

from ._json import plain_output
from ._problem import describe, message_of


class Ending(StrEnum):
    """Tell how a run ended."""

    DONE = "done"
    FAILED = "failed"
    BUDGET_EXCEEDED = "budget_exceeded"
    ESCALATED = "escalated"
    LEDGER_FAILED = "ledger_failed"
    CANCELLED = "cancelled"


_EXIT_STATUS = {
    Ending.DONE: 0,
    Ending.FAILED: 1,
    Ending.BUDGET_EXCEEDED: 3,
    Ending.ESCALATED: 3,
    Ending.LEDGER_FAILED: 4,
    Ending.CANCELLED: 130,  # what a shell reports for a process that Ctrl-C has ended
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold how a run ended.

    Args:
        run: The run, which has ended.
        output: What the persona gave out; what it gave so far, where it raised.
        error: What left the persona, or None.
    """

    run: sw.Run
    output: object
    error: BaseException | None

    @property
    def ending(self) -> Ending:
        """How the run ended."""
        match _told(self.error):
            case None:
                return Ending.DONE
            case KeyboardInterrupt():
                return Ending.CANCELLED
            case sw.BudgetExceededError():
                return Ending.BUDGET_EXCEEDED
            case sw.EscalationError():
                return Ending.ESCALATED
            case sw.LedgerError():
                return Ending.LEDGER_FAILED
            case _:
                return Ending.FAILED

    @property
    def exit_status(self) -> int:
        """The exit status that tells of it."""
        return _EXIT_STATUS[self.ending]

    @property
    def problem(self) -> str | None:
        """What the one line on stderr says, or None where nothing went wrong."""
        told = _told(self.error)
        if told is None:
            return None
        if isinstance(told, KeyboardInterrupt):
            return "interrupted"
        if isinstance(told, sw.StepwardenError):
            return "; ".join((str(told), *getattr(told, "__notes__", ())))  # the notes say what to do
        return f"{self.run.name} failed: {describe(told)}"

    def as_record(self, **more: object) -> dict[str, object]:
        """Return what `--json` writes.

        Args:
            more: What the command adds.
        """
        run = self.run
        return {
            "status": self.ending,
            "output": plain_output(self.output),
            "error": self._error_record(),
            "run": {
                "id": run.id,
                "name": run.name,
                "budget": run.budget,
                "total": run.total,
                "held": run.held,
                "uncertain": run.uncertain,
            },
            **more,
            "receipts": run.receipts,
        }

    def _error_record(self) -> Mapping[str, Any] | None:
        told = _told(self.error)
        if told is None:
            return None
        if isinstance(told, sw.BudgetExceededError | sw.EscalationError):
            return told.as_dict()
        return {"type": type(told).__name__, "message": message_of(told)}


def _told(error: BaseException | None) -> BaseException | None:
    """Return the error that is told: of a group of nothing but exhaustions the first, as boundaries see it."""
    if isinstance(error, BaseExceptionGroup):
        leaves = _leaves(error)
        if all(isinstance(leaf, sw.BudgetExceededError | sw.EscalationError) for leaf in leaves):
            return leaves[0]
    return error


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
