"""LangGraph: a node is a step with one decorator, in a compiled graph, in threads and tasks alike."""

import asyncio
import operator
import threading
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send

import stepwarden as sw


class State(TypedDict):
    """What the nodes share."""

    said: Annotated[list[str], operator.add]


def run_graph(graph, *, is_async, said=()):
    """Run a compiled graph to its end."""
    given = {"said": list(said)}
    return asyncio.run(graph.ainvoke(given)) if is_async else graph.invoke(given)


def speak(word, tokens):
    """Spend tokens, as a model call does."""
    with sw.reserve(output_tokens=tokens) as hold:
        hold.settle(input_tokens=0, output_tokens=tokens)
    return {"said": [f"{word} in {sw.current_step().name}"]}


def nodes(*, is_async):
    """Make a node for each of three branches, which are all open before any of them goes on."""
    together = threading.Barrier(3) if not is_async else asyncio.Barrier(3)

    def branch(name, tokens):
        if is_async:

            @sw.step(name=name)
            async def node(state: State) -> State:
                await together.wait()
                return speak(name, tokens)

        else:

            @sw.step(name=name)
            def node(state: State) -> State:
                together.wait(30)
                return speak(name, tokens)

        return node

    return {name: branch(name, tokens) for name, tokens in (("first", 1), ("second", 2), ("third", 4))}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_parallel_nodes_are_steps_of_the_scope_around_the_graph(is_async):
    """Branches that run at the same time each have a scope of their own, and their spend is that of the caller's."""
    graph = StateGraph(State)
    for name, node in nodes(is_async=is_async).items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    compiled = graph.compile()

    with sw.Run() as run, sw.step("around") as around:
        result = run_graph(compiled, is_async=is_async)
    assert sorted(result["said"]) == ["first in first", "second in second", "third in third"]
    receipts = {receipt.name: receipt for receipt in run.receipts}
    assert {name: receipt.own.output_tokens for name, receipt in receipts.items()} == {
        "first": 1, "second": 2, "third": 4, "around": 0,
    }  # fmt: skip
    assert {receipts[name].parent_id for name in ("first", "second", "third")} == {around.id}
    assert receipts["around"].total.output_tokens == 7
    assert {receipt.status for receipt in run.receipts} == {sw.Status.COMPLETED}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_parallel_nodes_share_the_budget_around_the_graph(is_async):
    """Twenty nodes at once never pass the limit that is around them all; those without room return their fallback."""
    refused = []

    @sw.step(budget=sw.Budget(max_output_tokens=5))
    def work(state: State) -> State:
        try:
            return speak("work", 5)
        except sw.BudgetExceededError as error:
            refused.append(error.scope_name)
            return {"said": ["no room"]}

    @sw.step(budget=sw.Budget(max_output_tokens=5))
    async def work_async(state: State) -> State:
        await asyncio.sleep(0)
        return work.__wrapped__(state)

    graph = StateGraph(State)
    graph.add_node("work", work_async if is_async else work)
    graph.add_conditional_edges(START, lambda _: [Send("work", {"said": []}) for _ in range(20)])
    graph.add_edge("work", END)
    with sw.Run(budget=sw.Budget(max_output_tokens=35), name="all") as run:
        result = run_graph(graph.compile(), is_async=is_async)
    assert run.total.output_tokens == 35
    assert refused == ["all"] * 13
    assert result["said"].count("no room") == 13
    assert len(run.receipts) == 20


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_boundary_gives_the_graph_its_fallback(is_async):
    """With `continue` the fallback is the update of the node's state; with `fail` the error leaves the graph as it is."""
    budget = sw.Budget(max_output_tokens=5)
    lenient = sw.step("lenient", budget=budget, error_boundary="continue", fallback={"said": ["skipped"]})
    strict = sw.step("strict", budget=budget)

    def greedy(state: State) -> State:
        return speak("much", 6)

    async def greedy_async(state: State) -> State:
        return speak("much", 6)

    graph = StateGraph(State)
    body = greedy_async if is_async else greedy
    graph.add_node("lenient", lenient(body))
    graph.add_node("strict", strict(body))
    graph.add_edge(START, "lenient")
    graph.add_conditional_edges("lenient", lambda state: "strict" if "go on" in state["said"] else END)
    compiled = graph.compile()
    with sw.Run() as run:
        assert run_graph(compiled, is_async=is_async)["said"] == ["skipped"]
        with pytest.raises(sw.BudgetExceededError) as caught:
            run_graph(compiled, is_async=is_async, said=["go on"])
    assert (caught.value.scope_name, caught.value.phase) == ("strict", "settle")
    assert [receipt.status for receipt in run.receipts] == ["skipped", "skipped", "failed"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_each_attempt_of_a_node_is_an_activation(is_async):
    """A node that LangGraph runs again has a new budget and a receipt of its own each time."""
    failures = [ConnectionError(), ConnectionError()]

    @sw.step(budget=sw.Budget(max_output_tokens=5))
    def flaky(state: State) -> State:
        said = speak("said", 5)
        if failures:
            raise failures.pop()
        return said

    @sw.step(name="flaky", budget=sw.Budget(max_output_tokens=5))
    async def flaky_async(state: State) -> State:
        return flaky.__wrapped__(state)

    graph = StateGraph(State)
    graph.add_node(
        "flaky",
        flaky_async if is_async else flaky,
        retry_policy=RetryPolicy(initial_interval=0, jitter=False, retry_on=ConnectionError),
    )
    graph.add_edge(START, "flaky")
    with sw.Run() as run:
        run_graph(graph.compile(), is_async=is_async)
    assert [receipt.status for receipt in run.receipts] == ["failed", "failed", "completed"]
    assert [receipt.own.output_tokens for receipt in run.receipts] == [5, 5, 5]
    assert run.total.output_tokens == 15


def test_a_subgraph_in_a_persona_is_under_its_policy_and_model():
    """A graph that runs inside a node, itself in a persona, has the node's step around its own steps."""
    seen = []

    @sw.tool(side_effect="network")
    def post() -> None:
        raise AssertionError("the stage keeps this from running")

    @sw.step
    def inner(state: State) -> State:
        seen.append((sw.current_persona().name, sw.current_step().parent.name, sw.default_model()))
        with pytest.raises(sw.ToolDeniedError):
            post()
        return {"said": ["inner"]}

    within = StateGraph(State)
    within.add_node("inner", inner)
    within.add_edge(START, "inner")
    subgraph = within.compile()

    @sw.step(model="openai:m")
    def outer(state: State) -> State:
        return {"said": subgraph.invoke(state)["said"]}

    around = StateGraph(State)
    around.add_node("outer", outer)
    around.add_edge(START, "outer")
    graph = around.compile()

    @sw.persona(stages=[sw.Stage(inner, side_effect_level="read_only")])
    def agent() -> None:
        graph.invoke({"said": []})

    with sw.Run() as run:
        agent()
    assert seen == [("agent", "outer", "openai:m")]
    assert [receipt.name for receipt in run.receipts] == ["inner", "outer", "agent"]


def test_a_node_is_read_by_its_annotations_and_may_send_commands():
    """LangGraph sees through the decorator: the type of a node's input, what it takes besides, and where it may go."""

    class Narrow(TypedDict):
        said: Annotated[list[str], operator.add]

    seen = []

    @sw.step
    def decide(state: Narrow, config) -> Command:
        seen.append((sorted(state), config["configurable"]["thread"]))
        return Command(goto="end", update={"said": ["decided"]})

    @sw.step
    def end(state: State) -> State:
        return {"said": ["ended"]}

    graph = StateGraph(State)
    graph.add_node(decide, destinations=("end",))
    graph.add_node(end)
    graph.add_edge(START, "decide")
    with sw.Run() as run:
        result = graph.compile().invoke({"said": []}, {"configurable": {"thread": "t"}})
    assert result["said"] == ["decided", "ended"]
    assert seen == [(["said"], "t")]
    assert [receipt.name for receipt in run.receipts] == ["decide", "end"]


def test_a_graph_that_is_cancelled_leaves_no_step_open():
    """Who is cancelled while a graph streams leaves the step that was open as cancelled, and not for later."""

    async def scenario():
        started = asyncio.Event()

        @sw.step
        async def first(state: State) -> State:
            return speak("said", 1)

        @sw.step
        async def second(state: State) -> State:
            started.set()
            await asyncio.Event().wait()

        graph = StateGraph(State)
        graph.add_node("first", first)
        graph.add_node("second", second)
        graph.add_edge(START, "first")
        graph.add_edge("first", "second")

        async def reader():
            async for _ in graph.compile().astream({"said": []}, stream_mode="updates"):
                pass

        async with sw.Run() as run:
            reading = asyncio.create_task(reader())
            await started.wait()
            reading.cancel()
            await asyncio.wait([reading])
            return {receipt.name: receipt.status for receipt in run.receipts}

    assert asyncio.run(scenario()) == {"first": "completed", "second": "cancelled"}
