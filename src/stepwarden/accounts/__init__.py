"""Accounts, budgets that outlive a run: the books that ledgers keep of them, and the calls that are drawn on those."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwarden.core._funds import Funds


def load_funds() -> Funds:
    """Return what draws calls on accounts; the rest of this package loads with the first account."""
    from ._funds import LedgerFunds

    return LedgerFunds()
