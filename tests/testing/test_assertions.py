"""The assertions on receipts that users get."""

import asyncio
import dataclasses
import threading

import pytest

import stepwarden as sw
from stepwarden.testing import assert_receipts, assert_within_budget, receipt_of


def spend(tokens, limit=None):
    """Run one step that spends tokens."""
    with sw.Run() as run, sw.step("s", budget=sw.Budget(max_tokens=limit), error_boundary="continue"):
        sw.record_usage(input_tokens=tokens, cost_usd=1)
    return run


def nest():
    """Run steps inside steps that all spend something."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        sw.record_usage(output_tokens=1)
        for name in ("first", "second"):
            with sw.step(name):
                with sw.step("inner"):
                    sw.record_usage(input_tokens=2, cost_usd="0.10")
                sw.record_usage(input_tokens=3)
    return run


class Changed(sw.Run):
    """A run whose receipts were tampered with."""

    __slots__ = ("change",)

    @property
    def receipts(self):
        return tuple(self.change(receipt) for receipt in super().receipts)


def test_the_only_receipt_of_a_name_is_found():
    """`receipt_of` gives the one receipt of that name, from a run or from receipts."""
    run = spend(5)
    assert receipt_of(run, "s").own.input_tokens == 5
    assert receipt_of(iter(run.receipts), "s") == run.receipts[0]


def test_what_there_is_instead_is_listed():
    """`receipt_of` says what there is where the name is missing or not the only one."""
    with pytest.raises(AssertionError, match=r"0 receipts are named 't'; there are: s \(completed\)"):
        receipt_of(spend(5), "t")
    with pytest.raises(AssertionError, match=r"2 receipts are named 'inner'; there are: inner \(completed\), first"):
        receipt_of(nest(), "inner")
    with pytest.raises(AssertionError, match="there are: none"):
        receipt_of([], "s")


def test_names_and_statuses_are_compared_in_completion_order():
    """`assert_receipts` passes for exactly the names and statuses that there are, in their order."""
    run = nest()
    ends = [("inner", "completed"), ("first", sw.Status.COMPLETED), ("inner", "completed"), ("second", "completed")]
    assert_receipts(run, *ends)
    assert_receipts(run.receipts, *ends)
    assert_receipts(sw.Run())
    for wrong in (ends[:-1], [*ends, ("third", "completed")], [ends[1], ends[0], *ends[2:]], []):
        with pytest.raises(AssertionError, match="the receipts are others"):
            assert_receipts(run, *wrong)


@pytest.mark.parametrize("wrong", ["plan", "ab", ("plan",), ("plan", "completed", 1), None])
def test_what_is_expected_must_be_pairs(wrong):
    """What is no pair of a name and a status is a TypeError that shows one, whatever the receipts are."""
    with pytest.raises(TypeError, match="is no pair of a name and a status, such as"):
        assert_receipts([], wrong)


def test_the_difference_can_be_read():
    """A failing `assert_receipts` shows what is missing, what is there instead, and why it ended so."""
    with pytest.raises(AssertionError) as caught:
        assert_receipts(spend(5, limit=4), ("s", "completed"))
    assert str(caught.value).splitlines() == [
        "the receipts are others (- expected, + there):",
        "- s: completed",
        "+ s: skipped",
        "s: BudgetExceededError: step `s` exceeded max_tokens budget (5 > 4)",
    ]


def test_a_run_inside_its_limits_passes():
    """`assert_within_budget` passes where no limit was passed and all adds up."""
    assert_within_budget(sw.Run())
    assert_within_budget(spend(4, limit=4))
    assert_within_budget(nest())


def test_a_passed_limit_is_named():
    """`assert_within_budget` names the scope whose limit was passed, the run's own too."""
    with pytest.raises(AssertionError, match="s passed its limits"):
        assert_within_budget(spend(5, limit=4))
    with pytest.raises(sw.BudgetExceededError), sw.Run(budget=sw.Budget(max_calls=0)) as run:
        sw.record_usage()
    with pytest.raises(AssertionError, match=r"the run passed its limits by Usage\(.*calls=1"):
        assert_within_budget(run)


def test_what_is_still_held_is_found():
    """`assert_within_budget` fails while something is held, be it only a call."""
    with sw.Run() as run, sw.reserve() as hold:
        with pytest.raises(AssertionError, match="still holds"):
            assert_within_budget(run)
        hold.release()
        assert_within_budget(run)


def test_missing_receipts_are_found():
    """`assert_within_budget` fails where receipts were taken away or dropped."""
    run = spend(5)
    run.drain()
    with pytest.raises(
        AssertionError, match="the run and its receipts add up to 0 input tokens, not 5; 0 calls, not 1"
    ):
        assert_within_budget(run)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("cost_usd", 1, "dollars"),
        ("tool_calls", 1, "tool calls"),
        ("calls", 9, "calls"),
        ("output_tokens", 9, "output"),
    ],
)
@pytest.mark.parametrize("part", ["own", "total"])
def test_a_sum_that_is_off_is_named(part, field, value, says):
    """`assert_within_budget` fails for every amount, in every scope, that is not the sum of its parts."""

    def change(receipt):
        if receipt.name != "first":
            return receipt
        return dataclasses.replace(receipt, **{part: dataclasses.replace(getattr(receipt, part), **{field: value})})

    with Changed() as run, sw.step("first"), sw.step("inner"):
        sw.record_usage(input_tokens=2)
    run.change = change
    with pytest.raises(AssertionError, match=f"first and those inside it add up to .* {says}"):
        assert_within_budget(run)


def test_a_step_that_outlives_the_one_around_it_adds_up():
    """A task that goes on after its step has ended is in the run's numbers, and no sum is off."""

    async def scenario():
        with sw.Run() as run:
            go = asyncio.Event()

            async def background():
                with sw.step("late"):
                    sw.record_usage(input_tokens=1)
                    await go.wait()
                    sw.record_usage(input_tokens=2)
                sw.record_usage(input_tokens=4)

            with sw.step("outer"):
                task = asyncio.create_task(background())
                await asyncio.sleep(0)
            go.set()
            await task
        return run

    run = asyncio.run(scenario())
    assert_receipts(run, ("outer", "completed"), ("late", "completed"))
    assert run.total.input_tokens == 7
    assert_within_budget(run)


def test_steps_in_threads_add_up():
    """What parallel steps leave adds up to what the run spent, in whatever order they ended."""

    def work():
        with sw.step("work"):
            sw.record_usage(input_tokens=1, cost_usd="0.01")

    with sw.Run() as run, sw.step("outer"):
        threads = [threading.Thread(target=sw.propagate(work)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_within_budget(run)
    assert_receipts(run, *[("work", "completed")] * 8, ("outer", "completed"))
