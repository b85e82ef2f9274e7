"""Guarding a function that calls a model, of a client that nobody has heard of."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import replace
from types import CoroutineType
from typing import Any, ParamSpec, Self, TypeVar

from stepwarden.core._accounting import whole
from stepwarden.core._budget import parse_name
from stepwarden.core._callable import Kind, check_decorated, kind_of, refuse_lazy
from stepwarden.core.errors import DefinitionError

from ._seam import Attempt, Reported

P = ParamSpec("P")
R = TypeVar("R")

_ESTIMATED = ("model", "input_tokens", "output_tokens", "min_output_tokens", "choices", "cost_usd", "timeout")
_SETTLED = (
    "model", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "reasoning_tokens", "cost_usd", "arrived_tokens",
)  # fmt: skip


def guarded_call(
    *,
    estimate: Callable[..., Mapping[str, Any]],
    settle: Callable[[Any], Mapping[str, Any] | None],
    output_limit: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Reserve each call of a function before it is made, and settle it afterwards, for clients without an integration.

    It decorates functions, coroutine functions, and generators and async generators, which are settled when they end.

    Args:
        estimate: Called with the arguments of each call. Returns its worst case: *input_tokens*, and where they are
            known *output_tokens* (the most for each choice; by default what the step assumes), *min_output_tokens*,
            *choices*, *model* (by default the one in force), *cost_usd* and *timeout* (seconds to wait for room).
        settle: Called with what the call returned; for a generator, with the list of what it has yielded. Returns
            what was used: *input_tokens*, *output_tokens*, and where they are known *model*, *cache_read_tokens*,
            *cache_write_tokens*, *cache_write_1h_tokens*, *reasoning_tokens* and *cost_usd*. Where the reply
            reports no usage, return *arrived_tokens*, the output counted from what arrived; the call is then marked as
            estimated, and its input is the estimate unless given. None if nothing is known; the call stays uncertain.
        output_limit: The keyword argument of the function that limits its output; the granted limit, in
            tokens per choice, is passed in it where a token or USD limit is in force.

    Returns:
        The decorator. A call that does not fit raises what `reserve` raises, and the function is not called. The
        result is returned even when settling it passes a limit; the next call is refused.

    Raises:
        DefinitionError: If an argument, or what is decorated, cannot be right.

    Example:
        >>> import stepwarden as sw
        >>> @sw.guarded_call(
        ...     estimate=lambda prompt, **limits: {"input_tokens": len(prompt), **limits},
        ...     settle=lambda reply: {"input_tokens": reply["read"], "output_tokens": reply["written"]},
        ...     output_limit="output_tokens",
        ... )
        ... def complete(prompt: str, *, output_tokens: int) -> dict[str, int]:
        ...     return {"read": len(prompt), "written": output_tokens}
        >>> with sw.Run(budget=sw.Budget(max_output_tokens=20)) as run:
        ...     complete("hello", output_tokens=50)
        {'read': 5, 'written': 20}
    """
    for name, function in (("estimate", estimate), ("settle", settle)):
        if not callable(function):
            raise DefinitionError(f"guarded_call.{name} must be callable, not {function!r}")
    if output_limit is not None:
        parse_name(output_limit, "guarded_call.output_limit")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        check_decorated(function, "guarded_call", named=True)
        limit = None if output_limit is None else _Limit(function, output_limit)
        wrapped = _WRAPPERS[kind_of(function)](function, _Metering(estimate, settle, limit))
        return functools.wraps(function)(wrapped)

    return decorate


class _Limit:
    """Be the argument of a function that limits its output.

    Args:
        function: The function.
        name: The argument's name.

    Raises:
        DefinitionError: If the function takes no such argument.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._name = name
        self._position: int | None = None
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except ValueError:  # a builtin that does not tell: by its name, then
            return
        kinds = {parameter.name: parameter.kind for parameter in parameters}
        if name not in kinds and inspect.Parameter.VAR_KEYWORD not in kinds.values():
            raise DefinitionError(
                f"guarded_call.output_limit: {function!r} takes no argument {name!r}; it takes {', '.join(kinds)}"
            )
        if kinds.get(name) in {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}:
            self._position = list(kinds).index(name)

    def write(
        self, limit: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put the limit in the place where the caller has it, else by its name."""
        at = self._position
        if at is not None and at < len(args):
            return (*args[:at], limit, *args[at + 1 :]), kwargs
        return args, {**kwargs, self._name: limit}


