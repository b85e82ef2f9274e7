"""Below the table of receipts stands what no column says, and nothing where all is as it should be."""

import io

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


def test_amounts_that_are_set_apart_are_told():
    """What is uncertain, clamped, over its budget or late is told for the scope that it belongs to."""
    with sw.Run(name="job") as run:
        with sw.step("clamped", budget=sw.Budget(max_output_tokens=10)):
            with sw.reserve(input_tokens=1, output_tokens=50, cost_usd=0) as hold:
                hold.settle(input_tokens=1, output_tokens=14, cost_usd=0) if hold.output_tokens == 50 else None
                hold.release()
            with sw.reserve(input_tokens=5, output_tokens=2, cost_usd="0.01"):
                pass
        with sw.step("lends") as lender:
            lent = sw.reserve(input_tokens=5, cost_usd=0).acquire()
        with sw.step("heir"):
            lent.settle(input_tokens=5, cost_usd=0)

    notes = notes_of(run)

    assert lender.receipt.open_holds == 1
    assert "clamped  1 call got a lower output limit than asked for, to fit the budget" in notes
    assert any(line.startswith("clamped  uncertain: ") for line in notes)
    assert "lends    1 call still open when it ended" in notes
