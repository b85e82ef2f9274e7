"""The tree that all open scopes of one outermost run share: its lock, its clock and its waiting callers."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .errors import ForkedRunError

if TYPE_CHECKING:
    from ._queue import Waiter
    from ._scope import Scope


class Clock(Protocol):
    """Tell the time; what `time` offers, or a fake one in tests."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never run backwards."""

    def time_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""


class Tree:
    """Be what every scope under one outermost run shares.

    The lock is re-entrant: the garbage collector may run a finaliser, and a signal its handler, in the middle of
    one of our operations on the same thread. Every operation under it therefore only adds to counters, and checks
    after it has added, so that a nested one sees and leaves a state that is safe.

    A handler may also raise, as that of Ctrl-C does. Then the operation has happened or it has not: the lock is free,
    the leaf is that of before, sums agree, and whoever can move was woken. What Python cannot give is a ``with``
    block that is interrupted when its ``__exit__`` has begun and not yet looked at anything: such a scope or hold stays
    open until the scope around it is left, and is `abandoned` or uncertain then. A step that is interrupted between
    its opening and its first instruction may be `abandoned` in place of `cancelled`, a hold that was taken and not
    given to its caller yet stays held until its scope ends, and of a call that was counted the entry in `calls` may
    be missing.

    Args:
        clock: Where the time comes from.
    """

    __slots__ = (
        "__weakref__", "anchor_ns", "clock", "lock", "looking", "open", "reading", "serials", "tickets", "waiting",
    )  # fmt: skip

    def __init__(self, clock: Clock) -> None:
        self.lock: AbstractContextManager[Any] = _QuickLock(threading.RLock())
        # The same lock; but in a forked child what was counted can still be read.
        self.reading: AbstractContextManager[Any] = self.lock
        self.clock = clock.monotonic_ns
        self.anchor_ns = clock.time_ns() - clock.monotonic_ns()
        self.open: dict[int, Scope] = {}
        self.serials = count(1)
        self.tickets = count(1)
        self.waiting: set[Waiter] = set()
        self.looking: list[Scope] | None = None
        _trees.add(weakref.ref(self, _trees.discard))

    @property
    def is_forked(self) -> bool:
        """Whether this process inherited the tree from the one that opened it."""
        return self.lock is _forked


def chain(scope: Scope | None) -> Iterator[Scope]:
    """Give a scope and the scopes around it, innermost first.

    It is for loops that go to the root. One that stops before would drop a generator that is not at its end, and what a
    signal handler raises while that is closed is lost.
    """
    while scope is not None:
        yield scope
        scope = scope.parent


class _QuickLock:
    """Be a lock whose ``with`` statement finds its methods ready, where that of `threading.RLock` makes two each time.

    A method that stands in a slot is found like any other. Calling ``acquire`` and ``release`` instead would leave the
    lock taken where a signal handler raises just after the first.
    """

    __slots__ = ("__enter__", "__exit__")

    __enter__: Callable[[], Any]
    __exit__: Callable[..., bool | None]

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self.__enter__ = lock.__enter__
        self.__exit__ = lock.__exit__


class _ForkedLock:
    """Refuse every operation on an inherited tree, at no cost to the others."""

    def __enter__(self) -> NoReturn:
        _refuse()

    def __exit__(self, *exc_info: object) -> None: ...


def _refuse() -> NoReturn:
    raise ForkedRunError(
        "this run was opened before the process forked, and its budget belongs to the parent process; "
        "open a new Run in the child"
    )


# A set is copied in one go; a WeakSet cannot be looked through while another thread opens a run. And what the collector
# calls to take a tree out is a function of C: see `_collector`.
_trees: set[weakref.ref[Tree]] = set()
_forked = _ForkedLock()


def _live_trees() -> Iterator[Tree]:
    return filter(None, (known() for known in _trees.copy()))


def _disown_trees() -> None:
    for tree in _live_trees():
        tree.lock = _forked
        tree.reading = threading.RLock()
        tree.clock = _refuse


os.register_at_fork(after_in_child=_disown_trees)


def any_run_is_open() -> bool:
    """Tell whether a run is open anywhere in this process."""
    return any(tree.open and not tree.is_forked for tree in _live_trees())


def running_loop() -> Any:
    """Return the event loop that this thread runs, or None."""
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def runs_event_loop() -> bool:
    """Tell whether this thread runs an event loop, which must not be blocked."""
    return running_loop() is not None


# The trees whose run somebody entered: far fewer than all, which closed scopes keep for their receipts.
entered: set[weakref.ref[Tree]] = set()


def entered_run() -> str | None:
    """Return the name of a run that somebody entered and that is open now, anywhere in this process, or None."""
    trees = (known() for known in entered.copy())
    roots = (tree.open.get(1) for tree in trees if tree is not None and not tree.is_forked)
    return next((root.name for root in roots if root is not None), None)


def current_flow() -> object:
    """Return what identifies the current asyncio task, or else the thread; equal while it is the same one."""
    # Where nobody imported asyncio, no loop runs, and looking must not import it.
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs on this thread
            task = None
        if task is not None:
            # Weak: a closed scope may be kept for its receipt long after its task has ended.
            return weakref.ref(task)
    # Not its number, which the next thread may get.
    return weakref.ref(threading.current_thread())
