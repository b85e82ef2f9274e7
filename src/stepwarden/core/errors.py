"""Every error that stepwarden raises, in one tree; each is also the fitting builtin.

::

    StepwardenError(Exception)
    ├── DefinitionError (ValueError)
    ├── BudgetExceededError (RuntimeError)
    ├── EscalationError (RuntimeError)
    ├── ReserveTimeoutError (TimeoutError)
    ├── WouldBlockError, HoldClosedError, RunClosedError, ScopeOrderError, ForkedRunError (RuntimeError)
    ├── PolicyViolationError
    │   ├── ToolDeniedError
    │   └── AccountPausedError
    ├── HookDeniedError
    ├── UnpricedModelError (LookupError)
    ├── ManifestError (ValueError)
    └── LedgerError
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._budget import Usage
    from ._policy import Policy

Amount = int | float | Decimal


def _rebuild(cls: type[StepwardenError], args: tuple[Any, ...]) -> StepwardenError:
    error = cls.__new__(cls, *args)
    # An OSError subclass drops the arguments given to __new__, so they are set here for all alike.
    error.args = args
    return error


class StepwardenError(Exception):
    """Stand at the root of every error that stepwarden raises."""

    def __reduce__(self) -> tuple[Callable[..., StepwardenError], tuple[Any, ...], dict[str, Any]]:
        # The default calls the class with `args` alone, and so loses keyword-only attributes.
        return _rebuild, (type(self), self.args), self.__dict__


class DefinitionError(StepwardenError, ValueError):
    """Report an invalid declaration, where it is declared."""


class BudgetExceededError(StepwardenError, RuntimeError):
    """Report that a limit was passed, or leaves no room for what was asked.

    Args:
        scope_kind: ``"account"``, ``"run"``, ``"persona"`` or ``"step"``.
        scope_name: The name of the scope whose limit it is.
        scope_id: The id of that activation; a boundary acts on its own only.
        function: ``__name__`` of the decorated function; for a block, its name.
        limit: The name of the `Budget` field.
        limit_value: The limit; tokens and calls as int, USD as `Decimal`, seconds as float.
        consumed: What was spent, in the same unit.
        requested: For a refusal, the least that would have been accepted; else None.
        held: What other calls hold, in the same unit.
        uncertain: What is set aside for calls whose cost never became known, in the same unit.
        reason: ``"no_room"`` if the call was refused before it was made, ``"exceeded"`` if it passed the limit,
            ``"deadline"`` if the time is over, ``"would_deadlock"`` if it would have had to wait while its own context
            has a hold open.
        phase: What met the limit: ``"reserve"``, ``"settle"``, ``"record"``, ``"tool"`` or ``"deadline"``.
        usage: What the scope had spent in all.
        error_boundary: What the scope declared to do about it.
        partial: The text received before a stream was ended, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        scope_kind: str,
        scope_name: str,
        scope_id: str,
        function: str,
        limit: str,
        limit_value: Amount,
        consumed: Amount,
        requested: Amount | None = None,
        held: Amount = 0,
        uncertain: Amount = 0,
        reason: str = "exceeded",
        phase: str = "record",
        usage: Usage,
        error_boundary: str = "fail",
        partial: str | None = None,
    ) -> None:
        super().__init__(message)
        self.scope_kind = scope_kind
        self.scope_name = scope_name
        self.scope_id = scope_id
        self.function = function
        self.limit = limit
        self.limit_value = limit_value
        self.consumed = consumed
        self.requested = requested
        self.held = held
        self.uncertain = uncertain
        self.reason = reason
        self.phase = phase
        self.usage = usage
        self.error_boundary = error_boundary
        self.partial = partial

    def as_dict(self) -> dict[str, Any]:
        """Return the error as a JSON-ready dict, for a log, or for the code that decides what to do.

        Returns:
            A dict with *category*, *kind*, *reason*, *step* (the scope's name), *function*, *limit*, *limit_value*,
            *consumed_tokens*, *consumed_cost_usd* (as a float), *error_boundary* and *message*.
        """
        value = self.limit_value
        return {
            "category": "budget_exceeded",
            "kind": "budget_exhausted",
            "reason": "step_budget_exhausted",
            "step": self.scope_name,
            "function": self.function,
            "limit": self.limit,
            "limit_value": float(value) if isinstance(value, Decimal) else value,
            "consumed_tokens": self.usage.total_tokens,
            "consumed_cost_usd": float(self.usage.cost_usd),
            "error_boundary": self.error_boundary,
            "message": str(self),
        }


