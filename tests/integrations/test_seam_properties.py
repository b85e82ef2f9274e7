"""Calls inside calls, at random: whatever is nested and however it ends, each request has one hold and counts once."""

import threading
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.integrations._seam import Attempt, Reported
from tests.integrations.faces import PRICES


@dataclass(frozen=True)
class Call:
    """Be one call: sent where nothing is inside it, else made of the calls inside it."""

    input: int
    output: int
    least: int
    end: str
    has_step: bool
    inside: tuple = field(default=())


def calls(inside):
    """Draw a call around others."""
    return st.builds(
        Call,
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(1, 5),
        st.sampled_from(["settle", "release", "leave", "raise"]),
        st.booleans(),
        inside,
    )


TREES = st.recursive(calls(st.just(())), lambda some: calls(st.lists(some, max_size=3).map(tuple)), max_leaves=8)
BUDGETS = st.builds(
    sw.Budget,
    max_tokens=st.none() | st.integers(0, 90),
    max_output_tokens=st.none() | st.integers(0, 60),
    max_usd=st.none() | st.integers(0, 120),
    max_calls=st.none() | st.integers(0, 6),
)


class Play:
    """Make calls and keep our own books of them."""

    def __init__(self, run):
        self.run = run
        self.counted = self.uncertain = 0

    def check(self):
        """No limit is passed by what is spent, held and uncertain together, since nobody spends more than granted."""
        budget, run = self.run.budget, self.run
        sums = [run.total, run.held, run.uncertain]
        for limit, part in (
            ("max_tokens", "total_tokens"), ("max_output_tokens", "output_tokens"), ("max_usd", "cost_usd"),
            ("max_calls", "calls"),
        ):  # fmt: skip
            value = getattr(budget, limit)
            assert value is None or sum(getattr(one, part) for one in sums) <= value

    def make(self, call):
        """Make one call, in a step of its own or not; a refused one is over before it is made."""
        if call.has_step:
            with sw.step("inner"):
                self.make_here(call)
        else:
            self.make_here(call)

    def make_here(self, call):
        """Make one call."""
        attempt = Attempt(model="m", input_tokens=call.input, output_tokens=call.output, min_output_tokens=call.least)
        try:
            with attempt:
                self.check()
                for one in call.inside:
                    self.make(one)
                granted = call.output if attempt.output_limit is None else attempt.output_limit
                assert granted <= call.output
                if not call.inside:
                    assert self.run.held.calls == 1
                    self.counted += call.end != "release"
                    self.uncertain += call.end in {"leave", "raise"}
                if call.end == "settle":
                    attempt.settle(Reported(model="m", input_tokens=call.input, output_tokens=granted))
                elif call.end == "release":
                    attempt.release()
                elif call.end == "raise":
                    raise LookupError
        except (sw.BudgetExceededError, LookupError):
            pass
        self.check()


@given(TREES, BUDGETS)
def test_each_request_has_one_hold_and_counts_once(tree, budget):
    """In any tree of guarded calls, those that are sent are counted, and nothing else; nothing stays held."""
    with sw.Run(budget=budget, prices=PRICES) as run:
        play = Play(run)
        play.make(tree)
        assert run.held == sw.Usage()
        assert (run.total.calls, run.total.estimated_calls) == (play.counted, play.uncertain)
    assert (run.total.calls, run.held) == (play.counted, sw.Usage())


@given(st.lists(TREES, min_size=2, max_size=4), BUDGETS)
def test_trees_in_threads_never_pass_a_limit_and_leave_nothing_held(trees, budget):
    """Trees of calls that run at once, and may wait for one another, all come to an end within the limits."""
    failures = []

    def work(run, tree):
        try:
            with run.attach():
                walk(tree)
        except BaseException as error:
            failures.append(error)

    def walk(call):
        attempt = Attempt(model="m", input_tokens=call.input, output_tokens=call.output, min_output_tokens=call.least)
        try:
            with attempt:
                for one in call.inside:
                    walk(one)
                granted = call.output if attempt.output_limit is None else attempt.output_limit
                attempt.settle(Reported(model="m", input_tokens=call.input, output_tokens=granted))
        except sw.BudgetExceededError:
            pass

    with sw.Run(budget=budget, prices=PRICES) as run:
        threads = [threading.Thread(target=work, args=(run, tree)) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert failures == []
        assert (run.held, run.uncertain) == (sw.Usage(), sw.Usage())
        Play(run).check()
