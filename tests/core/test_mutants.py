"""Details that nothing else pins: messages to the letter, and numbers to the last unit."""

import contextvars
import sys
import threading
from decimal import Decimal

import pytest

import stepwarden as sw
from stepwarden.core._budget import nanoseconds, refuse_unknown_keys


def held_open(tokens):
    """Take a hold that stays open, in a context of its own."""
    return contextvars.copy_context().run(sw.reserve(input_tokens=tokens).acquire)


def test_unknown_fields_are_refused_to_the_letter():
    """An unknown key is named with its path, the nearest known key if one is near, and every known one."""
    with pytest.raises(sw.DefinitionError) as caught:
        sw.Budget.from_dict({"max_tokns": 1})
    known = "max_tokens, max_input_tokens, max_output_tokens, max_calls, max_tool_calls, max_usd, max_seconds"
    assert str(caught.value).startswith("budget has no field 'max_tokns'; did you mean 'max_tokens'? Known: ")
    assert str(caught.value).endswith(known)
    with pytest.raises(sw.DefinitionError) as caught:
        refuse_unknown_keys("thing", {"zzz": 1}, ("one", "two"))
    assert str(caught.value) == "thing has no field 'zzz'. Known: one, two"


def test_a_wrong_guess_is_worse_than_none():
    """A key that is only a little like a known one is refused without a guess, and as an argument it is a TypeError."""
    with pytest.raises(TypeError) as caught:
        sw.Budget(max_retries=1)
    assert str(caught.value).startswith("Budget has no field 'max_retries'. Known: max_tokens, ")


@pytest.mark.parametrize(
    "field", ["max_tokens", "max_input_tokens", "max_output_tokens", "max_calls", "max_tool_calls"]
)
def test_a_count_that_is_refused_is_named_with_its_field(field):
    """A limit that is no count is named with its field, its value and what would be right."""
    with pytest.raises(sw.DefinitionError) as caught:
        sw.Budget(**{field: -1})
    assert str(caught.value) == f"budget.{field} must be an int >= 0 or None, not -1"


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("max_usd", "a finite amount of USD >= 0 as Decimal, int, str or float"),
        ("max_seconds", "a finite number of seconds >= 0"),
    ],
)
def test_an_amount_that_is_refused_is_named_with_its_field(field, wanted):
    """A limit in USD or seconds that is no amount is named with its field, its value and what would be right."""
    with pytest.raises(sw.DefinitionError) as caught:
        sw.Budget(**{field: -1})
    assert str(caught.value) == f"budget.{field} must be {wanted}, not -1"


def test_the_longest_time_is_what_a_float_can_hold():
    """Every finite time is a limit, up to the very last."""
    assert sw.Budget(max_seconds=sys.float_info.max).max_seconds == sys.float_info.max


@pytest.mark.parametrize("limit", ["max_input_tokens", "max_output_tokens", "max_calls"])
def test_one_limit_counts_beside_all_the_others(limit):
    """A limit that is passed trips where every other limit is set, too, and is far away."""
    roomy = {"max_tokens": 99, "max_input_tokens": 99, "max_output_tokens": 99, "max_calls": 99, "max_tool_calls": 99}
    budget = sw.Budget(**{**roomy, "max_usd": 99, "max_seconds": 9_999, limit: 0})
    with sw.Run(), pytest.raises(sw.BudgetExceededError) as caught, sw.step("s", budget=budget):
        sw.record_usage(input_tokens=1, output_tokens=1, cost_usd=1)
    assert caught.value.limit == limit


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 0), (0.5, 500_000_000), (1.25, 1_250_000_000), (0.999, 999_000_000), (7.999999999, 7_999_999_999)],
)
def test_seconds_are_whole_nanoseconds(seconds, expected):
    """A time in seconds is the nearest number of nanoseconds."""
    assert nanoseconds(seconds) == expected


def test_a_check_counts_nothing_and_says_record():
    """A check passes where a limit is exactly reached, changes no number, and raises in phase `record` above it."""
    with sw.Run() as run, sw.step("s", budget=sw.Budget(max_usd=1, max_tokens=3, max_calls=1)) as step:
        sw.record_usage(input_tokens=1, output_tokens=2, cost_usd=1)
        before = step.total
        for _ in range(3):
            step.check()
        assert step.total == run.total == before
        with pytest.raises(sw.BudgetExceededError):
            sw.record_usage()
        with pytest.raises(sw.BudgetExceededError) as caught:
            step.check()
        assert (caught.value.phase, caught.value.reason, caught.value.limit) == ("record", "exceeded", "max_calls")


def test_extending_what_has_ended_says_so():
    """The budget of a scope that has ended cannot be extended, and the error names the scope."""
    with sw.Run(), sw.step("s", budget=sw.Budget(max_calls=1)) as step:
        pass
    with pytest.raises(sw.RunClosedError, match="step `s` has ended, and its budget with it"):
        step.extend(sw.Budget(max_calls=2))


