"""The error tree: what each error says, and that none loses anything on its way to another process."""

import contextvars
import copy
import json
import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

BUDGET_ATTRIBUTES = (
    "scope_kind", "scope_name", "scope_id", "function", "limit", "limit_value", "consumed", "requested", "held",
    "uncertain", "reason", "usage", "partial", "phase",
)  # fmt: skip
BUILTINS = {
    "DefinitionError": ValueError,
    "BudgetExceededError": RuntimeError,
    "EscalationError": RuntimeError,
    "ReserveTimeoutError": TimeoutError,
    "WouldBlockError": RuntimeError,
    "HoldClosedError": RuntimeError,
    "RunClosedError": RuntimeError,
    "ScopeOrderError": RuntimeError,
    "ForkedRunError": RuntimeError,
    "UnpricedModelError": LookupError,
    "ManifestError": ValueError,
}
REFERENCE_KEYS = {
    "category", "kind", "reason", "step", "function", "limit", "limit_value", "consumed_tokens", "consumed_cost_usd",
    "error_boundary", "message",
}  # fmt: skip


def a_budget_error() -> sw.BudgetExceededError:
    """Meet a real one, with a part of every amount."""
    with sw.step("plan", budget=sw.Budget(max_tokens=100)):
        with sw.reserve(input_tokens=1, output_tokens=4):
            pass
        sw.record_usage(input_tokens=54)
        hold = sw.reserve(input_tokens=10).acquire()
        try:
            sw.reserve(input_tokens=90, output_tokens=3).acquire()
        except sw.BudgetExceededError as error:
            error.partial = "half a rep"
            return error
        finally:
            hold.release()
    raise AssertionError("91 tokens were granted where 41 are left")


def every_error() -> list[sw.StepwardenError]:
    """Make one of each class in the tree, with every attribute set to something of its own."""
    budget_error = a_budget_error()
    return [
        sw.StepwardenError("root"),
        sw.DefinitionError("definition"),
        budget_error,
        sw.EscalationError("escalation", step="plan", function="plan_it", error=budget_error),
        sw.ReserveTimeoutError("waited", waited=1.5, scope_kind="run", scope_name="r", limit="max_usd"),
        sw.WouldBlockError("would block"),
        sw.HoldClosedError("hold"),
        sw.RunClosedError("run"),
        sw.ScopeOrderError("order"),
        sw.ForkedRunError("fork"),
        sw.PolicyViolationError("policy"),
        sw.AccountPausedError("paused", account="a", reason="invoice open"),
        sw.ToolDeniedError("denied", tool="rm", reason="no", policy=sw.Policy(tools=["ls", "git*"])),
        sw.HookDeniedError("hook", event="PreStep", reason="closed", step="plan"),
        sw.UnpricedModelError("price", model="m"),
        sw.ManifestError("manifest", problems=["steps.0.name: empty", "steps.1: unknown"]),
        sw.LedgerError("ledger"),
    ]


def as_values(error: BaseException) -> dict:
    """Return an error's attributes, with errors among them as values too, since errors compare by identity."""
    attributes = vars(error).items()
    return {name: as_values(value) if isinstance(value, BaseException) else value for name, value in attributes}


ERRORS = every_error()


def test_every_error_of_the_tree_is_made_here():
    """The list above leaves out no class of the tree that the package exports."""
    exported = {value for value in vars(sw).values() if isinstance(value, type)}
    assert {type(error) for error in ERRORS} == {one for one in exported if issubclass(one, sw.StepwardenError)}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", ["copy", "deepcopy", *range(pickle.HIGHEST_PROTOCOL + 1)])
