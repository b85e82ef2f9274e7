"""How each library puts $1.00 over the calls of many callers, and what it documents about that."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.parallel import CAP, COST
from benchmarks.peers._provider import MODEL, PRICE_OF_OUTPUT, REQUEST, Provider

Call = Callable[[], object]
AsyncCall = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Budgeted:
    """One library's way.

    Args:
        name: What the table calls it.
        package: What is installed.
        documents: What it documents about callers that share a budget.
        threads: Gives, for the time of a block, what one thread does for one call; it raises where it is refused.
        tasks: The same for a task.
    """

    name: str
    package: str
    documents: str
    threads: Callable[[Provider], contextlib.AbstractContextManager[Call]]
    tasks: Callable[[Provider], contextlib.AbstractAsyncContextManager[AsyncCall]]


@contextlib.contextmanager
def _stepwarden(provider: Provider) -> Iterator[Call]:
    import stepwarden as sw

    def call() -> None:
        with sw.reserve(cost_usd=COST) as hold:
            provider.call()
            hold.settle(input_tokens=0, output_tokens=0, cost_usd=COST)

    with sw.Run(budget=sw.Budget(max_usd=CAP)):
        yield call


@contextlib.asynccontextmanager
async def _stepwarden_async(provider: Provider) -> AsyncIterator[AsyncCall]:
    import stepwarden as sw

    async def call() -> None:
        async with sw.reserve(cost_usd=COST) as hold:
            await provider.call_async()
            hold.settle(input_tokens=0, output_tokens=0, cost_usd=COST)

    with sw.Run(budget=sw.Budget(max_usd=CAP)):
        yield call


def _guarded_run() -> Any:
    import stepwarden as sw

    prices = {MODEL: {"input": 0, "output": 1_000}}  # USD per million tokens
    return sw.Run(budget=sw.Budget(max_usd=CAP), prices=prices)


@contextlib.contextmanager
def _guard(provider: Provider) -> Iterator[Call]:
    import stepwarden as sw

    client = sw.guard(provider.client())
    with _guarded_run():
        yield lambda: client.chat.completions.create(**REQUEST)


@contextlib.asynccontextmanager
async def _guard_async(provider: Provider) -> AsyncIterator[AsyncCall]:
    import stepwarden as sw

    client = sw.guard(provider.async_client())
    with _guarded_run():
        yield lambda: client.chat.completions.create(**REQUEST)


@contextlib.contextmanager
def _floe_guard(provider: Provider) -> Iterator[Call]:
    from floe_guard import BudgetGuard

    guard = BudgetGuard(limit_usd=float(CAP), on_block=lambda *_: None)

    def call() -> None:
        held = guard.reserve_tool(float(COST))
        provider.call()
        guard.settle_tool("call", float(COST), reserved=held)

    yield call


@contextlib.asynccontextmanager
async def _floe_guard_async(provider: Provider) -> AsyncIterator[AsyncCall]:
    from floe_guard import BudgetGuard

    guard = BudgetGuard(limit_usd=float(CAP), on_block=lambda *_: None)

    async def call() -> None:
        held = guard.reserve_tool(float(COST))
        await provider.call_async()
        guard.settle_tool("call", float(COST), reserved=held)

    yield call


@contextlib.contextmanager
def _agentbudget(provider: Provider) -> Iterator[Call]:
    from agentbudget import AgentBudget

    with AgentBudget(max_spend=float(CAP)).session() as session:

        def call() -> None:
            provider.call()
            session.track(None, cost=float(COST))

        yield call


@contextlib.asynccontextmanager
async def _agentbudget_async(provider: Provider) -> AsyncIterator[AsyncCall]:
    from agentbudget import AgentBudget

    async with AgentBudget(max_spend=float(CAP)).async_session() as session:

        async def call() -> None:
            await provider.call_async()
            session.track(None, cost=float(COST))

        yield call


@contextlib.contextmanager
def _inspect_ai(provider: Provider) -> Iterator[Call]:
    from inspect_ai.util import cost_limit
    from inspect_ai.util._limit import check_cost_limit, record_model_cost

    def call() -> None:  # as its `Model.generate` does it
        check_cost_limit(raise_for_equal=True)
        provider.call()
        record_model_cost(float(COST))
        check_cost_limit()

    with cost_limit(float(CAP)):
        yield call


@contextlib.asynccontextmanager
async def _inspect_ai_async(provider: Provider) -> AsyncIterator[AsyncCall]:
    from inspect_ai.util import cost_limit
    from inspect_ai.util._limit import check_cost_limit, record_model_cost

    async def call() -> None:
        check_cost_limit(raise_for_equal=True)
        await provider.call_async()
        record_model_cost(float(COST))
        check_cost_limit()

    with cost_limit(float(CAP)):
        yield call


@contextlib.contextmanager
def _shekel(provider: Provider) -> Iterator[Call]:
    import shekel

    client = provider.client()
    with shekel.budget(
        max_usd=float(CAP), price_per_1k_tokens={"input": 0.0, "output": float(PRICE_OF_OUTPUT) * 1_000}
    ):
        yield lambda: client.chat.completions.create(**REQUEST)


@contextlib.asynccontextmanager
async def _shekel_async(provider: Provider) -> AsyncIterator[AsyncCall]:
    import shekel

    client = provider.async_client()
    prices = {"input": 0.0, "output": float(PRICE_OF_OUTPUT) * 1_000}
    async with shekel.budget(max_usd=float(CAP), price_per_1k_tokens=prices):
        yield lambda: client.chat.completions.create(**REQUEST)


def _cendor(on_exceed: str) -> Callable[[Provider], contextlib.AbstractContextManager[Call]]:
    @contextlib.contextmanager
    def budgeted(provider: Provider) -> Iterator[Call]:
        from cendor.core import instrument, prices
        from cendor.tokenguard import budget

        prices.register(MODEL, {"input": 0, "output": PRICE_OF_OUTPUT})
        client = instrument(provider.client())
        with budget(usd=CAP, on_exceed=on_exceed):
            yield lambda: client.chat.completions.create(**REQUEST)

    return budgeted


def _cendor_async(on_exceed: str) -> Callable[[Provider], contextlib.AbstractAsyncContextManager[AsyncCall]]:
    @contextlib.asynccontextmanager
    async def budgeted(provider: Provider) -> AsyncIterator[AsyncCall]:
        from cendor.core import instrument, prices
        from cendor.tokenguard import budget

        prices.register(MODEL, {"input": 0, "output": PRICE_OF_OUTPUT})
        client = instrument(provider.async_client())
        with budget(usd=CAP, on_exceed=on_exceed):
            yield lambda: client.chat.completions.create(**REQUEST)

    return budgeted


ALL = (
    Budgeted(
        "stepwarden, `reserve`",
        "stepwarden",
        "reserves in every scope around, atomically; waits for others' holds, refuses when it is spent",
        _stepwarden,
        _stepwarden_async,
    ),
    Budgeted("stepwarden, guarded client", "stepwarden", "the same", _guard, _guard_async),
    Budgeted(
        "floe-guard, `reserve_tool`",
        "floe-guard",
        "reserves atomically, so that the ceiling holds under concurrency",
        _floe_guard,
        _floe_guard_async,
    ),
    Budgeted(
        "inspect-ai, `cost_limit`",
        "inspect-ai",
        "checks cooperatively, when cost is recorded and before the next call",
        _inspect_ai,
        _inspect_ai_async,
    ),
    Budgeted(
        "agentbudget, `track`",
        "agentbudget",
        "records after the call and then raises; sessions are isolated from one another",
        _agentbudget,
        _agentbudget_async,
    ),
    Budgeted(
        "shekel, `budget`",
        "shekel",
        "records after the call and then raises; concurrent agents share no state",
        _shekel,
        _shekel_async,
    ),
    Budgeted(
        'cendor-sdk, `on_exceed="raise"`',
        "cendor-sdk",
        "post-flight: stops before the next call, and overshoots by one",
        _cendor("raise"),
        _cendor_async("raise"),
    ),
    Budgeted(
        'cendor-sdk, `on_exceed="block"`',
        "cendor-sdk",
        "pre-flight: projects the cost and refuses what would pass the cap, for a cap that must never be exceeded",
        _cendor("block"),
        _cendor_async("block"),
    ),
)
