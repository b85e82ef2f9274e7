"""One call at a time, in each thread, into what the application has set up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class _Turns(threading.local):
    """Hold the calls of this thread that wait for the one under way; None where none is."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], object]] | None = None


_turns = _Turns()


def in_turn(call: Callable[[], object]) -> None:
    """Call now; or, where this thread is in such a call already, right after that one.

    The garbage collector may run a finaliser in the middle of any call, and that may end a generator step. An SDK's
    locks are not re-entrant, so ending its span there would wait for ever for a lock that the same thread holds.

    Args:
        call: What calls the SDK.
    """
    if _turns.waiting is not None:
        _turns.waiting.append(call)
        return
    _turns.waiting = waiting = deque((call,))
    try:
        while waiting:
            waiting.popleft()()
    finally:
        _turns.waiting = None
