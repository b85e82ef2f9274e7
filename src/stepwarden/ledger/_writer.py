"""One thread that writes for a whole process: whoever waits meanwhile shares the next commit."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from stepwarden.core._tree import runs_event_loop
from stepwarden.core.errors import LedgerError

from ._entry import Entry

if TYPE_CHECKING:
    import asyncio

_MOST_AT_ONCE = 5_000
"""Records a commit, so that no caller waits for a backlog of minutes."""
_LINGER_SECONDS = 0.02
"""How long records that nobody waits for may wait for company."""


class Store(Protocol):
    """Keep records where they outlive the process; used by the writer's thread alone."""

    def commit(self, entries: Sequence[Entry]) -> None:
        """Make records durable, all of them or none."""

    def close(self) -> None:
        """Let go of what is open."""


class _Waiting:
    """Be one caller that waits for a commit."""

    __slots__ = ("failure", "gate", "loop")

    def __init__(self, gate: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self.gate = gate
        self.loop = loop
        self.failure: Exception | None = None


class Writer:
    """Write entries in the order in which they come; be waited for as a ticket, from threads and tasks.

    Appending takes no lock that a finaliser or a signal handler could meet a second time on its thread. What could
    not be written is kept, and tried again with the next commit.

    Args:
        open_store: Makes the store, in the writer's thread.
        name: What error messages call the ledger.

    Raises:
        LedgerError: If the store cannot be opened.
    """

    def __init__(self, open_store: Callable[[], Store], name: str) -> None:
        self._name = name
        self._entries: deque[Entry] = deque()
        self._calls: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._is_nudged = False
        self.is_closed = False
        self._is_over = False
        # The store lives in that thread's frame only: a forked child has no such thread, and so cannot touch it.
        self._thread = threading.Thread(target=self._write, args=(open_store,), name="stepwarden-ledger", daemon=True)
        self._thread.start()
        self.wait()

    def append(self, entry: Entry) -> bool:
        """Take an entry, to be written soon; tell whether it was taken, which a closed writer does not."""
        if self.is_closed:
            return False
        self._entries.append(entry)
        if not self._is_nudged:
            self._is_nudged = True
            self._calls.put(None)
        return True

    def wait(self) -> None:
        """Block until everything appended before is durable.

        Raises:
            LedgerError: If it cannot be made durable.
        """
        if threading.current_thread() is self._thread:
            return  # a finaliser that the garbage collector runs here must not wait for itself
        self._refuse_closed()
        gate = threading.Lock()
        gate.acquire()
        self._settle(self._join(_Waiting(gate, None), gate.acquire))

    def __await__(self) -> Generator[Any, Any, None]:
        """Do the same without blocking the event loop."""
        if not runs_event_loop():  # some other library's loop runs it
            self.wait()
            return
        import asyncio

        loop = asyncio.get_running_loop()
        self._refuse_closed()
        gate = loop.create_future()
        waiting = self._join(_Waiting(gate, loop), lambda: None)
        yield from gate
        self._settle(waiting)

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

    def _refuse_closed(self) -> None:
        if self.is_closed or not self._thread.is_alive():
            raise LedgerError(f"{self._name} is closed, and nothing more can be recorded in it")

    def _join(self, waiting: _Waiting, block: Callable[[], object]) -> _Waiting:
        self._calls.put(waiting)
        if self._is_over:
            self._refuse_all()
        block()
        return waiting

    def _settle(self, waiting: _Waiting) -> None:
        failure = waiting.failure
        if isinstance(failure, LedgerError):
            raise LedgerError(str(failure)) from failure
        if failure is not None:
            raise LedgerError(f"{self._name} cannot record: {failure}") from failure

    # --- the writer's thread ----------------------------------------------------------------------

    def _write(self, open_store: Callable[[], Store]) -> None:
        failure: Exception | None = None
        store: Store | None = None
        backlog: list[Entry] = []
        try:
            store = open_store()
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            failure = error
        while True:
            callers = self._gather()
            if store is not None:
                failure = self._commit_all(store, backlog)
            _wake(callers, failure)
            if store is None or (self._is_over and not self._entries):
                break
        self._is_over = self.is_closed = True
        if store is not None:
            store.close()
        self._refuse_all()

    def _gather(self) -> list[_Waiting]:
        """Sleep until somebody waits, or until entries have waited long enough; return who waits."""
        first = self._calls.get()
        if first is None and not self._is_over:
            try:
                first = self._calls.get(timeout=_LINGER_SECONDS)
            except Empty:
                return []
        callers = [first]
        while not self._calls.empty():
            callers.append(self._calls.get())
        return [one for one in callers if one is not None]

    def _commit_all(self, store: Store, backlog: list[Entry]) -> Exception | None:
        # Before the entries are taken: one that comes after that nudges again.
        self._is_nudged = False
        left = len(self._entries)
        try:
            while left or backlog:
                taken = min(left, max(0, _MOST_AT_ONCE - len(backlog)))
                backlog.extend(self._entries.popleft() for _ in range(taken))
                left -= taken
                store.commit(backlog)
                backlog.clear()
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is, and the entries are kept
            return error
        return None

    def _refuse_all(self) -> None:
        """Turn away who came after the last commit, so that nobody waits for a thread that has ended."""
        late = []
        while not self._calls.empty():
            one = self._calls.get_nowait()
            if one is not None:
                late.append(one)
        failure = None if not self._entries else LedgerError("it was closed meanwhile")
        _wake(late, failure)


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
