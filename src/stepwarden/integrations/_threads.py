"""Threads and thread pools that carry the scope of whoever started or submitted."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stepwarden.core._propagate import propagate

_original_start = threading.Thread.start
_original_submit: Callable[..., Future[Any]] = ThreadPoolExecutor.submit


@functools.wraps(_original_start)
def _start(self: threading.Thread) -> None:
    # On the instance: a subclass's own `run` is found and carried too, and no other thread is touched.
    run: Callable[[], None] = self.run
    self.run = propagate(run)  # type: ignore[method-assign]
    try:
        _original_start(self)
    except BaseException:
        del self.run  # it was never started, and may be shown or started again as it was
        raise


@functools.wraps(_original_submit)
def _submit(self: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    # A worker outlives the scope in which it was started, so each piece of work brings its own.
    return _original_submit(self, propagate(function), *args, **kwargs)


def install() -> None:
    """Make threads and thread pools carry the scope; again is harmless."""
    threading.Thread.start = _start  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = _submit  # type: ignore[assignment,method-assign]


def uninstall() -> None:
    """Give threads and thread pools back what they had, unless somebody else has changed them since."""
    if threading.Thread.start is _start:
        threading.Thread.start = _original_start  # type: ignore[method-assign]
    if ThreadPoolExecutor.submit is _submit:
        ThreadPoolExecutor.submit = _original_submit  # type: ignore[method-assign]
