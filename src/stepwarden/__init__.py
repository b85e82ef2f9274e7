"""A per-step runtime for LLM agents: budgets that hold under concurrency, policies that only narrow, receipts."""

from .core._boundary import ErrorBoundary
from .core._budget import Budget, Usage
from .core._definition import PersonaDefinition, Stage, StepDefinition
from .core._hold import Hold
from .core._hooks import BudgetThreshold, Deny, HookEvent, Hooks, ReplaceArgs, ReplaceOutput
from .core._kinds import PersonaScope, StepScope
from .core._leaf import current_persona, current_policy, current_step, default_model
from .core._memory import MemoryLedger
from .core._persona import definition, persona, persona_from_dict, register_persona
from .core._policy import Policy, SideEffect
from .core._propagate import propagate
from .core._receipt import CallRecord, Receipt, ReceiptError, Status, ToolRecord
from .core._record import record_usage
from .core._reserve import Reservation, reserve
from .core._run import Run, current_run, receipts
from .core._settings import configure, settings
from .core._step import register_step, step, step_from_dict
from .core._tool import ToolDefinition, tool
from .core.errors import (
    BudgetExceededError,
    DefinitionError,
    EscalationError,
    ForkedRunError,
    HoldClosedError,
    HookDeniedError,
    LedgerError,
    ManifestError,
    PolicyViolationError,
    ReserveTimeoutError,
    RunClosedError,
    ScopeOrderError,
    StepwardenError,
    ToolDeniedError,
    UnpricedModelError,
    UnscopedCallWarning,
    WouldBlockError,
)

hooks = settings.hooks
