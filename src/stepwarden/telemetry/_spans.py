"""Spans: one for each step and persona, in the trace that the application has open around it."""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, cast

from opentelemetry import context, trace

from . import _names as names
from ._attributes import FAILURES, at_the_end, at_the_start
from ._provider import is_set_up, our_version
from ._turn import in_turn

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from stepwarden.core._run import Run
    from stepwarden.core._scope import Scope

_SCOPE = context.create_key("stepwarden-scope")


def configured_tracer() -> trace.Tracer | None:
    """Return our tracer of the provider that the application has set up; None where it has none."""
    provider = trace.get_tracer_provider()
    if not is_set_up(provider):
        return None
    tracer = _tracer_of(provider)
    return tracer if is_set_up(tracer) else None


@functools.lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    return provider.get_tracer(names.SCOPE, our_version())


class _Open:
    """Keep the span of one activation, and the contexts around and inside it.

    Args:
        span: The span; None for a run, which has none.
        outer: What was current where its body was entered, and is again where that is left.
        inner: What is current inside.
    """

    __slots__ = ("context", "inner", "outer", "span")

    def __init__(self, span: trace.Span | None, outer: Context, inner: Context) -> None:
        self.span = span
        # More than one where a host has put what it has open in force in a second place.
        self.outer = [outer]
        self.context = self.inner = inner


class Spans:
    """Write a span for each step and persona under one run.

    A context is put in force by setting it and never by a token: a generator may be resumed, closed or collected in
    another context than it was begun in, where a token could not be given back.

    Args:
        run: The run, which has just opened.
        tracer: Where the spans come from.
    """

    def __init__(self, run: Run, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        here = context.get_current()
        self._open: dict[Scope, _Open] = {run: _Open(None, here, here)}

    def opened(self, scope: Scope) -> None:
        """Start a span, and put it in force."""
        around = _context_around(scope)
        name = f"{names.INVOKE_AGENT} {scope.name}" if scope.kind == "persona" else f"{scope.kind} {scope.name}"
        attributes = at_the_start(scope)
        try:
            span = self._tracer.start_span(name, around, attributes=attributes)
        except Exception:  # a sampler or processor of the application's must not end the agent's step
            logging.getLogger(names.SCOPE).exception("no span could be started for %s `%s`", scope.kind, scope.name)
            return
        inside = context.set_value(_SCOPE, scope, trace.set_span_in_context(span, around))
        self._open[scope] = _Open(span, context.get_current(), inside)
        context.attach(inside)

    def suspended(self, scope: Scope) -> None:
        """Give whoever goes on here the context that was theirs."""
        opened = self._open.get(scope)
        if opened is None or not opened.outer:
            return
        opened.inner = context.get_current()
        if scope.status is not None:
            if not _is_inside(opened.inner, scope):
                return  # it was left in another context, and what is current there is not ours
            if len(opened.outer) == 1:
                del self._open[scope]
        context.attach(opened.outer.pop())

    def resumed(self, scope: Scope) -> None:
        """Put what was in force inside the body in force again."""
        opened = self._open.get(scope)
        if opened is not None:
            opened.outer.append(context.get_current())
            context.attach(opened.inner)

    def closed(self, scope: Scope) -> None:
        """End the span with how the activation ended and what it spent."""
        opened = self._open.get(scope)
        if opened is None or opened.span is None:
            return
        if not opened.outer:
            del self._open[scope]
        span = opened.span
        if span.is_recording():
            span.set_attributes(at_the_end(scope))
            if scope.status in FAILURES:
                span.set_status(trace.StatusCode.ERROR, _description(scope))
        ended_ns = time.time_ns()

        def end() -> None:
            try:
                span.end(ended_ns)
            except Exception:  # a processor of the application's must not end the agent's step
                logging.getLogger(names.SCOPE).exception("the span of %s `%s` was lost", scope.kind, scope.name)

        in_turn(end)

    def context_of(self, scope: Scope) -> Context | None:
        """Return the context that an open activation was begun in, with its span; None where it has none."""
        opened = self._open.get(scope)
        return None if opened is None or opened.span is None else opened.context


def _description(scope: Scope) -> str | None:
    """Return the message of a budget error, which has names and numbers only; another one may quote anything."""
    error = scope.error
    return error.message if error is not None and error.type == "BudgetExceededError" else None


def _is_inside(here: Context, scope: Scope) -> bool:
    """Tell whether a context was made by an activation, or by one inside it that was left open."""
    at = cast("Scope | None", here.get(_SCOPE))
    while at is not None and at is not scope:
        at = at.parent
    return at is scope


def _context_around(scope: Scope) -> Context:
    """Return the context that a span is started in.

    It is the current one, with whatever spans of the application's stand between, where that belongs to the scope
    around. Elsewhere, in a bare thread or a generator that somebody else consumes, it is that of the scope around.
    """
    here = context.get_current()
    around = _activation_around(scope)
    if here.get(_SCOPE) is around:
        return here
    at = around
    while at is not None:
        for watcher in at.run.watchers:
            found = watcher.context_of(at) if isinstance(watcher, Spans) else None
            if found is not None:
                return found
        at = _activation_around(at)
    return here


def _activation_around(scope: Scope) -> Scope | None:
    at = scope.parent
    while at is not None and at.kind == "run":
        at = at.parent
    return at
