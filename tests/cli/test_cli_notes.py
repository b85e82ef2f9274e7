"""Below the table of receipts stands what no column says, and nothing where all is as it should be."""

import io
from contextvars import copy_context
from threading import Thread

import pytest
from rich.console import Console

import stepwarden as sw
from stepwarden.cli._notes import notes_table


def notes_of(run):
    """Return the notes on a run as lines without padding."""
    table = notes_table(run)
    if table is None:
        return []
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_run_in_order_has_no_notes():
    """Where nothing is out of the ordinary there is no table at all."""
    with sw.Run() as run, sw.step("plan"):
        sw.record_usage(input_tokens=1, cost_usd=0)

    assert notes_table(run) is None


def test_a_clamped_call_is_told():
    """A call whose output limit was lowered to fit is told for its step."""
    with sw.Run() as run, sw.step("plan", budget=sw.Budget(max_output_tokens=10)):
        with sw.reserve(input_tokens=1, output_tokens=50, cost_usd=0) as hold:
            hold.settle(input_tokens=1, output_tokens=hold.output_tokens, cost_usd=0)

    assert notes_of(run) == ["plan  1 call got a lower output limit than asked for, to fit the budget"]


def test_an_uncertain_call_is_told():
    """What is set aside for a call whose cost never became known is told, for its step and for the run."""
    with sw.Run(name="job") as run, sw.step("plan"), sw.reserve(input_tokens=5, output_tokens=7, cost_usd="0.01"):
        pass

    notes = notes_of(run)
    assert [note.split()[:2] for note in notes] == [["plan", "uncertain:"], ["job", "uncertain:"]]
    assert "7 tokens" in notes[0]


def test_a_call_that_outlives_its_step_is_told():
    """A step that ended with a call still open is told, and so is the step whose numbers that call became."""
    with sw.Run() as run, sw.step("outer"):
        with sw.step("inner"):
            hold = sw.reserve(input_tokens=5, output_tokens=7, cost_usd=0).acquire()
        hold.settle(input_tokens=5, output_tokens=1, cost_usd=0)

    assert notes_of(run) == [
        "inner  1 call still open when it ended",
        "outer  6 tokens came from work that outlived a step in it",
    ]


def test_a_late_tool_is_told():
    """A tool that was called by work which has outlived its step is told for the step around."""

    @sw.tool(side_effect="none")
    def look(): ...

    with sw.Run() as run, sw.step("outer"):
        with sw.step("inner"):
            background = copy_context()
        # A thread, since whoever opened a step is out of it when it has closed.
        thread = Thread(target=background.run, args=[look])
        thread.start()
        thread.join()

    assert notes_of(run) == ["outer  1 tool call came from work that outlived a step in it"]


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (sw.Budget(max_tokens=1, max_usd="0.10"), "5 tokens, $0.1500"),
        (sw.Budget(max_usd="0.10"), "$0.1500"),
        (sw.Budget(max_calls=0), "1 call"),
    ],
)
def test_an_overshoot_is_told(budget, told):
    """By how much a step has passed its budget is told in what it has passed."""
    with sw.Run() as run, pytest.raises(sw.BudgetExceededError), sw.step("plan", budget=budget):
        sw.record_usage(input_tokens=4, output_tokens=2, cost_usd="0.25")

    assert notes_of(run)[-1] == f"plan  over its budget by {told}"


def test_calls_without_a_price_are_told():
    """How many calls of the run had no price is told, since its USD leave them out."""
    with sw.Run(name="job") as run, sw.step("plan"):
        sw.record_usage(model="a model that nobody knows", input_tokens=1)

    assert notes_of(run) == ["job  1 call without a price, counted as $0"]


def test_a_denied_tool_is_told():
    """A tool that was denied is told with the reason; the one that worked is not."""

    @sw.tool(side_effect="none")
    def look(): ...

    @sw.tool(side_effect="workspace_write")
    def write():
        raise AssertionError("it must not run")

    with sw.Run() as run, sw.step("plan", side_effect_level="read_only"):
        look()
        with pytest.raises(sw.ToolDeniedError):
            write()

    (note,) = notes_of(run)
    assert note.startswith("plan  tool write denied: ")


def test_warnings_are_told():
    """The warnings on a receipt are told."""
    with sw.Run() as run, sw.persona("captain", stages=[sw.Stage("never_met")]):
        pass

    assert notes_of(run) == ["captain  stage 'never_met' matched no step"]


def test_an_error_is_told_once():
    """An error that leaves several scopes is told for the innermost only; one of a foreign class with its class."""
    with sw.Run() as run, pytest.raises(KeyError), sw.persona("captain"), sw.step("plan"):
        raise KeyError("missing")

    assert notes_of(run) == ["plan  failed: KeyError: 'missing'"]


def test_very_many_notes_are_cut():
    """Of very many notes the first are told, and how many more there are."""
    with sw.Run() as run:
        for turn in range(50):
            with pytest.raises(ValueError, match="turn"), sw.step("plan"):
                raise ValueError(f"turn {turn}")

    notes = notes_of(run)
    assert len(notes) == 41
    assert notes[-1].strip() == "and 10 notes more; --json has them all"