def test_copies_keep_everything(error, way):
    """Copied, copied deeply or pickled under any protocol, an error keeps its class, message and every attribute."""
    error.add_note("a note")
    other = getattr(copy, way)(error) if isinstance(way, str) else pickle.loads(pickle.dumps(error, way))  # noqa: S301
    assert type(other) is type(error)
    assert (str(other), other.args) == (str(error), error.args)
    assert as_values(other) == as_values(error)
    if hasattr(error, "as_dict"):
        assert other.as_dict() == error.as_dict()
    del error.__notes__


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_each_error_is_in_the_tree_and_is_the_fitting_builtin(error):
    """Every error is a StepwardenError and an Exception, and those with a builtin counterpart are that too."""
    assert isinstance(error, sw.StepwardenError)
    assert isinstance(error, BUILTINS.get(type(error).__name__, Exception))


def test_except_oserror_does_not_eat_a_policy_violation():
    """A policy violation is not an OSError, which file work catches."""
    assert not issubclass(sw.PolicyViolationError, OSError)
    assert issubclass(sw.ToolDeniedError, sw.PolicyViolationError)


def test_a_budget_error_tells_the_whole_story():
    """A refusal carries the scope, the limit, every amount in the limit's unit, its reason and its phase."""
    error = a_budget_error()
    with pytest.raises(AttributeError):
        _ = error.no_such_attribute
    assert all(hasattr(error, name) for name in BUDGET_ATTRIBUTES)
    assert (error.scope_kind, error.scope_name, error.function) == ("step", "plan", "plan")
    assert (error.limit, error.limit_value, error.phase, error.reason) == ("max_tokens", 100, "reserve", "no_room")
    assert (error.consumed, error.held, error.uncertain, error.requested) == (55, 10, 4, 91)
    assert (error.usage.input_tokens, error.usage.calls) == (55, 2)
    assert str(error) == ("step `plan` has no room in max_tokens (55 of 100 spent, 10 held, 4 uncertain, 91 needed)")


def test_the_message_for_tokens():
    """A passed token limit reads as in the reference."""
    with sw.step("plan", budget=sw.Budget(max_tokens=100)), pytest.raises(sw.BudgetExceededError) as caught:
        sw.record_usage(input_tokens=130)
    assert str(caught.value) == "step `plan` exceeded max_tokens budget (130 > 100)"


def test_the_message_for_dollars():
    """A passed USD limit shows dollars."""
    with sw.step("plan", budget=sw.Budget(max_usd="0.05")), pytest.raises(sw.BudgetExceededError) as caught:
        sw.record_usage(cost_usd="0.06")
    assert str(caught.value) == "step `plan` exceeded max_usd budget ($0.06 > $0.05)"


def test_the_message_for_a_refusal():
    """A refusal without uncertain amounts does not mention them."""
    with sw.step("plan", budget=sw.Budget(max_tokens=100)):
        sw.record_usage(input_tokens=95)
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(input_tokens=9, output_tokens=500).acquire()
    assert str(caught.value) == "step `plan` has no room in max_tokens (95 of 100 spent, 0 held, 10 needed)"


def test_the_message_for_a_refusal_in_dollars():
    """A refusal for USD shows every amount in dollars, with all the decimals that it has and at least two."""
    with sw.Run(budget=sw.Budget(max_usd=1), name="night"):
        sw.record_usage(cost_usd="0.9")
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(cost_usd="0.100001").acquire()
    assert str(caught.value) == (
        "run `night` has no room in max_usd ($0.90 of $1.00 spent, $0.00 held, $0.100001 needed)"
    )


@pytest.mark.parametrize("kind", ["run", "persona", "step"])
def test_the_first_word_is_the_scopes_kind(kind):
    """Every message begins with the kind and the name of the scope whose limit it is."""
    budget = sw.Budget(max_calls=0)
    opened = sw.Run(budget=budget, name="x") if kind == "run" else getattr(sw, kind)("x", budget=budget)
    with opened:
        with pytest.raises(sw.BudgetExceededError) as recorded:
            sw.record_usage()
        with pytest.raises(sw.BudgetExceededError) as refused:
            sw.reserve().acquire()
    assert str(recorded.value) == f"{kind} `x` exceeded max_calls budget (1 > 0)"
    assert str(refused.value) == f"{kind} `x` has no room in max_calls (1 of 0 spent, 0 held, 1 needed)"


