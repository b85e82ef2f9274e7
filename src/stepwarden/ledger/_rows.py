"""What is read from a ledger's file: rows of lists, and what they are filtered by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from stepwarden.core._budget import Usage
from stepwarden.core._receipt import Receipt, Status

Cursor = tuple[int, int]
"""Where a page ended; give it as *after* to get the next one."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """Tell of one run.

    Args:
        number: Its number in the file, in the order in which runs were first written.
        id: Its id.
        parent: The id of the run around, or None.
        name: Its name.
        tenant: Its tenant, or None.
        started_at: When it was opened, in UTC, to the millisecond.
        ended_at: When it ended; None while it is open or was not accounted for yet.
        status: How it ended, or None.
        total: What everything under it spent: input and output tokens, calls and cost.
        receipts: How many steps and personas have left a receipt in it.
        signature: The signature over its head, as it is stored, or None.
    """

    number: int
    id: str
    parent: str | None
    name: str
    tenant: str | None
    started_at: datetime
    ended_at: datetime | None
    status: Status | None
    total: Usage
    receipts: int
    signature: str | None


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """Tell of one receipt in a list.

    Args:
        number: Its number in the file, in the order in which receipts were written.
        seq: The number of its record in its run.
        receipt: The receipt.
        pressure: How much of its tightest limit was used, 1.0 being all of it; None where it had no limit.
        ran_out: Whether a limit ended it, or was passed.
        cursor: Where it stands in the list.
    """

    number: int
    seq: int
    receipt: Receipt
    pressure: float | None
    ran_out: bool
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class ReceiptFilter:
    """Choose receipts; what is None chooses all.

    Args:
        run: The id of their run.
        kind: ``"step"`` or ``"persona"``.
        persona: The name of the persona that they ran in, or of themselves.
        name: The step's or persona's own name.
        model: The last model that they used.
        status: How they ended.
        since: The earliest end, in UTC.
        until: The latest end, in UTC.
        min_cost_usd: The least that they and everything under them spent.
        max_cost_usd: The most.
    """

    run: str | None = None
    kind: str | None = None
    persona: str | None = None
    name: str | None = None
    model: str | None = None
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None
    min_cost_usd: Decimal | None = None
    max_cost_usd: Decimal | None = None


class StoredRecord(NamedTuple):
    """Be one record as it is stored.

    Args:
        seq: Its number in its run.
        data: Its bytes.
        head: The head of the chain after it.
    """

    seq: int
    data: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class Spread:
    """Tell how a number is spread over activations.

    Args:
        p50: Half of them have at most this.
        p95: 95 in a hundred have at most this.
        total: The sum of what steps spent themselves, so that what is nested counts once, or of what personas and
            everything under them spent; None for a share.
    """

    p50: Any
    p95: Any
    total: Any


@dataclass(frozen=True, slots=True)
class StatsRow:
    """Tell how the activations that share a name, a model or a day went.

    Args:
        key: The name, the model (None where there was none) or the day in UTC, ``"2026-11-25"``.
        activations: How many there were.
        runs: In how many runs.
        ran_out: The share that a limit ended or that passed one, 0 to 1.
        cost_usd: What each and everything under it spent, in USD as `Decimal`.
        tokens: The same in tokens.
        pressure: How much of its tightest limit each used, 1.0 being all of it; None where none had a limit.
    """

    key: str | None
    activations: int
    runs: int
    ran_out: float
    cost_usd: Spread
    tokens: Spread
    pressure: Spread | None
