"""Waiting for the ledger: before a call is made, and before an activation has been left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import LedgerError

if TYPE_CHECKING:
    from ._firing import Pending
    from ._hold import Hold
    from ._ledger import Journal
    from ._scope import Scope


def secure(hold: Hold, journal: Journal) -> Pending[None]:
    """Wait until a hold is durable, so that no call is made that could be forgotten; else give it back.

    Args:
        hold: The hold, which is open.
        journal: Its run's.

    Raises:
        LedgerError: If it cannot be made durable.
    """
    try:
        journal.held(hold)
        yield journal.ticket()
    except BaseException:
        if hold.is_open:
            hold.release()
        raise


def until_durable(scope: Scope, error: BaseException | None) -> Pending[None]:
    """Wait until what a scope has left is durable.

    Args:
        scope: The scope, which has closed.
        error: What leaves it, which a failure of the ledger is raised from; or None.

    Raises:
        LedgerError: If it cannot be made durable.
    """
    journal = scope.run.journal
    if journal is None or scope.tree.is_forked:
        return
    try:
        yield journal.ticket()
    except LedgerError as failed:
        if error is None:
            raise
        raise failed from error