class EscalationError(StepwardenError, RuntimeError):
    """Report a step's exhaustion to the code above the persona; no `continue` absorbs it.

    Args:
        step: The name of the step that escalated.
        function: ``__name__`` of its function; for a block, its name.
        error: The `BudgetExceededError` that the step ran into.
    """

    def __init__(self, message: str, *, step: str, function: str, error: BudgetExceededError) -> None:
        super().__init__(message)
        self.step = step
        self.function = function
        self.error = error

    def as_dict(self) -> dict[str, Any]:
        """Return the dict of the budget error, with *escalated* and the category ``"handoff_escalation"``."""
        return {**self.error.as_dict(), "escalated": True, "category": "handoff_escalation"}


class ReserveTimeoutError(StepwardenError, TimeoutError):
    """Report that a reservation waited as long as it may for other calls' holds.

    Args:
        waited: Seconds that it waited.
        scope_kind: The kind of the scope that it waited for.
        scope_name: The name of that scope.
        limit: The name of the `Budget` field that had no room.
    """

    def __init__(self, message: str, *, waited: float, scope_kind: str, scope_name: str, limit: str) -> None:
        super().__init__(message)
        self.waited = waited
        self.scope_kind = scope_kind
        self.scope_name = scope_name
        self.limit = limit


class WouldBlockError(StepwardenError, RuntimeError):
    """Report a sync `acquire` that would wait on a thread that runs an event loop."""


class HoldClosedError(StepwardenError, RuntimeError):
    """Report a `settle` or `release` of a hold that was settled or released before."""


class RunClosedError(StepwardenError, RuntimeError):
    """Report work that was started under a run that has ended."""


class ScopeOrderError(StepwardenError, RuntimeError):
    """Report a scope that was left while scopes inside it were still open."""


class ForkedRunError(StepwardenError, RuntimeError):
    """Report the use of an inherited run in a forked child process."""


class PolicyViolationError(StepwardenError):
    """Report an action that the policy in force does not allow."""


class ToolDeniedError(PolicyViolationError):
    """Report a tool call that the policy in force refused.

    Args:
        tool: The tool's name.
        reason: Why it was refused.
        policy: The policy that was in force.
    """

    def __init__(self, message: str, *, tool: str, reason: str, policy: Policy) -> None:
        super().__init__(message)
        self.tool = tool
        self.reason = reason
        self.policy = policy


class AccountPausedError(PolicyViolationError):
    """Report a call that was refused because an account that it would be charged to is paused.

    Args:
        account: The account's name.
        reason: Why it was paused, as given when it was; may be empty.
    """

    def __init__(self, message: str, *, account: str, reason: str) -> None:
        super().__init__(message)
        self.account = account
        self.reason = reason


class HookDeniedError(StepwardenError):
    """Report a step that a hook refused.

    Args:
        event: The name of the hook's event.
        reason: The reason that the hook gave.
        step: The name of the step.
    """

    def __init__(self, message: str, *, event: str, reason: str, step: str) -> None:
        super().__init__(message)
        self.event = event
        self.reason = reason
        self.step = step


class UnpricedModelError(StepwardenError, LookupError):
    """Report a call that a USD limit cannot bound, because its model has no price.

    Args:
        model: The model's name, or None where none was named.
    """

    def __init__(self, message: str, *, model: str | None) -> None:
        super().__init__(message)
        self.model = model


class ManifestError(StepwardenError, ValueError):
    """Report an invalid manifest.

    Args:
        problems: Every problem, each with the path of its field.
    """

    def __init__(self, message: str, *, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class LedgerError(StepwardenError):
    """Report that a ledger cannot write or read its records."""


class UnscopedCallWarning(RuntimeWarning):
    """Warn of a call outside every scope while a run is open elsewhere in the process."""
