"""What the core asks of the accounts around a call; the layer above it keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ._firing import Pending
    from ._hold import Hold
    from ._ledger import Ticket
    from ._scope import Scope

Amounts = tuple[int, int, int, int]
"""Input tokens, output tokens, picodollars and calls."""
NOTHING: Amounts = (0, 0, 0, 0)


class Funds(Protocol):
    """Draw calls on the accounts of the runs and personas around them."""

    def take(self, scope: Scope, hold: Hold, contend: Callable[[Hold], Ticket], timeout: float | None) -> Pending[None]:
        """Take a hold on every account around its scope, and on its tree, waiting in turns until both have room.

        Args:
            scope: Where the call is to be made.
            hold: Its hold, which is open or pending in the tree.
            contend: Returns what waits for room in the tree; after that the hold is open.
            timeout: The longest to wait, in seconds; None for as long as settings and scopes allow.

        Raises:
            AccountPausedError: If an account is paused.
            BudgetExceededError: If what is spent leaves no room.
            ReserveTimeoutError: If it waited for as long as it may.
            UnpricedModelError: If an account has a USD limit and the model has no price.
            RunClosedError: If the run ended meanwhile.
            LedgerError: If the accounts cannot be written.
        """

    def settle(self, hold: Hold, spent: Amounts, uncertain: Amounts) -> None:
        """Replace what a hold has on its accounts, or was charged there while its cost was unknown.

        Raises:
            LedgerError: If their ledger is closed.
        """

    def charge(self, scope: Scope, spent: Amounts) -> None:
        """Charge a call that was recorded after the fact to every account around *scope*.

        Raises:
            LedgerError: If their ledger is closed.
        """
