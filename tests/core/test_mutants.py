"""Details that nothing else pins: messages to the letter, and numbers to the last unit."""

import contextvars

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
