"""Where the core meets telemetry: what costs an import is loaded when there is somebody to tell."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwarden.core._run import Run
    from stepwarden.core._scope import Scope
    from stepwarden.core._watch import Watcher
    from stepwarden.core.errors import StepwardenError

_importing = threading.RLock()
"""Held while something is imported, and while the process forks: a child would wait forever for another's import."""
os.register_at_fork(before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release)


def watch_spans(run: Run) -> Watcher | None:
    """Make what writes the spans of a run; None where the application has no tracer provider set up.

    Args:
        run: The run, which has just opened.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    with _importing:
        from ._spans import Spans, configured_tracer

    tracer = configured_tracer()
    return None if tracer is None else Spans(run, tracer)


def watch_utilization(_: Run) -> Watcher | None:
    """Make what measures how far the budgets of a run are used; None where no meter provider is set up."""
    if "opentelemetry.metrics" not in sys.modules:
        return None
    with _importing:
        from ._metrics import Utilization, instruments

    measured = instruments()
    return None if measured is None else Utilization(measured)


class Telemetry:
    """Hear of refusals and waits: count them, and log what was refused."""

    def refused(self, scope: Scope, error: StepwardenError) -> None:
        """Log a refusal, an escalation or a denial, and count a call that was refused."""
        # Where nobody imported it, nobody has set up a handler.
        if "logging" in sys.modules:
            with _importing:
                from ._log import log

            log(scope, error)
        if "opentelemetry.metrics" in sys.modules:
            with _importing:
                from ._metrics import count_refusal

            count_refusal(error)

    def waited(self, scope: Scope, limit: str, seconds: float) -> None:  # noqa: ARG002 - the listener's signature
        """Measure a wait for other calls' holds."""
        if "opentelemetry.metrics" in sys.modules:
            with _importing:
                from ._metrics import measure_wait

            measure_wait(limit, seconds)


TELEMETRY = Telemetry()
