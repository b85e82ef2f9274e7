"""The assertions on receipts that users get."""

import pytest

import stepwarden as sw
from stepwarden.testing import assert_receipts, assert_within_budget, receipt_of


def spend(tokens, limit=None):
    """Run one step that spends tokens."""
    with sw.Run() as run, sw.step("s", budget=sw.Budget(max_tokens=limit), error_boundary="continue"):
        sw.record_usage(input_tokens=tokens, cost_usd=1)
    return run


def test_the_only_receipt_of_a_name_is_found():
    """`receipt_of` gives the one receipt of that name, and else says what there is."""
    run = spend(5)
    assert receipt_of(run, "s").own.input_tokens == 5
    with pytest.raises(AssertionError, match=r"0 receipts are named 't'; there are: s \(completed\)"):
        receipt_of(run, "t")


def test_names_and_statuses_are_compared_in_order():
    """`assert_receipts` passes for exactly the names and statuses that there are."""
    run = spend(5, limit=4)
    assert_receipts(run, [("s", "skipped")])
    assert_receipts(run, [("s", sw.Status.SKIPPED)])
    with pytest.raises(AssertionError, match="skipped"):
        assert_receipts(run, [("s", "completed")])


def test_a_passed_limit_is_named():
    """`assert_within_budget` passes where no limit was passed, and names the scope where one was."""
    assert_within_budget(spend(4, limit=4))
    with pytest.raises(AssertionError, match="s passed its limits"):
        assert_within_budget(spend(5, limit=4))


def test_what_is_still_held_and_what_is_missing_is_found():
    """`assert_within_budget` fails while something is held, and where receipts were taken away."""
    with sw.Run() as run, sw.reserve(input_tokens=1) as hold:
        with pytest.raises(AssertionError, match="still holds"):
            assert_within_budget(run)
        hold.release()
    run = spend(5)
    run.drain()
    with pytest.raises(AssertionError, match="add up to 0 tokens"):
        assert_within_budget(run)
