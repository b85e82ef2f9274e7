"""The public face: every name that the design pins is there, takes what it should, and nothing private leaks."""

import dataclasses
import enum
import inspect
import pickle
import subprocess
import sys
import types

import pytest

import stepwarden as sw

FUNCTIONS = (
    "step", "persona", "tool", "record_usage", "reserve", "current_step", "current_persona", "current_run",
    "current_policy", "default_model", "propagate", "configure", "receipts", "register_step", "register_persona",
    "step_from_dict", "persona_from_dict", "definition",
)  # fmt: skip
CLASSES = (
    "Account", "Budget", "Usage", "Stage", "Policy", "SideEffect", "ErrorBoundary", "Status", "Reservation", "Hold", "StepScope",
    "PersonaScope", "Run", "Receipt", "MemoryLedger", "SQLiteLedger", "Hooks", "HookEvent", "Deny", "ReplaceArgs", "ReplaceOutput",
    "BudgetThreshold", "StepDefinition", "PersonaDefinition", "UnscopedCallWarning",
)  # fmt: skip
ERRORS = {
    "StepwardenError": Exception,
    "DefinitionError": ValueError,
    "BudgetExceededError": RuntimeError,
    "EscalationError": RuntimeError,
    "ReserveTimeoutError": TimeoutError,
    "WouldBlockError": RuntimeError,
    "HoldClosedError": RuntimeError,
    "RunClosedError": RuntimeError,
    "ScopeOrderError": RuntimeError,
    "ForkedRunError": RuntimeError,
    "PolicyViolationError": Exception,
    "ToolDeniedError": Exception,
    "AccountPausedError": Exception,
    "HookDeniedError": Exception,
    "UnpricedModelError": LookupError,
    "ManifestError": ValueError,
    "LedgerError": Exception,
}
LATER = ("PostgresLedger",)
ARRIVING = ("guard", "guarded_call", "install", "llm_call", "llm_call_async", "uninstall", "__version__")
# What the design names in prose or implies: the types of what receipts and definitions carry.
BESIDE = ("Reply", "hooks", "CallRecord", "ToolRecord", "ReceiptError", "ToolDefinition")

SCOPE = (
    "id", "parent", "name", "function", "persona", "model", "policy", "budget", "own", "total", "held", "uncertain",
    "remaining", "elapsed", "extend", "check", "status", "error", "receipt",
)  # fmt: skip
MEMBERS = {
    "Account": ("name", "total", "daily", "hourly"),
    "Budget": ("from_dict", "max_tokens", "max_input_tokens", "max_output_tokens", "max_calls", "max_tool_calls",
               "max_usd", "max_seconds"),
    "Usage": ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens",
              "cost_usd", "calls", "tool_calls", "unpriced_calls", "estimated_calls", "total_tokens"),
    "Stage": ("step", "allowed_tools", "side_effect_level"),
    "Policy": ("tools", "side_effect_level", "__and__"),
    "Reservation": ("acquire", "__enter__", "__exit__", "__aenter__", "__aexit__", "__await__"),
    "Hold": ("input_tokens", "output_tokens", "cost_usd", "settle", "release"),
    "StepScope": SCOPE,
    "PersonaScope": SCOPE,
    "Run": ("receipts", "receipts_dropped", "drain", "own", "total", "held", "uncertain", "budget", "remaining",
            "policy", "id", "attach", "__enter__", "__exit__", "__aenter__", "__aexit__"),
    "Receipt": ("kind", "run_id", "step_id", "parent_id", "persona", "name", "function", "stage", "status", "error",
                "model", "own", "total", "budget", "overshoot", "uncertain", "open_holds", "clamped_calls",
                "started_at", "duration", "calls", "tools", "late", "warnings", "completed_step"),
    "HookEvent": ("event", "target", "persona", "step", "function", "args", "kwargs", "output", "error", "pct",
                  "limit", "limit_value", "consumed", "receipt"),
    "Deny": ("reason",),
    "ReplaceArgs": ("args", "kwargs"),
    "ReplaceOutput": ("output",),
}  # fmt: skip
KEYWORDS = {
    "step": ("name", "model", "budget", "error_boundary", "fallback", "tools", "side_effect_level",
             "default_max_output_tokens"),
    "persona": ("name", "model", "tools", "budget", "stages", "accounts"),
    "tool": ("side_effect",),
    "record_usage": ("model", "input_tokens", "output_tokens", "cost_usd"),
    "reserve": ("input_tokens", "output_tokens", "min_output_tokens", "cost_usd", "model", "wait", "timeout"),
    "configure": ("ledger", "prices", "unscoped_calls", "max_wait"),
    "Run": ("budget", "policy", "hooks", "prices", "default_max_output_tokens", "max_receipts", "name",
            "accounts", "tenant"),
}  # fmt: skip