def test_an_extension_is_told_limit_by_limit():
    """The receipt tells every limit that was extended, with what was in force and what is."""
    with sw.Run(), sw.step("s", budget=sw.Budget(max_calls=1, max_usd=1)) as step:
        step.extend(sw.Budget(max_usd="1.5", max_calls=2))
    assert step.receipt.warnings == ("budget extended: max_calls 1 -> 2, max_usd 1 -> 1.5",)


def test_an_escalation_names_its_step_and_its_cause():
    """The message of an escalation is the step's name and the budget error's own message."""
    with sw.Run(), pytest.raises(sw.EscalationError) as caught:
        with sw.step("s", budget=sw.Budget(max_calls=0), error_boundary="escalate"):
            sw.record_usage()
    assert str(caught.value) == f"step `s` escalated: {caught.value.error}"


def test_an_heir_keeps_what_several_scopes_hand_to_it():
    """Holds that several scopes hand to one heir are all kept by it, beside its own, and each is counted once."""
    with sw.Run() as run, sw.persona("heir") as heir:
        own = held_open(1)
        with sw.step("first"):
            first = [held_open(2), held_open(4)]
            with sw.step("inner"):
                inner = held_open(8)
        with sw.step("second"):
            held_open(16)
        assert heir.holds >= {own, inner, *first}
        assert [receipt.open_holds for receipt in run.receipts] == [1, 3, 1]
        first[0].release()
        assert heir.held.input_tokens == 29
    assert run.receipts[-1].open_holds == 4
    assert (run.held, run.total.input_tokens, run.total.calls) == (sw.Usage(), 29, 4)


@pytest.mark.parametrize("tools", ["github", b"ci", 5, {"github": True}, range(1)])
def test_tools_are_a_list(tools):
    """What is no list, tuple or set of names is refused as tools, a mere string above all."""
    with pytest.raises(sw.DefinitionError) as caught:
        sw.Policy(tools=tools)
    assert str(caught.value) == f"policy.tools must be a list of tool names, not {tools!r}"


@pytest.mark.parametrize(
    ("field", "declare"),
    [
        ("policy.side_effect_level", lambda: sw.Policy(side_effect_level="high")),
        ("tool.side_effect", lambda: sw.tool(side_effect="high")),
    ],
    ids=["policy", "tool"],
)
def test_a_level_that_is_refused_is_named_with_its_field(field, declare):
    """An unknown side-effect level is named with its field, its value and every level that there is."""
    with pytest.raises(sw.DefinitionError) as caught:
        declare()
    known = "none, read_only, workspace_write, process_exec, network"
    assert str(caught.value) == f"{field} must be one of {known}, not 'high'"


def test_tools_that_are_refused_are_named():
    """A tool that is no string, is empty or has a star inside is named with what would be right."""
    with pytest.raises(sw.DefinitionError) as caught:
        sw.Policy(tools=["ci", 5])
    assert str(caught.value) == "policy.tools must be a list of strings, and has 5"
    with pytest.raises(sw.DefinitionError) as caught:
        sw.Policy(tools=["a*b"])
    assert str(caught.value) == "policy.tools has 'a*b'; a tool is a name or a `prefix*` pattern"


def test_equal_ceilings_compare_as_equal():
    """Names that a pattern allows anyway are left out, so that policies that allow the same are equal."""
    wide = sw.Policy(tools=["git*", "github", "github_*", "ci"])
    assert wide == sw.Policy(tools=["ci", "git*"])
    assert wide.tools == {"ci", "git*"}
    assert (wide & sw.Policy(tools=["*"])).tools == {"ci", "git*"}


def test_a_refusal_names_what_would_be_allowed():
    """A refusal names the tool and what is allowed instead: the tools in order, `none` for none, or the level."""
    policy = sw.Policy(tools=["git_*", "ci"], side_effect_level="read_only")
    assert policy.refusal("shell", sw.SideEffect.NONE) == "tool `shell` is not among the allowed tools (ci, git_*)"
    nothing = sw.Policy(tools=[])
    assert nothing.refusal("ci", sw.SideEffect.NONE) == "tool `ci` is not among the allowed tools (none)"
    expected = "tool `ci` has the side effect network, and at most read_only is allowed"
    assert policy.refusal("ci", sw.SideEffect.NETWORK) == expected
    assert policy.refusal("ci", sw.SideEffect.READ_ONLY) is None


def test_a_boundary_that_is_refused_is_named_with_its_field():
    """An unknown error boundary is named with its field, its value and every boundary that there is."""
    with pytest.raises(sw.DefinitionError) as caught:
        sw.step(name="s", error_boundary="retry")
    assert str(caught.value).endswith("error_boundary must be one of 'fail', 'continue', 'escalate', not 'retry'")


