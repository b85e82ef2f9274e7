"""Steps: the decorator, the block and the registration that give a unit of work its contract."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from ._boundary import ErrorBoundary
from ._budget import Budget
from ._callable import check_decorated
from ._declare import decorated_or_block, function_and_name, registered
from ._definition import StepDefinition, check_fallback, step_definition
from ._kinds import StepScope
from ._policy import SideEffectLike

if TYPE_CHECKING:
    from types import TracebackType

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")
F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)


# Equal to "fail", and told by its identity from one that is given.
_FAIL = str(b"fail", "ascii")


class StepBlock(Protocol):
    """Type what `step` returns: a decorator that keeps the type of what it wraps, and a block."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    def __enter__(self) -> StepScope: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    async def __aenter__(self) -> StepScope: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ContinuingStepBlock(Protocol[F_co]):
    """Type what `step` returns with ``continue``: what it wraps may return the fallback, and its block may swallow."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[Any, Any, T | F_co]]: ...
    @overload
    def __call__(self, function: Callable[P, AsyncGenerator[Y, S]], /) -> Callable[P, AsyncGenerator[Y, S]]: ...
    @overload
    def __call__(self, function: Callable[P, Generator[Y, S, T]], /) -> Callable[P, Generator[Y, S, T | F_co]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R | F_co]: ...
    def __enter__(self) -> StepScope: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool: ...
    async def __aenter__(self) -> StepScope: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool: ...


@overload
def step(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def step(
    name: str | None = None,
    *,
    model: str | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    error_boundary: Literal["continue", ErrorBoundary.CONTINUE],
    fallback: F,
    tools: Iterable[str] | None = None,
    side_effect_level: SideEffectLike | None = None,
    default_max_output_tokens: int | None = None,
) -> ContinuingStepBlock[F]: ...
@overload
def step(
    name: str | None = None,
    *,
    model: str | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    error_boundary: Literal["continue", ErrorBoundary.CONTINUE],
    tools: Iterable[str] | None = None,
    side_effect_level: SideEffectLike | None = None,
    default_max_output_tokens: int | None = None,
) -> ContinuingStepBlock[None]: ...
@overload
def step(
    name: str | None = None,
    *,
    model: str | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    error_boundary: Literal["fail", "escalate", ErrorBoundary.FAIL, ErrorBoundary.ESCALATE] = "fail",
    fallback: object = None,
    tools: Iterable[str] | None = None,
    side_effect_level: SideEffectLike | None = None,
    default_max_output_tokens: int | None = None,
) -> StepBlock: ...
def step(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    model: str | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    error_boundary: ErrorBoundary | str = _FAIL,
    fallback: Any = None,
    tools: Iterable[str] | None = None,
    side_effect_level: SideEffectLike | None = None,
    default_max_output_tokens: int | None = None,
) -> Any:
    """Make a function a step: each call runs inside its own contract and leaves a receipt.

    Decorate bare, ``@step``, or with arguments: functions, coroutine functions, generators, async generators and
    methods, below ``@classmethod`` and ``@staticmethod``. Decorating again replaces the first declaration. A block
    of code becomes a step with ``with step("name") as scope`` or ``async with``.

    Example:
        >>> import stepwarden as sw
        >>> @sw.step(budget=sw.Budget(max_tokens=100), error_boundary="continue", fallback="unknown")
        ... def classify(text):
        ...     sw.record_usage(input_tokens=90, output_tokens=20)
        ...     return "a bug"
        >>> with sw.Run() as run:
        ...     classify("It crashes.")
        'unknown'
        >>> run.receipts[0].error.message
        'step `classify` exceeded max_tokens budget (110 > 100)'

    Args:
        function: The function, where the decorator is bare; or the name.
        name: The step's name; by default the function's.
        model: The default model for calls inside it.
        budget: Its limits, a `Budget` or a mapping of its fields.
        error_boundary: What it does when its own budget is exhausted: ``"fail"`` raises `BudgetExceededError`,
            ``"continue"`` returns *fallback*, ``"escalate"`` raises `EscalationError`.
        fallback: What ``continue`` returns. The other boundaries do not use it, and without *error_boundary* it is an
            error.
        tools: The tools that it may call, as names and ``prefix*`` patterns; None adds no ceiling, an empty list allows
            no tools.
        side_effect_level: The highest side effect that its tools may have, a `SideEffect` or its name in lower
            case; None adds no ceiling.
        default_max_output_tokens: The output assumed for a call that names no limit, in tokens.

    Returns:
        The decorated function; or a block, which is a decorator too.

    Raises:
        DefinitionError: If an argument cannot be right, or the function cannot be decorated.
    """
    function, name = function_and_name(function, name, "step")
    check_fallback(fallback, has_boundary=error_boundary is not _FAIL)

    def declare(function_name: str) -> StepDefinition:
        return StepDefinition(
            name=function_name if name is None else name,
            function=function_name,
            model=model,
            budget=budget,
            error_boundary=error_boundary,
            fallback=fallback,
            tools=tools,
            side_effect_level=side_effect_level,
            default_max_output_tokens=default_max_output_tokens,
        )

    return decorated_or_block(function, name, "step", declare)


def register_step(function: Callable[P, R], definition: StepDefinition) -> Callable[P, R]:
    """Make a function a step by a definition; the same as decorating it.

    Args:
        function: The function; one that is a step already gets the new definition in place of the old.
        definition: What it declares; its *function* becomes that of the function given.

    Returns:
        The decorated function.

    Raises:
        DefinitionError: If the function cannot be decorated, or the definition is none.
    """
    return cast("Callable[P, R]", registered(function, definition, StepDefinition, "step"))


def step_from_dict(function: Callable[P, R], mapping: Mapping[str, Any]) -> Callable[P, R]:
    """Make a function a step by a mapping, as a file of settings has it; an unknown key is an error.

    Args:
        function: The function.
        mapping: The keyword arguments of `step`; the budget may be a mapping of its fields.

    Returns:
        The decorated function.

    Raises:
        DefinitionError: If a key is unknown or a value cannot be right, with the name of the field.
    """
    declared = step_definition(getattr(function, "__name__", "function"), mapping)
    check_decorated(function, "step", named="name" in mapping)
    return register_step(function, declared)
