"""Which receipts a command is about, as its options say."""

from decimal import Decimal

import stepwarden as sw
from stepwarden.core._receipt import Status
from stepwarden.ledger._reading import Reading
from stepwarden.ledger._rows import ReceiptFilter

from ._ledger_path import find_run
from ._problem import UsageError
from ._when import read_time


def choose(
    opened: Reading,
    *,
    run: str | None = None,
    persona: str | None = None,
    step: str | None = None,
    model: str | None = None,
    status: str | None = None,
    since: str | None = None,
    until: str | None = None,
    min_usd: str | None = None,
    max_usd: str | None = None,
) -> ReceiptFilter:
    """Read the options that choose receipts.

    Args:
        opened: The ledger.
        run: Their run.
        persona: The persona that they ran in.
        step: The step's own name.
        model: The last model that they used.
        status: How they ended.
        since: The earliest end.
        until: The latest end.
        min_usd: The least that they spent, in USD.
        max_usd: The most.

    Raises:
        UsageError: If one of them cannot be read.
    """
    if status is not None and status not in tuple(Status):
        raise UsageError(f"--status must be one of {', '.join(Status)}, not {status!r}")
    return ReceiptFilter(
        run=None if run is None else find_run(opened, run).id,
        persona=persona,
        name=step,
        model=model,
        status=None if status is None else Status(status),
        since=None if since is None else read_time(since, "--since"),
        until=None if until is None else read_time(until, "--until"),
        min_cost_usd=_read_usd(min_usd, "--min-usd"),
        max_cost_usd=_read_usd(max_usd, "--max-usd"),
    )


def _read_usd(text: str | None, option: str) -> Decimal | None:
    try:
        return sw.Budget(max_usd=text).max_usd
    except sw.DefinitionError:
        raise UsageError(f"{option} must be an amount of USD >= 0, such as 2.50, not {text!r}") from None
