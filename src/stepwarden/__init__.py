"""A per-step runtime for LLM agents: budgets that hold under concurrency, policies that only narrow, receipts."""

import typing as _typing

from .accounts import load_funds as _load_funds
from .core._account import Account
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
from .core._settings import configure
from .core._settings import settings as _settings
from .core._step import register_step, step, step_from_dict
from .core._tool import ToolDefinition, tool
from .core.errors import (
    AccountPausedError,
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
from .integrations import Reply, guard, guarded_call, install, llm_call, llm_call_async, uninstall
from .prices import lookup as _lookup
from .telemetry import TELEMETRY as _TELEMETRY
from .telemetry import watch_spans as _watch_spans
from .telemetry import watch_utilization as _watch_utilization

if _typing.TYPE_CHECKING:
    from .ledger import SQLiteLedger

# Where the core meets its price list; that list loads when the first model is looked up.
_settings.look_up_price = _lookup
# And the books that accounts are kept in, which load with the first account.
_settings.load_funds = _load_funds
# And where it meets who tells of what happens: each looks, when a run opens, whether anybody wants to hear.
_settings.watches += (_watch_utilization, _watch_spans)
_settings.listeners += (_TELEMETRY,)
hooks = _settings.hooks

__all__ = [
    "Account",
    "AccountPausedError",
    "Budget",
    "BudgetExceededError",
    "BudgetThreshold",
    "CallRecord",
    "DefinitionError",
    "Deny",
    "ErrorBoundary",
    "EscalationError",
    "ForkedRunError",
    "Hold",
    "HoldClosedError",
    "HookDeniedError",
    "HookEvent",
    "Hooks",
    "LedgerError",
    "ManifestError",
    "MemoryLedger",
    "PersonaDefinition",
    "PersonaScope",
    "Policy",
    "PolicyViolationError",
    "Receipt",
    "ReceiptError",
    "ReplaceArgs",
    "ReplaceOutput",
    "Reply",
    "Reservation",
    "ReserveTimeoutError",
    "Run",
    "RunClosedError",
    "SQLiteLedger",
    "ScopeOrderError",
    "SideEffect",
    "Stage",
    "Status",
    "StepDefinition",
    "StepScope",
    "StepwardenError",
    "ToolDefinition",
    "ToolDeniedError",
    "ToolRecord",
    "UnpricedModelError",
    "UnscopedCallWarning",
    "Usage",
    "WouldBlockError",
    "configure",
    "current_persona",
    "current_policy",
    "current_run",
    "current_step",
    "default_model",
    "definition",
    "guard",
    "guarded_call",
    "hooks",
    "install",
    "llm_call",
    "llm_call_async",
    "persona",
    "persona_from_dict",
    "propagate",
    "receipts",
    "record_usage",
    "register_persona",
    "register_step",
    "reserve",
    "step",
    "step_from_dict",
    "tool",
    "uninstall",
]


def __getattr__(name: str) -> _typing.Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("stepwarden")
    if name == "SQLiteLedger":
        from .ledger import SQLiteLedger

        return SQLiteLedger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
