"""Recording usage after the fact: added first, checked then."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from ._accounting import count, late_owner, measure, read_model
from ._amount import MOST_BITS, OUTPUT, PRICED_CALLS, priced_call, unpacked
from ._charge import charge, exceeded
from ._firing import fire_thresholds
from ._hooks import armed
from ._leaf import default_model, get_leaf, resolve
from ._meter import meter_of
from ._queue import look
from ._settings import meet_unscoped
from ._tally import KEPT_RECORDS, MOST_RECORDS
from ._watch import tell_refused
from .errors import StepwardenError

if TYPE_CHECKING:
    from ._money import Money


def record_usage(  # noqa: C901 - the hot path is written out
    model: str | None = None,
    *,
    input_tokens: int = 0,
    output_tokens: int = 0,
    cost_usd: Money | None = None,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    reasoning_tokens: int = 0,
    estimated: bool = False,
) -> None:
    """Count one call that was already made, on the current scope and every scope around it, then check the limits.

    Since the call has been made, it can pass a limit; `reserve` prevents that. Held amounts do not count here. Outside
    every scope this does nothing except for the warning or refusal that `configure` asks for.

    Example:
        >>> import stepwarden as sw
        >>> with sw.step("classify") as step:
        ...     sw.record_usage("gpt-5-mini", input_tokens=480, output_tokens=20, cost_usd="0.00016")
        >>> step.own.total_tokens, step.own.cost_usd
        (500, Decimal('0.00016'))

    Args:
        model: The model that was called; unless empty, it becomes the step's last model.
        input_tokens: All input, cache reads and writes included; negative counts as 0.
        output_tokens: All output, reasoning included; negative counts as 0.
        cost_usd: The cost; None: computed from the run's prices.
        cache_read_tokens: The part of the input that was read from a cache.
        cache_write_tokens: The part of the input that was written to a cache.
        reasoning_tokens: The part of the output that was reasoning.
        estimated: Whether the numbers are estimated, not reported.

    Raises:
        BudgetExceededError: If a limit is passed now, naming the outermost such scope; the usage stays counted.
        UnpricedModelError: If no cost was given, the model has no price and a USD limit is in force; the usage stays
            counted, without a cost.
        ValueError: If the cost is negative, not finite or not an amount, or a count is 2**45 or more; then nothing is
            counted.
        TypeError: If a count is not an int, or the model is not a string; then nothing is counted.
        LedgerError: If the run has ended and its ledger is closed; the usage stays counted.
    """
    scope = get_leaf()
    if scope is None or scope.status is not None:
        scope = resolve(scope)
        if scope is None:
            meet_unscoped("a recorded call")
            return
    if (
        input_tokens.__class__ is not int
        or output_tokens.__class__ is not int
        or (input_tokens | output_tokens) >> MOST_BITS
    ):
        input_tokens = count(input_tokens, "input_tokens")
        output_tokens = count(output_tokens, "output_tokens")
    if model and model.__class__ is not str:
        model = read_model(model)
    error: StepwardenError | None = None
    try:
        priced = PRICED_CALLS[cost_usd] if cost_usd.__class__ is Decimal else priced_call(cost_usd)
    except TypeError:  # a signalling NaN has no hash
        priced = priced_call(cost_usd)
    extra = None
    if priced is None or cache_read_tokens or cache_write_tokens or reasoning_tokens or estimated:
        used = model or default_model()
        rates = scope.run.rates(used) if priced is None else None
        counts = (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens)
        priced, extra, error = measure(scope, used, priced, rates, *counts, estimated=estimated)
    spent = input_tokens + output_tokens * OUTPUT + priced
    tree = scope.tree
    with tree.lock:
        owner = scope if scope.status is None else late_owner(scope, spent)
        meter = scope.meter or meter_of(scope)  # and with it those of every scope around
        passed = charge(owner.meter, meter, spent, extra)
        if model:
            owner.last_model = model
        detail = owner.detail or owner.make_detail()
        call = (model, spent, "recorded", False)
        calls = detail.calls
        calls.append(call)
        if len(calls) > MOST_RECORDS:
            del calls[:-KEPT_RECORDS]
        if passed is not None:
            error = exceeded(passed.scope, "record")
        if tree.waiting:
            look(scope)
    if armed.calls:
        if scope.run.journal is not None:
            scope.run.journal.used(owner, call, extra)
        if scope.run.funds is not None:
            scope.run.funds.charge(scope, unpacked(spent))
        if armed.thresholds:
            fire_thresholds(scope, error)
    if error is not None:
        tell_refused(scope, error)
        raise error
