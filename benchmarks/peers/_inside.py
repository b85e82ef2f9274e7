"""Run inside the peers' environment, in a process for each line of a table, and print what came out as JSON."""

import asyncio
import contextvars
import importlib.metadata
import json
import logging
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.parallel import CALLERS, CALLS_EACH
from benchmarks.peers import _steps
from benchmarks.peers._budgets import ALL, Budgeted
from benchmarks.peers._provider import Provider


def _in_threads(budgeted: Budgeted) -> dict[str, Any]:
    provider, refusals = Provider(), list[str]()
    with ThreadPoolExecutor(CALLERS) as pool, budgeted.threads(provider) as call:

        def caller() -> None:
            for _ in range(CALLS_EACH):
                try:
                    call()
                except Exception as error:  # noqa: BLE001 - how each library refuses is its own
                    refusals.append(type(error).__name__)
                    return

        # Every library keeps its budget in the context, and each thread gets the one of the block.
        for future in [pool.submit(contextvars.copy_context().run, caller) for _ in range(CALLERS)]:
            future.result()
    return {"calls": provider.calls, "refused_with": sorted(set(refusals))}


async def _in_tasks(budgeted: Budgeted) -> dict[str, Any]:
    provider, refusals = Provider(), list[str]()
    async with budgeted.tasks(provider) as call:

        async def caller() -> None:
            for _ in range(CALLS_EACH):
                try:
                    await call()
                except Exception as error:  # noqa: BLE001 - how each library refuses is its own
                    refusals.append(type(error).__name__)
                    return

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return {"calls": provider.calls, "refused_with": sorted(set(refusals))}


def _tried(measure: Any) -> Any:
    try:
        return measure()
    except Exception as error:  # noqa: BLE001 - a library that cannot do it gets a line that says so
        return {"failed": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Measure the line of the table that the arguments name."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    match sys.argv[1:]:
        case ["parallel", number]:
            budgeted = ALL[int(number)]
            line = {
                "name": budgeted.name,
                "version": importlib.metadata.version(budgeted.package),
                "documents": budgeted.documents,
                "threads": _tried(lambda: _in_threads(budgeted)),
                "tasks": _tried(lambda: asyncio.run(_in_tasks(budgeted))),
            }
        case ["steps", number]:
            step = _steps.ALL[int(number)]
            line = {
                "name": step.name,
                "version": importlib.metadata.version(step.package),
                "what": step.what,
                "measured": _tried(step.measure),
            }
        case other:
            raise SystemExit(f"usage: _inside parallel|steps NUMBER, not {other}")
    json.dump(line, sys.stdout)


if __name__ == "__main__":
    main()
