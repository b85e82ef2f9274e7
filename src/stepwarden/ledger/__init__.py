"""Where receipts, calls and holds are kept so that nothing is lost and anyone can check it."""

from ._sqlite import SQLiteLedger

__all__ = ["SQLiteLedger"]