class _Metering:
    """Make attempts of calls, and read what they used."""

    def __init__(
        self,
        estimate: Callable[..., Mapping[str, Any]],
        settle: Callable[[Any], Mapping[str, Any] | None],
        limit: _Limit | None,
    ) -> None:
        self._estimate = estimate
        self._settle = settle
        self._limit = limit

    def attempt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Attempt:
        given = _read("estimate", self._estimate(*args, **kwargs), _ESTIMATED, required=("input_tokens",))
        if given.get("choices", 1) < 1:
            raise ValueError(f"choices must be >= 1, not {given['choices']!r}")
        return Attempt(**{"model": None, **given})

    def call(
        self, attempt: Attempt, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the function, with the limit that was granted in its arguments."""
        if self._limit is not None and attempt.output_limit is not None:
            args, kwargs = self._limit.write(attempt.output_limit, args, kwargs)
        return function(*args, **kwargs)

    def settle(self, attempt: Attempt, result: Any, *, is_whole: bool = True) -> None:
        """Settle by what the call returned; where that is not *is_whole*, as an estimate."""
        try:
            used = self._settle(result)
            if used is None:
                attempt.leave()
                return
            required = ("input_tokens", "output_tokens")
            reported = Reported(**_read("settle", used, _SETTLED, required=required, unless="arrived_tokens"))
        except BaseException:
            attempt.leave()  # the call was made, whatever this error looks like
            raise
        if not is_whole and reported.output_tokens is not None:
            reported = replace(reported, output_tokens=None, arrived_tokens=reported.output_tokens)
        attempt.settle(reported)


def _read(
    what: str, given: object, known: tuple[str, ...], *, required: tuple[str, ...], unless: str | None = None
) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(f"guarded_call's {what} must return a mapping with {', '.join(required)}, not {given!r}")
    for name in given:
        if name not in known:
            raise TypeError(f"guarded_call's {what} returned the unknown key {name!r}; known: {', '.join(known)}")
    for name in required:
        if given.get(name) is None and (unless is None or given.get(unless) is None):
            raise TypeError(f"guarded_call's {what} must return {name}, and returned {dict(given)!r}")
    said = {name: value for name, value in given.items() if value is not None}
    for name, value in said.items():
        if name.endswith("_tokens") or name == "choices":
            whole(value, name)
    return said


def _function(function: Callable[..., Any], metering: _Metering) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with metering.attempt(args, kwargs) as attempt:
            result = metering.call(attempt, function, args, kwargs)
            if isinstance(result, CoroutineType):
                attempt.release()  # nothing of it has run
                raise refuse_lazy(result, "guarded_call", getattr(function, "__name__", repr(function)))
            metering.settle(attempt, result)
        return result

    return call


def _coroutine(function: Callable[..., Any], metering: _Metering) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        async with metering.attempt(args, kwargs) as attempt:
            result = await metering.call(attempt, function, args, kwargs)
            metering.settle(attempt, result)
        return result

    return call


def _generator(function: Callable[..., Any], metering: _Metering) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        yielded: list[Any] = []
        attempt = metering.attempt(args, kwargs)
        attempt.acquire()
        source = _begun(metering, attempt, function, args, kwargs)

        def take(item: Any) -> Any:
            attempt.keep()
            yielded.append(item)
            return item

        try:
            result = yield from _Tapped(source, take)
        except BaseException as error:
            _broke_off(metering, attempt, yielded, error)
            raise
        finally:
            source.close()
        metering.settle(attempt, yielded)
        return result

    return call


class _Tapped:
    """Look at what a generator yields; what is sent and thrown into it, and what it returns, pass through."""

    def __init__(self, source: Generator[Any, Any, Any], take: Callable[[Any], Any]) -> None:
        self._source = source
        self._take = take

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._take(next(self._source))

    def send(self, value: Any) -> Any:
        return self._take(self._source.send(value))

    def throw(self, error: BaseException) -> Any:
        return self._take(self._source.throw(error))

    def close(self) -> None:
        self._source.close()


def _async_generator(function: Callable[..., Any], metering: _Metering) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        yielded: list[Any] = []
        attempt = metering.attempt(args, kwargs)
        await attempt.acquire_async()
        source = _begun(metering, attempt, function, args, kwargs)
        try:
            async for item in source:
                attempt.keep()
                yielded.append(item)
                yield item
        except BaseException as error:
            _broke_off(metering, attempt, yielded, error)
            raise
        finally:
            await source.aclose()
        metering.settle(attempt, yielded)

    return call


def _begun(
    metering: _Metering, attempt: Attempt, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return the generator, of which nothing has run yet; with arguments that it does not take there is none."""
    try:
        return metering.call(attempt, function, args, kwargs)
    except BaseException:
        attempt.release()
        raise


def _broke_off(metering: _Metering, attempt: Attempt, yielded: list[Any], error: BaseException) -> None:
    """Settle a stream that did not come to its end by what has arrived of it."""
    if yielded:
        metering.settle(attempt, yielded, is_whole=False)
    else:
        attempt.failed(error)


_WRAPPERS = {
    Kind.FUNCTION: _function,
    Kind.COROUTINE: _coroutine,
    Kind.GENERATOR: _generator,
    Kind.ASYNC_GENERATOR: _async_generator,
}