def test_uncertain_dollars_leave_no_room():
    """What a call may have cost is refused to the next call at once, and the error tells how much that is."""
    with sw.Run(budget=sw.Budget(max_usd=1)):
        with sw.reserve(input_tokens=1, output_tokens=4, cost_usd="0.6"):
            pass
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(cost_usd="0.5", timeout=5).acquire()
    assert (caught.value.limit, caught.value.uncertain, caught.value.reason) == ("max_usd", Decimal("0.6"), "no_room")


@pytest.mark.parametrize("limit", ["max_tokens", "max_output_tokens"])
def test_uncertain_output_leaves_no_room(limit):
    """What a call may have written is refused to the next call at once, and the error tells how much that is."""
    with sw.Run(budget=sw.Budget(**{limit: 10})):
        with sw.reserve(output_tokens=6):
            pass
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(output_tokens=5, min_output_tokens=5, timeout=5).acquire()
    assert (caught.value.limit, caught.value.uncertain, caught.value.reason) == (limit, 6, "no_room")


@pytest.mark.parametrize("limit", ["max_calls", "max_input_tokens"])
def test_uncertain_output_is_no_input_and_no_call(limit):
    """Uncertain output counts toward the limits of output only, and the error for another limit tells of none."""
    with sw.Run(budget=sw.Budget(**{limit: 2})):
        with sw.reserve(input_tokens=1, output_tokens=40):
            pass
        sw.reserve(input_tokens=1, output_tokens=40, timeout=5).acquire().settle(input_tokens=1, output_tokens=1)
        with pytest.raises(sw.BudgetExceededError) as caught:
            sw.reserve(input_tokens=1, timeout=5).acquire()
    assert (caught.value.limit, caught.value.uncertain) == (limit, 0)


def test_what_was_handed_over_stays_on_the_receipt():
    """Whoever outlives a step and opens one more hold changes nothing about how many the step left open."""
    with sw.Run() as run:
        with sw.step("s"):
            outlives = contextvars.copy_context()
            held_open(1)
        opened = []
        thread = threading.Thread(target=outlives.run, args=(lambda: opened.append(held_open(2)),))
        thread.start()
        thread.join()
        assert [receipt.open_holds for receipt in run.receipts] == [1]
        opened[0].release()


def test_each_stage_is_met_anew():
    """One step under one policy has what the stage of its present persona allows, and not what an earlier one did."""

    @sw.step
    def work():
        return sw.current_policy().tools

    def persona(*allowed):
        stages = [sw.Stage(work, allowed_tools=allowed)] if allowed else []
        return sw.persona(name="p", stages=stages)(work)

    reads, writes, free = persona("read"), persona("write"), persona()
    with sw.Run():
        for _ in range(2):
            assert [reads(), reads(), writes(), free()] == [{"read"}, {"read"}, {"write"}, None]


def test_an_end_within_an_end_is_one():
    """A step that is ended again, while it ends or later, has ended as it did at first, and leaves one receipt."""
    with sw.Run() as run:
        keep = run.keep

        def interrupted(scope):
            run.keep = keep
            keep(scope)
            assert scope.close(sw.Status.FAILED) is False  # as a signal handler may

        with sw.step("s") as step:
            run.keep = interrupted
        assert step.close(sw.Status.CANCELLED) is False
        assert [receipt.status for receipt in run.drain()] == ["completed"]
        assert step.close(sw.Status.CANCELLED) is False
        assert run.receipts == ()


@pytest.mark.parametrize(("around", "inside"), [(10, 4), (4, 10)])
def test_what_remains_is_the_least_over_the_chain(around, inside):
    """What is left of a limit is the least that any scope on the chain has left of it."""
    with sw.Run(budget=sw.Budget(max_calls=around)), sw.step("s", budget=sw.Budget(max_calls=inside)) as step:
        sw.record_usage()
        assert step.remaining == sw.Budget(max_calls=3)


def test_a_closed_scope_tells_what_ended_it():
    """A scope has no error while it is open or where it completed, else the type and message of what ended it."""
    with sw.Run(), pytest.raises(LookupError), sw.step("s") as step:
        assert step.error is None
        raise LookupError("nothing here")
    assert (step.error.type, step.error.message) == ("LookupError", "nothing here")
    assert step.error == step.receipt.error


def test_what_is_no_budget_is_refused_to_the_letter():
    """Something that is no budget is named with its field, its value and what would be right."""
    with pytest.raises(sw.DefinitionError) as caught:
        sw.Run(budget=5)
    assert str(caught.value).endswith("budget must be a Budget, a mapping of its fields or None, not 5")


@pytest.mark.parametrize("name", ["", " ", 5, b"s"])
def test_a_name_that_is_refused_is_named_with_its_field(name):
    """What is no string, or is blank, is refused as a name, with the field, the value and what would be right."""
    with pytest.raises(sw.DefinitionError) as caught:
        sw.Stage(name)
    assert str(caught.value) == f"stage.step must be a non-empty name, not {name!r}"
