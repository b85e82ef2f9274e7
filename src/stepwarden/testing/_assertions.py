"""Assertions on receipts, with messages that say what there is instead."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal

from stepwarden.core._budget import Usage
from stepwarden.core._receipt import Receipt
from stepwarden.core._run import Run

_Sum = tuple[int, int, int, int, Decimal]


def receipt_of(run: Run | Iterable[Receipt], name: str) -> Receipt:
    """Return the only receipt of a step or persona.

    Args:
        run: The run, or its receipts.
        name: The step's or persona's name.

    Returns:
        The receipt, as in ``assert receipt_of(run, "classify").own.calls == 1``.

    Raises:
        AssertionError: If there is none, or more than one; it lists what there is.
    """
    receipts = _receipts(run)
    found = [receipt for receipt in receipts if receipt.name == name]
    if len(found) != 1:
        there = ", ".join(f"{receipt.name} ({receipt.status})" for receipt in receipts) or "none"
        raise AssertionError(f"{len(found)} receipts are named {name!r}; there are: {there}")
    return found[0]


def assert_receipts(run: Run | Iterable[Receipt], *expected: tuple[str, str]) -> None:
    """Check which steps and personas a run left, and how each ended.

    As in ``assert_receipts(run, ("classify", "skipped"), ("triage", "completed"))``; without *expected*, that there
    are none.

    Args:
        run: The run, or its receipts.
        expected: Pairs of a name and a status, in completion order: inner before outer.

    Raises:
        AssertionError: If the receipts are others; it shows where the two lists differ, and why steps failed.
        TypeError: If something that is expected is no pair.
    """
    for pair in expected:
        given: object = pair
        if not isinstance(given, tuple | list) or len(given) != 2:  # noqa: PLR2004 - a pair has two
            raise TypeError(f'expected: {pair!r} is no pair of a name and a status, such as ("classify", "completed")')
    receipts = _receipts(run)
    if [(receipt.name, str(receipt.status)) for receipt in receipts] == [(name, str(end)) for name, end in expected]:
        return
    wanted = [f"{name}: {status}" for name, status in expected]
    there = [f"{receipt.name}: {receipt.status}" for receipt in receipts]
    lines = [line for line in difflib.ndiff(wanted, there) if not line.startswith("?")]
    why = [f"{one.name}: {one.error.type}: {one.error.message}" for one in receipts if one.error is not None]
    raise AssertionError("\n".join(["the receipts are others (- expected, + there):", *lines, *why]))


def assert_within_budget(run: Run) -> None:
    """Check that a run and everything under it stayed inside its limits, and that its receipts add up.

    No scope has an overshoot, nothing is held any more, what each scope spent is what it spent itself and what
    those inside it spent, and the run's receipts and its own add up to all that it spent.

    Args:
        run: The run, with all of its receipts, none drained or dropped; a run inside it has its own, so there is none.

    Raises:
        AssertionError: If a limit was passed, something is still held, or a sum is off; it names the scope.
    """
    receipts = run.receipts
    for name, overshoot in [("the run", run.overshoot), *((one.name, one.overshoot) for one in receipts)]:
        if overshoot != Usage():
            raise AssertionError(f"{name} passed its limits by {overshoot}")
    if run.held != Usage():
        raise AssertionError(f"the run still holds {run.held}")
    inside: defaultdict[str | None, list[Usage]] = defaultdict(list)
    # A step that outlives the one around it is only partly in that one's numbers.
    outlived = _outlived(receipts)
    for receipt in receipts:
        if receipt.step_id not in outlived:
            _check_sum(f"{receipt.name} and those inside it", [receipt.own, *inside[receipt.step_id]], receipt.total)
        inside[receipt.parent_id].append(receipt.total)
    _check_sum("the run and its receipts", [run.own, *(receipt.own for receipt in receipts)], run.total)


def _receipts(run: Run | Iterable[Receipt]) -> Sequence[Receipt]:
    return run.receipts if isinstance(run, Run) else tuple(run)


def _outlived(receipts: Iterable[Receipt]) -> set[str]:
    ended: set[str] = set()
    outlived: set[str] = set()
    for receipt in receipts:
        ended.add(receipt.step_id)
        if receipt.parent_id is not None and receipt.parent_id in ended:
            outlived.add(receipt.parent_id)
    return outlived


def _check_sum(what: str, parts: Iterable[Usage], whole: Usage) -> None:
    added = [sum(column) for column in zip(*(_amounts(part) for part in parts), strict=True)]
    if added != list(_amounts(whole)):
        names = ("input tokens", "output tokens", "calls", "tool calls", "dollars")
        off = (
            f"{there} {name}, not {total}"
            for name, there, total in zip(names, added, _amounts(whole), strict=True)
            if there != total
        )
        raise AssertionError(f"{what} add up to {'; '.join(off)}")


def _amounts(usage: Usage) -> _Sum:
    return usage.input_tokens, usage.output_tokens, usage.calls, usage.tool_calls, usage.cost_usd
