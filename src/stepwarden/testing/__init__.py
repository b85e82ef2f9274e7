"""What tests of agents need: a scripted model server, a real local model, a fake clock, assertions on receipts."""

from ._assertions import assert_receipts, assert_within_budget, receipt_of
from ._clock import FakeClock
from ._local_model import CountedTokens, LocalModel
from ._script import Cut, Drop, Failure, Garbage, Hang, ReceivedRequest, Reply, ToolCall
from ._scripted_model import ScriptedModel

__all__ = [
    "CountedTokens",
    "Cut",
    "Drop",
    "Failure",
    "FakeClock",
    "Garbage",
    "Hang",
    "LocalModel",
    "ReceivedRequest",
    "Reply",
    "ScriptedModel",
    "ToolCall",
    "assert_receipts",
    "assert_within_budget",
    "receipt_of",
]
