"""Threads and thread pools that carry the scope of whoever started or submitted."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from typing import Any

from stepwarden.core._propagate import propagate

from ._estimate import Estimate

_ours: dict[Callable[..., Any], Callable[..., Any]] = {}
"""What was put in by `install`, and what was there before it."""


ALLOWABLE: frozenset[str] = frozenset()
"""Threads send nothing, so there is nothing to let by."""


def install(allow: frozenset[str] = ALLOWABLE, estimate: Estimate = "likely") -> None:  # noqa: ARG001 - all take them
    """Make threads and thread pools carry the scope; again is harmless."""
    _put(threading.Thread, "start", _carrying_start)
    _put(ThreadPoolExecutor, "submit", _carrying_submit)


def uninstall() -> None:
    """Give threads and thread pools back what they had, unless somebody else has changed them since."""
    _take_back(threading.Thread, "start")
    _take_back(ThreadPoolExecutor, "submit")


def _put(owner: type, name: str, carrying: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    # Around what is there now, which may be another library's own, and is what is given back.
    there = getattr(owner, name)
    if there not in _ours:
        ours = carrying(there)
        _ours[ours] = there
        setattr(owner, name, ours)


def _take_back(owner: type, name: str) -> None:
    there = getattr(owner, name)
    if there in _ours:
        setattr(owner, name, _ours.pop(there))


def _carrying_start(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def start(self: threading.Thread) -> None:
        # On the instance: a subclass's own `run` is found and carried too, and no other thread is touched.
        own = vars(self).get("run")
        run: Callable[[], None] = self.run
        self.run = propagate(run)  # type: ignore[method-assign]
        try:
            original(self)
        except BaseException:
            # It was never started, and may be shown or started again as it was.
            if own is None:
                del self.run
            else:
                self.run = own  # type: ignore[method-assign]
            raise

    return start


def _carrying_submit(original: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    @functools.wraps(original)
    def submit(self: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        # What is submitted may be anything that the pool takes, generator functions too.
        def work(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        # A worker outlives the scope in which it is started, so it gets none, and each piece of work brings its own.
        return Context().run(original, self, propagate(work), *args, **kwargs)

    return submit
