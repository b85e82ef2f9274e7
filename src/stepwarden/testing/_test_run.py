"""The run of one test under pytest: its budget from a mark, in force in coroutines too, and checked at the end."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from stepwarden.core._budget import Budget
from stepwarden.core._receipt import Receipt
from stepwarden.core._run import Run
from stepwarden.core.errors import BudgetExceededError, DefinitionError


@contextmanager
def open_run(item: pytest.Item, mark: str) -> Iterator[Run]:
    """Open the run of a test, named like it.

    Args:
        item: The test.
        mark: The name of the mark that gives a budget, whose nearest one applies; without it there are no limits.

    Raises:
        pytest.fail.Exception: If the mark does not give one.
    """
    marker = item.get_closest_marker(mark)
    budget = None if marker is None else _budget(mark, marker.args, marker.kwargs)
    with Run(budget=budget, name=item.name) as run:
        yield run


def _budget(mark: str, args: tuple[Any, ...], limits: Mapping[str, Any]) -> Budget:
    example = f"@pytest.mark.{mark}(max_tokens=1_000)"
    if args:
        pytest.fail(f"{mark} takes its limits by name, as {example}, and not {args[0]!r}", pytrace=False)
    if not limits:
        pytest.fail(f"{mark} limits nothing; give it a limit, as {example}", pytrace=False)
    try:
        return Budget.from_dict(limits)
    except DefinitionError as error:
        raise pytest.fail.Exception(f"@pytest.mark.{mark}: {error}", pytrace=False) from None


@contextmanager
def attached(item: pytest.Item, run: Run) -> Iterator[None]:
    """Let a coroutine test run inside its run, whatever context the loop that it runs on was made in.

    Args:
        item: The test.
        run: Its run.
    """
    test: Any = getattr(item, "obj", None)
    if not inspect.iscoroutinefunction(test):
        yield
        return

    @functools.wraps(test)
    async def inside(*args: Any, **kwargs: Any) -> Any:
        with run.attach():
            return await test(*args, **kwargs)

    changed: Any = item
    changed.obj = inside
    try:
        yield
    finally:
        changed.obj = test


def check(run: Run) -> None:
    """Fail a test whose run has passed its budget, though no error told of it, or one that was caught.

    Args:
        run: The run of the test.

    Raises:
        pytest.fail.Exception: If a limit is passed.
    """
    try:
        run.check()
    except BudgetExceededError as error:
        message = "\n".join([str(error), *map(_line, run.receipts)])
        raise pytest.fail.Exception(message, pytrace=False) from None


def _line(receipt: Receipt) -> str:
    own = receipt.own
    return (
        f"  {receipt.kind} {receipt.name} ({receipt.status}): {own.calls} calls, {own.tool_calls} tool calls, "
        f"{own.input_tokens} tokens in, {own.output_tokens} out, ${own.cost_usd}"
    )
