"""What a callable is: one look, through partials, callable objects and our own decorators."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import Enum, auto
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from .errors import DefinitionError


class Kind(Enum):
    """Tell how a callable runs."""

    FUNCTION = auto()
    COROUTINE = auto()
    GENERATOR = auto()
    ASYNC_GENERATOR = auto()


def kind_of(function: Callable[..., Any]) -> Kind:
    """Return how a callable runs.

    Args:
        function: A function or method, a partial, a callable object, or one that is decorated here.
    """
    called: Any = function
    while True:
        if isinstance(called, functools.partial):
            called = called.func
        elif inspect.ismethod(called):
            called = called.__func__
        elif is_decorated(called):
            called = called.__wrapped__  # our shell of a generator is a plain function that returns one
        else:
            break
    if not inspect.isroutine(called):
        called = type(called).__call__
    if inspect.isasyncgenfunction(called):
        return Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(called):
        return Kind.GENERATOR
    return Kind.COROUTINE if inspect.iscoroutinefunction(called) else Kind.FUNCTION


def first_resumption(body: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Resume an async generator for the first time, unknown to the event loop.

    Whoever wraps it is known to the loop and closes it. The loop closing both at once, in tasks of its own, would
    close the inner one outside its scope.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return body.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def decorated(wrapper: Callable[..., Any], function: Callable[..., Any], definition: Any) -> Any:
    """Finish a wrapper: name, documentation and signature of what it wraps, and what that declares.

    Args:
        wrapper: The wrapper.
        function: What it wraps.
        definition: What was declared; its *function* is the wrapper's name where *function* has none.
    """
    finished: Any = functools.update_wrapper(wrapper, function)
    if getattr(function, "__name__", None) is None:
        finished.__name__ = finished.__qualname__ = definition.function
    finished.definition = definition
    # By identity: somebody else's decorator copies every attribute, and must not be taken for ours.
    finished._stepwarden = finished
    return finished


def is_decorated(function: object) -> bool:
    """Tell whether a function is one of our wrappers itself."""
    return getattr(function, "_stepwarden", None) is function


def undecorated(function: Any, definition: type) -> Any:
    """Return the function inside a wrapper with this kind of definition, so that decorating again replaces.

    Args:
        function: What is decorated; a bound method stays bound.
        definition: The class of definitions that are replaced.
    """
    inner: Any = function.__func__ if inspect.ismethod(function) else function
    if not is_decorated(inner) or not isinstance(inner.definition, definition):
        return function
    return inner.__wrapped__.__get__(function.__self__) if inner is not function else inner.__wrapped__


def check_decorated(function: object, what: str, *, named: bool) -> None:
    """Refuse what cannot be decorated, with what to do instead.

    Args:
        function: What the decorator was put on.
        what: ``"step"``, ``"persona"`` or ``"tool"``.
        named: Whether a name was given.

    Raises:
        DefinitionError: If it is a class method or static method object, no callable, or has no name.
    """
    if isinstance(function, classmethod | staticmethod | property):
        above = type(function).__name__
        raise DefinitionError(f"@{what} must stand below @{above}, next to the function: swap the two lines")
    if inspect.isclass(function) or not callable(function):
        raise DefinitionError(f"@{what} goes on a function or method, not on {function!r}")
    if not named and getattr(function, "__name__", None) is None:
        raise DefinitionError(f"{function!r} has no __name__: give the {what} one, as @{what}(name=...)")


# What a function may return whose body has not run yet, and what to do instead.
LAZY = {
    CoroutineType: ("a coroutine", "make it `async def` and await inside"),
    GeneratorType: ("a generator", "`yield from` it inside, or return a list"),
    AsyncGeneratorType: ("an async generator", "`yield` inside, in an `async for` over it, or return a list"),
}


def refuse_lazy(result: Any, what: str, name: str) -> TypeError:
    """Close a coroutine or generator that a function returned, and make the error that says what to do."""
    if not isinstance(result, AsyncGeneratorType):
        result.close()
    kind, cure = LAZY[type(result)]
    return TypeError(f"{what} `{name}` returned {kind}, whose body would run after the {what} has ended; {cure}")
