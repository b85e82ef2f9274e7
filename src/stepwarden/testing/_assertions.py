"""Assertions on receipts, with messages that say what there is instead."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from stepwarden.core._receipt import Receipt
from stepwarden.core._run import Run


def receipt_of(run: Run, name: str) -> Receipt:
    """Return the only receipt of a step or persona.

    Args:
        run: The run.
        name: The step's or persona's name.

    Raises:
        AssertionError: If there is none, or more than one.
    """
    found = [receipt for receipt in run.receipts if receipt.name == name]
    if len(found) != 1:
        there = ", ".join(f"{receipt.name} ({receipt.status})" for receipt in run.receipts) or "none"
        raise AssertionError(f"{len(found)} receipts are named {name!r}; there are: {there}")
    return found[0]


def assert_receipts(run: Run, expected: Iterable[tuple[str, str]]) -> None:
    """Check which steps and personas a run left, and how each ended.

    Args:
        run: The run.
        expected: Pairs of a name and a status, in completion order: inner before outer.

    Raises:
        AssertionError: If the receipts are others, with both lists.
    """
    wanted = [(name, str(status)) for name, status in expected]
    there = [(receipt.name, str(receipt.status)) for receipt in run.receipts]
    if there != wanted:
        raise AssertionError(f"the run left {there}, not {wanted}")


def assert_within_budget(run: Run) -> None:
    """Check that a run and everything under it stayed inside its limits, and that its receipts add up.

    Args:
        run: The run, with all of its receipts: none drained or dropped.

    Raises:
        AssertionError: If a limit was passed, something is still held, or a sum is off; it names the scope.
    """
    for name, overshoot in [("the run", run.overshoot), *((one.name, one.overshoot) for one in run.receipts)]:
        if overshoot.total_tokens or overshoot.cost_usd or overshoot.calls or overshoot.tool_calls:
            raise AssertionError(f"{name} passed its limits by {overshoot}")
    if run.held.total_tokens or run.held.cost_usd or run.held.calls:
        raise AssertionError(f"the run still holds {run.held}")
    own_tokens = run.own.total_tokens + sum(receipt.own.total_tokens for receipt in run.receipts)
    own_cost = run.own.cost_usd + sum((receipt.own.cost_usd for receipt in run.receipts), Decimal(0))
    if (own_tokens, own_cost) != (run.total.total_tokens, run.total.cost_usd):
        raise AssertionError(
            f"the receipts add up to {own_tokens} tokens and ${own_cost}, "
            f"and the run to {run.total.total_tokens} and ${run.total.cost_usd}"
        )
