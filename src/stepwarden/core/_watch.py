"""Who hears of what happens beside the hooks: spans, metrics, log records and durable records, each from an edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ._settings import settings
from .errors import StepwardenError

if TYPE_CHECKING:
    from ._hooks import Hooks
    from ._queue import Waiter
    from ._receipt import ReceiptError, Status
    from ._run import Run
    from ._scope import Scope


class Watcher(Protocol):
    """Hear of every activation under one run; outside the lock, in the context where it happens, and without raising.

    `settings.watches` holds what is asked for one when a run opens. A run that has any is *watched*, and only its
    activations take the long way. A run itself has been opened when its watcher is made.
    """

    def opened(self, scope: Scope) -> None:
        """Hear that a step or persona has opened, and that its body runs in this context now."""

    def suspended(self, scope: Scope) -> None:
        """Hear that its body does not run here any more: it stands at a yield, was suspended by its host, or left."""

    def resumed(self, scope: Scope) -> None:
        """Hear that its body runs here again, which may be another context; it may have been closed meanwhile."""

    def closed(self, scope: Scope) -> None:
        """Hear that a step, a persona or the run has closed, with its status and its numbers as they stay."""


class Listener(Protocol):
    """Hear of what is rare, under every run; `settings.listeners` holds them. Outside the lock."""

    def refused(self, scope: Scope, error: StepwardenError) -> None:
        """Hear of an error of ours that *scope* is about to meet."""

    def waited(self, scope: Scope, limit: str, seconds: float) -> None:
        """Hear how long a call in *scope* waited for other calls' holds, granted or not."""


class Watched:
    """Stand where a run's hooks would be asked whether they hear anything."""

    is_heard = True
    hears_ends = True


class Recorded:
    """Stand there for a run whose ledger is waited for: its activations are left once they are durable.

    Args:
        hooks: The run's hooks, which may hear nothing.
    """

    __slots__ = ("_hooks",)
    hears_ends = True

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    @property
    def is_heard(self) -> bool:
        """Whether a hook hears of activations, so that they take the long way."""
        return self._hooks.is_heard


def watch(run: Run) -> None:
    """Decide, as a run opens, who watches it."""
    made = (make(run) for make in settings.watches)
    run.watchers = tuple(watcher for watcher in made if watcher is not None)
    if run.watchers:
        run.audience = Watched


def close_scope(scope: Scope, status: Status, error: ReceiptError | None = None) -> None:
    """Close a scope, and tell its watchers if it was open."""
    if scope.close(status, error):
        for watcher in scope.run.watchers:
            watcher.closed(scope)


def tell_suspended(scope: Scope) -> None:
    """Tell the watchers of a scope that its body does not run here any more."""
    for watcher in scope.run.watchers:
        watcher.suspended(scope)


def tell_resumed(scope: Scope) -> None:
    """Tell the watchers of a scope that its body runs here again."""
    for watcher in scope.run.watchers:
        watcher.resumed(scope)


def tell_waited(waiter: Waiter, seconds: float) -> None:
    """Tell the listeners that a caller waits no more."""
    assert waiter.hold.scope is not None
    for listener in settings.listeners:
        listener.waited(waiter.hold.scope, waiter.limit, seconds)


def tell_refused(scope: Scope | None, error: BaseException) -> None:
    """Tell the listeners of an error, if it is one of ours."""
    if scope is not None and isinstance(error, StepwardenError):
        for listener in settings.listeners:
            listener.refused(scope, error)
