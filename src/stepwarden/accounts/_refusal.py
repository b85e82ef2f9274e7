"""What a call is told that an account refuses, or that waited for one in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwarden.core._accounting import no_price
from stepwarden.core._budget import in_units
from stepwarden.core._charge import show
from stepwarden.core.errors import AccountPausedError, BudgetExceededError, ReserveTimeoutError

from ._sheet import amount_of, usage_of
from ._window import time_of

if TYPE_CHECKING:
    from stepwarden.core._hold import Hold
    from stepwarden.core._scope import Scope

    from ._sheet import Blocked


def refuse(scope: Scope, hold: Hold, blocked: Blocked, *, never_waits: bool) -> None:
    """Raise for a call that an account refuses; return where others' holds could come back.

    Raises:
        AccountPausedError: If it is paused.
        UnpricedModelError: If it has a USD limit and the model has no price.
        BudgetExceededError: If what it has spent leaves no room, or the call would wait while it holds.
    """
    if blocked.paused is not None:
        why = f": {blocked.paused}" if blocked.paused else ""
        raise AccountPausedError(
            f"account `{blocked.name}` is paused{why}; `stepwarden accounts resume` lets it go on",
            account=blocked.name,
            reason=blocked.paused,
        )
    if blocked.limit == "max_usd" and hold.is_unpriced:
        raise no_price(scope, hold.model)
    if blocked.is_ever or never_waits:
        raise _no_room(blocked)


def _no_room(blocked: Blocked) -> BudgetExceededError:
    limit, sheet = blocked.limit, blocked.sheet
    spent, held, uncertain = (amount_of(limit, each) for each in (sheet.spent, sheet.held, sheet.uncertain))
    message = (
        f"account `{blocked.name}` has no room in {blocked.window} {limit} ({show(limit, spent)} of "
        f"{show(limit, blocked.value)} spent, {show(limit, held)} held, "
        + (f"{show(limit, uncertain)} uncertain, " if uncertain else "")
        + f"{show(limit, blocked.needed)} needed)"
        + ("" if blocked.is_ever else "; it would wait for a hold while its own context has one open")
    )
    began = time_of(blocked.start)
    error = BudgetExceededError(
        message,
        scope_kind="account",
        scope_name=blocked.name,
        scope_id=f"account.{blocked.name}.{blocked.window}" + ("" if began is None else f".{began:%Y-%m-%dT%H}"),
        function=blocked.name,
        limit=limit,
        limit_value=in_units(limit, blocked.value),
        consumed=in_units(limit, spent),
        requested=in_units(limit, blocked.needed),
        held=in_units(limit, held),
        uncertain=in_units(limit, uncertain),
        reason="no_room" if blocked.is_ever else "would_deadlock",
        phase="reserve",
        usage=usage_of(sheet.spent),
    )
    error.add_note(f"to spend more, raise the {blocked.window} {limit} of account `{blocked.name}`")
    return error


def timed_out(blocked: Blocked, waited: float) -> ReserveTimeoutError:
    """Make the error for a call that waited for an account for as long as it may, *waited* in seconds."""
    return ReserveTimeoutError(
        f"account `{blocked.name}` has no room in {blocked.window} {blocked.limit} now: other calls hold it "
        f"(waited {waited:.3g}s)",
        waited=waited,
        scope_kind="account",
        scope_name=blocked.name,
        limit=blocked.limit,
    )