@sw.step(name="pretty", budget=sw.Budget(max_tokens=1), error_boundary="escalate")
def ugly_name() -> None:
    """Use more than it may."""
    sw.record_usage(input_tokens=2, cost_usd="0.25")


def test_function_is_the_functions_own_name():
    """`function` is the decorated function's `__name__`, also where the step has another name."""
    with pytest.raises(sw.EscalationError) as caught:
        ugly_name()
    escalated = caught.value
    assert (escalated.step, escalated.function) == ("pretty", "ugly_name")
    assert (escalated.error.scope_name, escalated.error.function) == ("pretty", "ugly_name")
    assert escalated.__cause__ is escalated.error


def test_as_dict_has_the_references_keys_and_values():
    """`as_dict` is JSON-ready and has exactly the reference's keys, whatever the limit."""
    with pytest.raises(sw.EscalationError) as caught:
        ugly_name()
    inner, outer = caught.value.error.as_dict(), caught.value.as_dict()
    assert set(inner) == REFERENCE_KEYS
    assert json.loads(json.dumps(inner)) == {
        "category": "budget_exceeded",
        "kind": "budget_exhausted",
        "reason": "step_budget_exhausted",
        "step": "pretty",
        "function": "ugly_name",
        "limit": "max_tokens",
        "limit_value": 1,
        "consumed_tokens": 2,
        "consumed_cost_usd": 0.25,
        "error_boundary": "escalate",
        "message": "step `pretty` exceeded max_tokens budget (2 > 1)",
    }
    assert set(outer) == REFERENCE_KEYS | {"escalated"}
    assert (outer["escalated"], outer["category"]) == (True, "handoff_escalation")
    assert json.loads(json.dumps(outer)) == outer


@given(st.decimals("0.000001", 10**6, places=6))
def test_dollar_amounts_are_exact_decimals(limit):
    """For USD, `consumed`, `limit_value`, `held`, `uncertain` and `requested` are exact Decimals."""
    with sw.step("s", budget=sw.Budget(max_usd=limit)), pytest.raises(sw.BudgetExceededError) as caught:
        sw.reserve(cost_usd=2 * limit).acquire()
    error = caught.value
    amounts = (error.limit_value, error.consumed, error.held, error.uncertain, error.requested)
    assert amounts == (limit, 0, 0, 0, 2 * limit)
    assert {type(amount) for amount in amounts} == {Decimal}
    assert isinstance(json.dumps(error.as_dict()), str)


def test_ids_are_unique_across_runs():
    """Two activations never share an id, in one run or in two."""
    ids = []
    for _ in range(3):
        with sw.Run() as run, sw.persona("p") as persona, sw.step("s") as step:
            ids += [run.id, persona.id, step.id]
    assert len(set(ids)) == len(ids)


def test_no_boundary_absorbs_a_reserve_timeout():
    """A wait that ended is no exhaustion: it passes a `continue` boundary, and the step has failed."""

    @sw.step(budget=sw.Budget(max_tokens=10), error_boundary="continue", fallback="fell back")
    def impatient() -> object:
        hold = contextvars.copy_context().run(sw.reserve(input_tokens=10).acquire)
        try:
            return sw.reserve(input_tokens=10, wait=False).acquire()
        finally:
            hold.release()

    with sw.Run() as run, pytest.raises(TimeoutError) as caught:
        impatient()
    assert isinstance(caught.value, sw.ReserveTimeoutError)
    assert (caught.value.scope_kind, caught.value.scope_name, caught.value.limit) == ("step", "impatient", "max_tokens")
    assert caught.value.waited >= 0
    assert run.receipts[0].status == "failed"