def members(owner: type) -> set[str]:
    """Return the attributes of a class, the fields of a dataclass included."""
    fields = {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    return set(dir(owner)) | fields


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_of_the_design_is_there(name):
    """Each function that the design pins is in the package, can be called, and has a docstring."""
    assert callable(getattr(sw, name))
    assert inspect.getdoc(getattr(sw, name))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_the_design_is_there(name):
    """Each class that the design pins is in the package, has a docstring and the members that the design names."""
    owner = getattr(sw, name)
    assert inspect.isclass(owner)
    assert inspect.getdoc(owner)
    assert set(MEMBERS.get(name, ())) <= members(owner)


@pytest.mark.parametrize("name", ERRORS)
def test_the_error_tree_is_the_designs(name):
    """Each error is a StepwardenError and the builtin that fits, and none but the timeout is an OSError."""
    error = getattr(sw, name)
    assert issubclass(error, ERRORS[name])
    assert issubclass(error, sw.StepwardenError)
    assert issubclass(error, OSError) == (name == "ReserveTimeoutError")
    assert issubclass(sw.ToolDeniedError, sw.PolicyViolationError)


@pytest.mark.parametrize("name", ARRIVING)
def test_the_guard_and_the_version_are_there(name):
    """The guard, the installation for threads and the version of the package are part of its face."""
    found = getattr(sw, name)
    assert isinstance(found, str) if name == "__version__" else callable(found)


@pytest.mark.parametrize("name", LATER)
def test_what_is_not_built_yet_is_not_declared(name):
    """What later work brings does not exist before it works."""
    assert not hasattr(sw, name)


@pytest.mark.parametrize("name", KEYWORDS)
def test_every_pinned_argument_can_be_given_by_name(name):
    """Each argument that the design names is a keyword of the function or class."""
    parameters = inspect.signature(getattr(sw, name)).parameters
    assert set(KEYWORDS[name]) <= set(parameters)
    assert all(parameters[key].kind is not inspect.Parameter.POSITIONAL_ONLY for key in KEYWORDS[name])


def test_nothing_else_is_public():
    """What the package shows without an underscore is what the design names, and modules of its own; nothing leaks."""
    named = {*FUNCTIONS, *CLASSES, *ERRORS, *BESIDE, *ARRIVING}
    shown = {name for name in vars(sw) if not name.startswith("_")}
    modules = {name for name in shown if isinstance(getattr(sw, name), types.ModuleType)}
    assert shown - named - modules == set()
    assert {getattr(sw, name).__name__ for name in modules} == {f"stepwarden.{name}" for name in modules}


def test_a_star_import_brings_the_face_and_no_modules():
    """`from stepwarden import *` brings every pinned name, and no module of ours or of anybody else."""
    space = {}
    exec("from stepwarden import *", space)  # noqa: S102 - nothing else shows what a star brings
    del space["__builtins__"]
    assert {*FUNCTIONS, *CLASSES, *ERRORS, "hooks"} <= set(space)
    assert [name for name, value in space.items() if isinstance(value, types.ModuleType)] == []


def test_enums_have_the_pinned_members_in_the_pinned_order():
    """The three enums have exactly the pinned members: ordered side effects, and boundaries and statuses as strings."""
    assert [level.name for level in sw.SideEffect] == [
        "NONE",
        "READ_ONLY",
        "WORKSPACE_WRITE",
        "PROCESS_EXEC",
        "NETWORK",
    ]
    assert sorted(sw.SideEffect) == list(sw.SideEffect)
    assert issubclass(sw.SideEffect, enum.IntEnum)
    assert [str(boundary) for boundary in sw.ErrorBoundary] == ["fail", "continue", "escalate"]
    statuses = ["completed", "failed", "skipped", "escalated", "denied", "cancelled", "abandoned"]
    assert [str(status) for status in sw.Status] == statuses
    assert issubclass(sw.Status, enum.StrEnum)
    assert issubclass(sw.ErrorBoundary, enum.StrEnum)


def test_values_are_pickled_under_public_addresses_that_exist():
    """What users keep as pickles survives a fresh interpreter, which finds every class where the pickle says it is."""
    values = (sw.Budget(max_usd="0.1"), sw.Policy(["a*"], "none"), sw.Usage(1, 2), sw.Stage("a"), sw.Status.DENIED)
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer))"
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(values), capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(values)


def test_nothing_is_open_at_first():
    """Where nothing is open there is no step, persona or run, everything is allowed, and the model is the fallback."""
    assert (sw.current_step(), sw.current_persona(), sw.current_run()) == (None, None, None)
    assert sw.current_policy() == sw.Policy()
    assert sw.current_policy().tools is sw.current_policy().side_effect_level is None
    assert sw.default_model() is None
    assert sw.default_model("openai:gpt-5") == "openai:gpt-5"


def test_what_is_imported_late_is_listed():
    """`dir` names everything that is public, also what is imported only when it is first used."""
    assert set(dir(sw)) >= {*sw.__all__, "__version__"}


def test_a_scope_shows_what_it_is():
    """A run, persona or step prints as its kind, its name, how it stands and its id."""
    run = sw.Run(name="nightly")
    assert repr(run) == f"<run 'nightly', not open, {run.id}>"
    with run, sw.persona("captain") as persona, sw.step("plan") as step:
        assert repr(persona) == f"<persona 'captain', open, {persona.id}>"
    assert repr(step) == f"<step 'plan', completed, {step.id}>"
