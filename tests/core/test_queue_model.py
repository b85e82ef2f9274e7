"""The waiting queue, in every interleaving of small cases: nobody is forgotten, overtaken or starved."""

import gc
from itertools import combinations_with_replacement
from types import SimpleNamespace

import pytest

from stepwarden.core import _queue
from tests.core.queue_world import NAMES, SHAPES, World, explore
from tests.effort import EFFORT

# Three scopes with little room each, and programs of three operations, which between them do all that can change it.
LIMITS = (4, 3, 3)
PROGRAMS = [
    program
    for name in NAMES
    for program in (
        (("record", name, 1), ("reserve", name, 2, 1), ("settle", 1)),
        (("reserve", name, 3, 1), ("settle", 2), ("extend", name, 1)),
        (("reserve", name, 1, 1), ("settle", 2), ("record", name, 1)),
        (("reserve", name, 2, 2), ("lose",), ("extend", name, 2)),
        (("reserve", name, 3, 3), ("release",), ("record", name, 1)),
        (("reserve", name, 2, 2), ("settle", 0), ("reserve", name, 1, 1), ("release",)),
    )
]
CASES = [(shape, LIMITS, programs) for shape in SHAPES for programs in combinations_with_replacement(PROGRAMS, 3)]
STRIDE = max(1, 41 // EFFORT)


@pytest.fixture(autouse=True)
def _no_runs_left():
    yield
    gc.collect()  # the worlds leave their runs open, of which a step outside every run in a later test would warn


def test_every_interleaving_of_small_programs_ends_with_nobody_waiting():
    """Three actors on three scopes, in whatever order they move: no limit is broken, and nobody waits in vain or for ever."""
    cases = CASES[::STRIDE]
    assert sum(len(explore(case)[0]) for case in cases) > 50 * len(cases)


def test_every_cancellation_leaves_nothing_behind():
    """The same with one of those who wait cancelled at any moment, even after it was granted and before it noticed."""
    for case in CASES[7 :: 4 * STRIDE]:
        explore(case, cancels=1)


# Actors that reserve and release for ever, so that there are few states and endless ways through them.
LOOPS = [(("reserve", name, tokens, tokens), ("release",)) for name in NAMES for tokens in (1, 2, 3)]
LOOPS = [program for program in LOOPS if program[0][1] == "run" or program[0][2] < 3]
ENDLESS = [
    (shape, (3, 2, 2), programs)
    for shape in SHAPES
    for size in (3, 4)
    for programs in combinations_with_replacement(LOOPS, size)
]


def components(graph, states):
    """Return the strongly connected parts of a graph among some of its states, by Tarjan's algorithm."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []
    for root in states:
        if root in index:
            continue
        work = [(root, iter(graph[root].values()))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            state, after = work[-1]
            for successor in after:
                if successor not in states:
                    continue
                if successor not in index:
                    index[successor] = low[successor] = len(index)
                    stack.append(successor)
                    on_stack.add(successor)
                    work.append((successor, iter(graph[successor].values())))
                    break
                if successor in on_stack:
                    low[state] = min(low[state], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[state])
                if low[state] == index[state]:
                    part = set()
                    while state not in part:
                        part.add(stack.pop())
                    on_stack -= part
                    found.append(part)
    return found


def starves(graph, waiting, actor, actors):
    """Tell whether an actor can wait for ever while nobody who can move stands still for ever."""
    states = {state for state, who in waiting.items() if actor in who}
    for part in components(graph, states):
        inside = {move for state in part for move, after in graph[state].items() if after in part}
        if inside and all(
            ("go", other) in inside or any(other in waiting[state] for state in part) for other in range(actors)
        ):
            return True
    return False


def test_nobody_starves():
    """Whoever waits among actors that reserve and release for ever is served, whatever fair order they move in."""
    waited = 0
    for case in ENDLESS[:: max(1, 11 // EFFORT)]:
        graph, waiting = explore(case, loops=True)
        waited += sum(map(bool, waiting.values()))
        for actor in range(len(case[2])):
            assert not starves(graph, waiting, actor, len(case[2])), (case, actor)
    assert waited > 1_000


def test_an_unfair_queue_would_be_found_out(monkeypatch):
    """Where the queue let those who come later pass, the search would find the one whom they starve."""
    blocked_at = _queue._blocked_at

    def unfairly(chain, hold, output, cost, waiter):
        return blocked_at(chain, hold, output, cost, SimpleNamespace(ticket=0))

    monkeypatch.setattr(_queue, "_blocked_at", unfairly)
    monkeypatch.setattr(World, "do", World.make)
    big, small = (("reserve", "run", 3, 3), ("release",)), (("reserve", "run", 1, 1), ("release",))
    graph, waiting = explore((SHAPES[0], (3, 2, 2), (big, small, small)), loops=True)
    assert starves(graph, waiting, 0, 3)
    assert not starves(graph, waiting, 1, 3)
