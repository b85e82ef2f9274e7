"""The tree that records and holds are measured in: a run, and steps inside one another, all with limits."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal

import stepwarden as sw

# Limits that are looked at on every call and never reached.
AMPLE = sw.Budget(max_tokens=10**15, max_usd=Decimal(10**9))


@contextmanager
def nested_steps(depth: int) -> Iterator[None]:
    """Open a run and *depth* steps inside one another, each with a token and a dollar limit."""
    with ExitStack() as stack:
        stack.enter_context(sw.Run(budget=AMPLE))
        for level in range(depth):
            stack.enter_context(sw.step(f"level_{level}", budget=AMPLE))
        yield
