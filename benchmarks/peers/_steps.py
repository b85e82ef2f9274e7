"""What one step costs in each library: entered under a budget, with one call's cost recorded in it, and left."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise, repeat
from typing import Any

from benchmarks._measure import Loop, time_once
from benchmarks.floor import run_floor

COST = Decimal("0.000001")
NODES = 10  # of a graph: what it costs to start one is shared by them
ROUNDS = 25
REPETITIONS = 100


@dataclass(frozen=True, slots=True)
class Step:
    """One library's step.

    Args:
        name: What the table calls it.
        package: What is installed.
        what: What is done for one step.
        opened: Gives, for the time of a block, what does a number of steps.
    """

    name: str
    package: str
    what: str
    opened: Callable[[], contextlib.AbstractContextManager[Loop]]

    def measure(self) -> dict[str, float]:
        """Give microseconds for one step, and its ratio to the floor: the best of many short rounds of each."""
        with self.opened() as loop:
            steps, floors = [], []
            for _ in range(ROUNDS):
                floors.append(time_once(run_floor, REPETITIONS))
                steps.append(time_once(loop, REPETITIONS))
        return {"microseconds": min(steps) / 1_000, "ratio": min(steps) / min(floors)}


def _stepwarden() -> contextlib.AbstractContextManager[Loop]:
    import stepwarden as sw

    def record() -> None:
        sw.record_usage(input_tokens=100, output_tokens=20, cost_usd=COST)

    return _as_step(record)


def _stepwarden_reserving() -> contextlib.AbstractContextManager[Loop]:
    import stepwarden as sw

    def hold_and_settle() -> None:
        with sw.reserve(input_tokens=100, output_tokens=20, cost_usd=COST) as hold:
            hold.settle(input_tokens=100, output_tokens=20, cost_usd=COST)

    return _as_step(hold_and_settle)


@contextlib.contextmanager
def _as_step(body: Callable[[], None]) -> Iterator[Loop]:
    import stepwarden as sw

    step = sw.step(budget=sw.Budget(max_usd=1))(body)

    def loop(repetitions: int) -> None:
        for _ in repeat(None, repetitions):
            step()

    with sw.Run(budget=sw.Budget(max_usd=1_000)):
        yield loop


@contextlib.contextmanager
def _floe_guard() -> Iterator[Loop]:
    from floe_guard import BudgetGuard

    guard = BudgetGuard(limit_usd=1_000.0, max_log_events=10_000)

    def loop(repetitions: int) -> None:
        for _ in repeat(None, repetitions):
            with guard.step(max_usd=1.0):
                held = guard.reserve_tool(float(COST))
                guard.settle_tool("call", float(COST), reserved=held)

    yield loop


@contextlib.contextmanager
def _inspect_ai() -> Iterator[Loop]:
    from inspect_ai.util import cost_limit
    from inspect_ai.util._limit import check_cost_limit, record_model_cost

    def loop(repetitions: int) -> None:
        for _ in repeat(None, repetitions):
            with cost_limit(1.0):
                record_model_cost(float(COST))
                check_cost_limit()

    with cost_limit(1_000.0):
        yield loop


@contextlib.contextmanager
def _agentbudget() -> Iterator[Loop]:
    from agentbudget import AgentBudget

    budget = AgentBudget(max_spend=1.0)

    def loop(repetitions: int) -> None:
        for _ in repeat(None, repetitions):
            with budget.session() as session:
                session.track(None, cost=float(COST), tool_name="call")

    yield loop


@contextlib.contextmanager
def _shekel() -> Iterator[Loop]:
    import shekel

    @shekel.tool(price=float(COST))  # a price of its own, since a call of an SDK would be measured with the SDK
    def call() -> None: ...

    def loop(repetitions: int) -> None:
        for _ in repeat(None, repetitions):
            with shekel.budget(max_usd=1.0):
                call()

    yield loop


@contextlib.contextmanager
def _cendor() -> Iterator[Loop]:
    from cendor.core import instrument_tool
    from cendor.tokenguard import budget

    call = instrument_tool("call")(lambda: None)

    def loop(repetitions: int) -> None:
        for _ in repeat(None, repetitions):
            with budget(usd=1):
                call()

    yield loop


@contextlib.contextmanager
def _langgraph() -> Iterator[Loop]:
    from langgraph.graph import END, START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict):
        number: int

    def node(state: Any) -> Any:
        return {"number": state["number"] + 1}

    graph = StateGraph(State)
    names = [START, *(f"node_{number}" for number in range(NODES)), END]
    for name in names[1:-1]:
        graph.add_node(name, node)
    for before, after in pairwise(names):
        graph.add_edge(before, after)
    compiled = graph.compile()

    def loop(repetitions: int) -> None:
        for _ in repeat(None, max(1, repetitions // NODES)):
            compiled.invoke({"number": 0})

    yield loop


@contextlib.contextmanager
def _burr() -> Iterator[Loop]:
    from burr.core import ApplicationBuilder, action

    @action(reads=["number"], writes=["number"])
    def node(state: Any) -> Any:
        return state.update(number=state["number"] + 1)

    builder = ApplicationBuilder().with_actions(node=node).with_transitions(("node", "node"))
    application = builder.with_state(number=0).with_entrypoint("node").build()

    def loop(repetitions: int) -> None:
        for _ in repeat(None, repetitions):
            application.step()

    yield loop


ALL = (
    Step("stepwarden, recording", "stepwarden", "step with its own budget in a run, usage, receipt", _stepwarden),
    Step(
        "stepwarden, reserving",
        "stepwarden",
        "the same, with the call held before and settled after",
        _stepwarden_reserving,
    ),
    Step(
        "inspect-ai", "inspect-ai", "`cost_limit` in another, cost recorded and checked, no record of it", _inspect_ai
    ),
    Step("floe-guard", "floe-guard", "`step` of a guard, cost reserved and settled into its log", _floe_guard),
    Step("agentbudget", "agentbudget", "session of its own, cost tracked, report", _agentbudget),
    Step("shekel", "shekel", "`budget`, one priced tool call recorded", _shekel),
    Step("cendor-sdk", "cendor-sdk", "`budget`, one instrumented tool call; tool calls have no cost", _cendor),
    Step("apache-burr", "apache-burr", "one step of an application: no budgets, state and tracking", _burr),
    Step("langgraph", "langgraph", f"one node of a graph of {NODES}: no budgets, state and channels", _langgraph),
)
