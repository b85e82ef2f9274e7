"""Where receipts, calls and holds are kept so that nothing is lost and anyone can check it."""

from ._reading import Reading
from ._recovery import RecoveredRun, recover
from ._rows import ReceiptFilter
from ._sqlite import SQLiteLedger

__all__ = ["Reading", "ReceiptFilter", "RecoveredRun", "SQLiteLedger", "recover"]
