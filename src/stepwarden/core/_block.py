"""Steps and personas as blocks: ``with step("name") as scope``, which also decorates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._activation import Activation, abort, conclude, ensure_left, enter
from ._deadline import close_deadline, open_deadline
from ._firing import run_async, run_sync
from ._leaf import get_leaf
from ._plan import Plan
from ._tree import current_flow
from .errors import DefinitionError, ScopeOrderError

if TYPE_CHECKING:
    from types import TracebackType

    from ._definition import PersonaDefinition, StepDefinition
    from ._scope import Scope

S = TypeVar("S", bound=Activation)
_FORGOTTEN_AT_ONCE = 64


class Block(Generic[S]):
    """Open a scope for a ``with`` or ``async with`` block, or for each call of the function that it decorates.

    It is reusable and re-entrant: it remembers the scopes that it opened, and leaving closes the innermost of them
    on the caller's chain, else the only one that is still open.

    Args:
        declare: Makes the definition for a function's ``__name__``, or for the block's own name.
        decorate: Puts it on a function.
        name: The name that was given, or None.
    """

    def __init__(
        self,
        declare: Callable[[str], StepDefinition | PersonaDefinition],
        decorate: Callable[[Callable[..., Any]], Callable[..., Any]],
        kind: str,
        name: str | None,
    ) -> None:
        self._decorate = decorate
        self._kind = kind
        self._plan = None if name is None else Plan(declare(name))
        self._open: set[Any] = set()
        self._forget_above = _FORGOTTEN_AT_ONCE

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function."""
        return self._decorate(function)

    def __enter__(self) -> S:
        scope = None
        try:
            scope, args, kwargs = run_sync(enter(self._named_plan(), get_leaf(), (), {}))
            return self._opened(scope, args or kwargs)
        except BaseException as error:
            ensure_left(scope, error)
            raise

    async def __aenter__(self) -> S:
        scope = None
        try:
            scope, args, kwargs = await run_async(enter(self._named_plan(), get_leaf(), (), {}))
            opened = self._opened(scope, args or kwargs)
            await open_deadline(scope)
        except BaseException as error:
            ensure_left(scope, error)
            raise
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        scope = None
        try:
            scope = self._innermost()
            if error is None:
                self._refuse_output(run_sync(conclude(scope, None, (), {})))
                return False
            raised, _ = run_sync(abort(scope, error, (), {}))
        except BaseException as late:
            self._ensure_left(scope, late)
            raise
        finally:
            self._open.discard(scope)
        return self._left(error, raised)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        scope = None
        try:
            scope = self._innermost()
            ended = await close_deadline(scope, kind, error, trace)
            if ended is None:
                self._refuse_output(await run_async(conclude(scope, None, (), {})))
                return False
            raised, _ = await run_async(abort(scope, ended, (), {}))
        except BaseException as late:
            self._ensure_left(scope, late)
            raise
        finally:
            self._open.discard(scope)
        return self._left(error, raised)

    def _ensure_left(self, scope: Any, error: BaseException) -> None:
        if scope is None and not isinstance(error, ScopeOrderError):
            scope = self._innermost()  # a signal handler raised while it was looked for
        ensure_left(scope, error)

    def _left(self, error: BaseException | None, raised: BaseException | None) -> bool:
        """Tell whether the block swallows the error; raise what leaves it in the error's place."""
        if raised is None:
            return True
        if raised is error:
            return False
        raise raised

    def _named_plan(self) -> Plan:
        if self._plan is None:
            raise DefinitionError(f'a {self._kind} block needs a name: `with {self._kind}("name", ...)`')
        return self._plan

    def _opened(self, scope: Any, replaced: object) -> S:
        scope.flow = current_flow()
        if len(self._open) >= self._forget_above:
            # What was abandoned, many at once; whoever still leaves such a one finds it on the chain.
            self._open.difference_update([one for one in tuple(self._open) if one.status is not None])
            self._forget_above = 2 * len(self._open) + _FORGOTTEN_AT_ONCE
        self._open.add(scope)
        if replaced:
            error = TypeError(
                f"a PreStep hook replaced the arguments of {self._kind} block `{scope.name}`, which has none"
            )
            self.__exit__(TypeError, error, None)
            raise error
        return scope  # type: ignore[no-any-return]

    def _refuse_output(self, output: object) -> None:
        if output is not None:
            raise TypeError(f"a PostStep hook replaced the output of a {self._kind} block, which has none")

    def _innermost(self) -> Any:
        scope: Scope | None = get_leaf()
        while scope is not None:
            if scope in self._open or (scope.status is not None and scope.plan is self._plan):
                return scope
            scope = scope.parent
        still_open = [one for one in tuple(self._open) if one.status is None]
        if not still_open:
            # What its run's end in another thread has closed, and whoever asked for the leaf has stepped out of since.
            flow = current_flow()
            left = [one for one in tuple(self._open) if one.run.status is not None and one.flow == flow != one.run.flow]
            still_open = sorted(left, key=lambda one: one.opened_ns)[-1:]
        if len(still_open) != 1:
            many = f"{len(still_open)} of its scopes are open" if still_open else "none of its scopes is open"
            raise ScopeOrderError(f"this {self._kind} block was left where it was not entered, and {many}")
        return still_open[0]
