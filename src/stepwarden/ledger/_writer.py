"""One thread that writes for a whole process: whoever waits meanwhile shares the next commit."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, cast

from stepwarden.core._tree import running_loop
from stepwarden.core.errors import LedgerError

from ._entry import Entry, Outlet

if TYPE_CHECKING:
    import asyncio

_MOST_AT_ONCE = 5_000
"""Records a commit, so that no caller waits for a backlog of minutes."""
_LINGER_SECONDS = 0.02
"""How long records that nobody waits for may wait for company."""
_IDLE_ROUNDS = 50
"""After how many of those without a record the writer sleeps until there is one."""


class Store(Protocol):
    """Keep records where they outlive the process; used by the writer's thread alone."""

    def commit(self, entries: Sequence[Entry]) -> None:
        """Make records durable, all of them or none; raise a `LedgerError` where that cannot be done."""

    def tidy(self) -> None:
        """Do what was left for later, that nobody waits for."""

    def prepare_ahead(self) -> Callable[[], None] | None:
        """Return what does a part of it while callers who were woken run; None for nothing to do."""

    def close(self) -> None:
        """Let go of what is open."""


class _Waiting:
    """Be one caller that waits for a commit."""

    __slots__ = ("failure", "gate", "loop")

    def __init__(self, gate: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self.gate = gate
        self.loop = loop
        self.failure: Exception | None = None


class Writer(Outlet):
    """Write entries in the order in which they come; be waited for as a ticket, from threads and tasks.

    Whoever waits in a thread commits by itself where nobody else is at it, since handing over to another thread costs
    more than a commit. Tasks, and those who meet a commit under way, are served by the writer's thread, all at once.
    What could not be written is kept, and tried again with the next commit.

    Appending takes no lock that a finaliser or a signal handler could meet a second time on its thread.

    Args:
        open_store: Makes the store, in the writer's thread.
        name: What error messages call the ledger.

    Raises:
        LedgerError: If the store cannot be opened.
    """

    def __init__(self, open_store: Callable[[], Store], name: str) -> None:
        self._name = name
        self._entries: deque[Entry] = deque()
        self._backlog: list[Entry] = []
        self._calls: SimpleQueue[_Waiting | None] = SimpleQueue()
        # Re-entrant only so that it knows who holds it: nobody commits inside a commit.
        self._turn = threading.RLock()
        self._wants_turn = True
        self._is_attentive = False
        self._is_over = False
        self.is_closed = False
        self._store: Store | None = None
        self._forks = _forks
        self._thread = threading.Thread(target=self._write, args=(open_store,), name="stepwarden-ledger", daemon=True)
        self._thread.start()
        self._join(threading.Lock())

    def append(self, entry: Entry) -> bool:
        """Take an entry, to be written soon; tell whether it was taken, which a closed writer does not."""
        if self.is_closed:
            return False
        self._entries.append(entry)
        if not self._is_attentive:
            self._is_attentive = True
            self._calls.put(None)
        return True

    def wait(self) -> None:
        """Block until everything appended before is durable.

        Inside a commit of its own thread, where a finaliser or a signal handler may be run, nothing is waited for.

        Raises:
            LedgerError: If it cannot be made durable.
        """
        if self.is_committing_here:
            return
        self._refuse_closed()
        try:
            if not self._wants_turn and self._turn.acquire(blocking=False):
                self._commit_all()
                return
        finally:
            self._end_turn()
        self._join(threading.Lock())

    def __await__(self) -> Generator[Any, Any, None]:
        """Do the same without blocking the event loop."""
        loop = running_loop()
        if loop is None:  # some other library's loop runs it
            self.wait()
            return
        self._refuse_closed()
        waiting = _Waiting(loop.create_future(), loop)
        self._call(waiting)
        yield from waiting.gate
        if waiting.failure is not None:
            self._raise(waiting.failure)

    def tidy(self) -> None:
        """Wait until everything appended before is durable and can be looked up.

        Raises:
            LedgerError: If it cannot be made durable.
        """
        self.wait()
        if not self.is_committing_here:
            with self._turn:
                self._commit_all(tidies=True)

    def close(self) -> None:
        """Write what is left and end the thread; again is harmless.

        Raises:
            LedgerError: If something could not be written.
        """
        if self.is_closed:
            return
        try:
            self.wait()
        finally:
            self.is_closed = True
            self._is_over = True
            self._calls.put(None)
            if threading.current_thread() is not self._thread:
                self._thread.join()

    @property
    def is_committing_here(self) -> bool:
        """Whether this thread is in the middle of a commit, and so cannot wait for one."""
        return self._turn._is_owned()  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001 - as `Condition` asks

    def _end_turn(self) -> None:
        # Asked, not remembered: a signal handler may have raised just after it was taken.
        if self.is_committing_here:
            self._turn.release()

    def _join(self, gate: threading.Lock) -> None:
        gate.acquire()
        waiting = _Waiting(gate, None)
        self._call(waiting)
        gate.acquire()
        self._raise(waiting.failure)

    def _call(self, waiting: _Waiting) -> None:
        self._calls.put(waiting)
        if self._is_over:
            self._refuse_all()

    def _refuse_closed(self) -> None:
        # A forked child has no such thread.
        if self.is_closed or self._forks != _forks:
            raise LedgerError(f"{self._name} is closed, and nothing more can be recorded in it")

    def _raise(self, failure: Exception | None) -> None:
        if isinstance(failure, LedgerError):
            raise LedgerError(str(failure)) from failure
        if failure is not None:
            raise LedgerError(f"{self._name} cannot record: {failure}") from failure

    def _commit_all(self, *, tidies: bool = False) -> None:
        """Write what was appended before, while it is this thread's turn; what cannot be written is kept."""
        store, backlog, left = cast("Store", self._store), self._backlog, len(self._entries)
        while left or backlog:
            taken = min(left, max(0, _MOST_AT_ONCE - len(backlog)))
            for _ in range(taken):
                # No call between the two, so that no signal handler that raises can lose it.
                backlog += (self._entries.popleft(),)
            left -= taken
            store.commit(backlog)
            backlog.clear()
        if tidies:
            store.tidy()

    # --- the writer's thread ----------------------------------------------------------------------

    def _write(self, open_store: Callable[[], Store]) -> None:
        failure: Exception | None = None
        try:
            # In this frame too: a forked child has no such thread, and so never lets go of what it must not close.
            store = self._store = open_store()
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            self._is_over = self.is_closed = True
            self._refuse_all(error)
            return
        self._wants_turn = False
        idle = 0
        while not self._is_over:
            callers = self._gather()
            idle = idle + 1 if not (callers or self._entries) else 0
            self._wants_turn = True
            with self._turn:
                self._wants_turn = False
                failure = self._try_commit_all(tidies=not callers)
                ahead = store.prepare_ahead() if callers and failure is None else None
                _wake(callers, failure)
                if ahead is not None:
                    ahead()
            # Before it looks whether there is anything, so that what comes meanwhile calls again.
            self._is_attentive = idle < _IDLE_ROUNDS
            self._is_attentive = self._is_attentive or bool(self._entries)
        self._is_over = self.is_closed = True
        with self._turn:
            self._try_commit_all(tidies=True)
            store.close()
        self._refuse_all()

    def _try_commit_all(self, *, tidies: bool) -> Exception | None:
        try:
            self._commit_all(tidies=tidies)
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            return error
        return None

    def _gather(self) -> list[_Waiting]:
        """Sleep until somebody waits, or until entries have waited long enough; return who waits."""
        try:
            callers = [self._calls.get(timeout=_LINGER_SECONDS if self._is_attentive else None)]
        except Empty:
            return []
        while not self._calls.empty():
            callers.append(self._calls.get())
        return [one for one in callers if one is not None]

    def _refuse_all(self, failure: Exception | None = None) -> None:
        """Turn away who came after the last commit, so that nobody waits for a thread that has ended."""
        late = []
        while not self._calls.empty():
            one = self._calls.get_nowait()
            if one is not None:
                late.append(one)
        if failure is None and self._entries:
            failure = LedgerError(f"{self._name} was closed meanwhile")
        _wake(late, failure)


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - there is one process; asking for its number at each wait is a system call
    _forks += 1


_forks = 0
os.register_at_fork(after_in_child=_count_fork)


def _wake(callers: Sequence[_Waiting], failure: Exception | None) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Any]] = {}
    for one in callers:
        one.failure = failure
        if one.loop is None:
            one.gate.release()
        else:
            by_loop.setdefault(one.loop, []).append(one.gate)
    for loop, gates in by_loop.items():
        try:
            loop.call_soon_threadsafe(_finish, gates)
        except RuntimeError:  # the loop was closed while they waited: nobody is there to hear it
            continue


def _finish(gates: Sequence[Any]) -> None:
    for gate in gates:
        if not gate.done():
            gate.set_result(None)
