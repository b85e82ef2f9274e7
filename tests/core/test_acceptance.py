"""The guarantee: parallel callers never pass a limit, use it up, and none is refused, starved or hung for nothing."""

import asyncio
import contextlib
import contextvars
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepwarden as sw

NOTHING = sw.Usage()
SAFETY = 60
"""Seconds after which a test gives up; nothing waits that long unless something is wrong."""


@pytest.fixture(autouse=True)
def _switch_threads_often():
    """Let threads interleave between nearly all their steps."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


async def pause(in_task) -> None:
    """Let others run."""
    if in_task:
        await asyncio.sleep(0)
    else:
        time.sleep(0)  # noqa: ASYNC251 - there is no loop then


def drive(caller) -> None:
    """Run a caller without a loop: it never suspends where it takes its holds by `acquire`."""
    try:
        caller(False).send(None)
    except StopIteration:
        return
    raise AssertionError("a caller in a thread must not suspend")


def run_in_threads(callers) -> None:
    """Run every caller, a coroutine function, in a thread of its own."""
    with ThreadPoolExecutor(len(callers)) as pool:
        for end in [pool.submit(sw.propagate(drive), caller) for caller in callers]:
            end.result(SAFETY)


async def together(callers) -> None:
    """Run every caller as a task of this loop."""
    async with asyncio.timeout(SAFETY), asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller(True))


def run_mixed(callers) -> None:
    """Run a third of the callers in threads, and a third on each of two loops, all at once."""
    in_threads = callers[::3]
    loops = [lambda part=part: asyncio.run(together(part)) for part in (callers[1::3], callers[2::3])]
    with ThreadPoolExecutor(len(in_threads) + 2) as pool:
        ends = [pool.submit(sw.propagate(loop)) for loop in loops]
        ends += [pool.submit(sw.propagate(drive), caller) for caller in in_threads]
        for end in ends:
            end.result(SAFETY)


WAYS = {"threads": run_in_threads, "tasks": lambda callers: asyncio.run(together(callers)), "mixed": run_mixed}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)


async def take(in_task, **ask) -> sw.Hold:
    """Take a hold as a task or as a thread does."""
    reservation = sw.reserve(timeout=SAFETY, **ask)
    return await reservation if in_task else reservation.acquire()


@EVERY_WAY
def test_twenty_callers_of_three_calls_make_exactly_the_calls_that_the_limit_pays_for(way):
    """20 callers of three calls of $0.10 under $1.00 make exactly 10 calls: $1.00 spent, nothing held."""
    made, refused = [], []

    async def caller(in_task) -> None:
        for _ in range(3):
            try:
                hold = await take(in_task, cost_usd="0.10")
            except sw.BudgetExceededError as error:
                refused.append(error)
                continue
            made.append(hold)
            await pause(in_task)
            hold.settle(input_tokens=0, output_tokens=0, cost_usd="0.10")

    with sw.Run(budget=sw.Budget(max_usd="1.00")) as run:
        WAYS[way]([caller] * 20)
        assert (len(made), len(refused)) == (10, 50)
        assert (run.total.cost_usd, run.total.calls) == (Decimal(1), 10)
        assert run.held == run.uncertain == NOTHING
    assert {error.reason for error in refused} == {"no_room"}
    assert {error.consumed for error in refused} == {Decimal(1)}


class Spender:
    """Be callers that reserve worst cases, spend a part of each, and look at every scope after every grant."""

    def __init__(self, seed, worst) -> None:
        self.random = random.Random(seed)
        self.worst = worst
        self.refused = []
        self.over = []

    def look(self, chain) -> None:
        """Note every scope in which more is spent, uncertain and held than its limit.

        What is spent is read first: a settle that comes between two readings is then missed, never counted twice.
        """
        for scope in chain:
            amounts = [scope.total, scope.uncertain, scope.held]
            tokens, dollars = (sum(getattr(one, name) for one in amounts) for name in ("total_tokens", "cost_usd"))
            if tokens > scope.budget.max_tokens or dollars > scope.budget.max_usd:
                self.over.append((scope.name, tokens, dollars))

    async def spend(self, in_task, chain) -> None:
        """Make calls until one is refused."""
        tokens = self.worst
        while True:
            try:
                hold = await take(
                    in_task,
                    input_tokens=tokens // 4,
                    output_tokens=tokens - tokens // 4,
                    min_output_tokens=tokens,
                    cost_usd=Decimal(tokens) / 1000,
                )
            except sw.BudgetExceededError as error:
                self.refused.append(error)
                return
            self.look(chain)
            actual = self.random.randint(-(-tokens // 10), tokens)
            for _ in range(self.random.randint(0, 3)):
                await pause(in_task)
            tokens_in = min(actual, tokens // 4)
            hold.settle(input_tokens=tokens_in, output_tokens=actual - tokens_in, cost_usd=Decimal(actual) / 1000)

    def check(self) -> None:
        """Assert that no scope was ever over, and that every refusal was for what is spent, not for what is held."""
        assert self.over == []
        for error in self.refused:
            assert error.reason == "no_room"
            assert error.consumed + error.uncertain + error.requested > error.limit_value


def limited(tokens, factor=1) -> sw.Budget:
    """Limit tokens, and dollars at a thousandth of one for each, or *factor* times as many."""
    return sw.Budget(max_tokens=tokens, max_usd=Decimal(tokens) * factor / 1000)


@EVERY_WAY
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [1, Decimal("0.9"), 2])
def test_a_budget_is_never_passed_and_used_up(way, seed, factor):
    """64 callers of worst cases of a twentieth never pass the limit, use 95 % of it, and are refused for spending."""
    spender = Spender(seed, worst=100)
    limit = 2_500
    with sw.Run(budget=limited(limit, factor)) as run:

        async def caller(in_task) -> None:
            await spender.spend(in_task, [run])

        WAYS[way]([caller] * 64)
        spender.check()
        assert len(spender.refused) == 64
        assert run.held == run.uncertain == NOTHING
        assert Decimal("0.95") * limit * min(factor, 1) <= run.total.total_tokens <= limit * min(factor, 1)


@EVERY_WAY
@pytest.mark.parametrize("limits", [(4_000, 1_400, 900), (2_400, 2_000, 2_000), (99_999, 2_000, 99_999)])
def test_a_tree_of_budgets_is_never_passed_and_used_up(way, limits):
    """The same through three levels with limits at each: none is passed, and what binds is used to 95 %."""
    spender = Spender(7, worst=45)
    root, middle, leaf = limits
    opened = contextlib.ExitStack()
    callers, personas, steps = [], [], []

    def under(chain, context):
        """Make a caller that works in the scope that was opened in a context."""

        async def caller(in_task) -> None:
            await spender.spend(in_task, chain)

        return context.run(sw.propagate, caller)

    with sw.Run(budget=limited(root)) as run, opened:
        for branch in range(4):
            outer = contextvars.copy_context()
            persona = enter(opened, outer, sw.persona(f"p{branch}", budget=limited(middle)))
            personas.append(persona)
            for twig in range(2):
                inner = outer.copy()
                step = enter(opened, inner, sw.step(f"s{branch}.{twig}", budget=limited(leaf)))
                steps.append(step)
                callers += [under((run, persona, step), inner)] * 8
        WAYS[way](callers)
        spender.check()
        assert len(callers) == len(spender.refused) == 64
        for scope in (run, *personas, *steps):
            assert scope.held == scope.uncertain == NOTHING
            assert scope.total.total_tokens <= scope.budget.max_tokens
        # Each leaf is used up itself, or its branch is, or everything is.
        for number, step in enumerate(steps):
            chain = (step, personas[number // 2], run)
            assert any(scope.total.total_tokens >= Decimal("0.95") * scope.budget.max_tokens for scope in chain)
        assert run.total.total_tokens >= Decimal("0.95") * min(root, 4 * min(middle, 2 * leaf))


def enter(opened, context, block):
    """Open a block in a context of its own, to be left there when *opened* is."""
    scope = context.run(block.__enter__)
    opened.callback(context.run, block.__exit__, None, None, None)
    return scope


@EVERY_WAY
def test_a_large_request_among_small_ones_gets_its_turn(way):
    """Nobody starves: a request for the whole limit is granted among a stream of small ones that never ends itself."""
    large_is_done = threading.Event()
    small_calls = []

    async def small(in_task) -> None:
        while not large_is_done.is_set():
            hold = await take(in_task, input_tokens=10)
            small_calls.append(None)
            await pause(in_task)
            hold.release()
            await pause(in_task)

    async def large(in_task) -> None:
        try:
            for _ in range(5):
                hold = await take(in_task, input_tokens=100)
                hold.release()
        finally:
            large_is_done.set()

    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        WAYS[way]([small] * 4 + [large] + [small] * 4)
        assert run.held == run.total == NOTHING
    assert small_calls


class Model:
    """Be one scope as the design defines it, in exact fractions: its limits, and what counts against them."""

    def __init__(self, parent, budget) -> None:
        self.parent = parent
        self.limits = {"tokens": budget.max_tokens, "usd": None if budget.max_usd is None else Fraction(budget.max_usd)}
        self.spent, self.held, self.uncertain = ({"tokens": 0, "usd": Fraction(0)} for _ in range(3))

    def chain(self):
        """Give this scope and those around it, outermost first."""
        return [*(self.parent.chain() if self.parent else []), self]

    def add(self, what, tokens, usd) -> None:
        """Add to an amount of this scope and of every scope around it."""
        for scope in self.chain():
            getattr(scope, what)["tokens"] += tokens
            getattr(scope, what)["usd"] += usd

    def passed(self):
        """Give the outermost scope of which a limit is passed."""
        return next((one for one in self.chain() if any(one.room(name, []) < 0 for name in one.limits)), None)

    def room(self, name, but) -> float | Fraction:
        """Give what is left of a limit beside what is spent, and beside the amounts named in *but*."""
        if self.limits[name] is None:
            return inf
        return self.limits[name] - self.spent[name] - sum(getattr(self, what)[name] for what in but)

    def output(self, tokens_in, asked, but) -> float:
        """Give the output that fits over the whole chain; a negative one where the input alone does not."""
        best = asked
        for scope in self.chain():
            best = min(best, scope.room("tokens", but) - tokens_in)
            usd = scope.room("usd", but) - tokens_in * RATE_IN
            best = min(best, -1 if usd < 0 else inf if usd == inf else usd // RATE_OUT)
        return best


RATE_IN, RATE_OUT = Fraction(1, 1_000_000), Fraction(2, 1_000_000)
SIZES = st.integers(0, 40)
BUDGETS = st.builds(
    sw.Budget,
    max_tokens=st.none() | st.integers(0, 200),
    max_usd=st.none() | st.integers(0, 250).map(lambda micros: Decimal(micros) / 1_000_000),
)
OPERATIONS = st.tuples(
    st.sampled_from(["reserve", "reserve", "hold on", "settle", "settle", "release", "record", "leave", "leave"]),
    st.integers(0, 5), SIZES, SIZES, SIZES,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), BUDGETS), min_size=1, max_size=6),
    st.lists(OPERATIONS, min_size=8, max_size=40),
)
def test_every_number_of_a_tree_is_that_of_an_exact_model(tree, operations):
    """Whatever is reserved, settled, released, left and recorded in a tree, grants and numbers are those defined."""
    with sw.Run(budget=tree[0][1], prices={"m": {"input": 1, "output": 2}}) as run, contextlib.ExitStack() as opened:
        nodes = [(contextvars.copy_context(), run, Model(None, tree[0][1]))]
        for number, (parent, budget) in enumerate(tree[1:]):
            around, _, model = nodes[parent % len(nodes)]
            context = around.copy()
            scope = enter(opened, context, sw.step(f"s{number}", budget=budget))
            nodes.append((context, scope, Model(model, budget)))
        holds = []
        for operation, target, first, second, third in operations:
            context, _, model = nodes[target % len(nodes)]
            context = context.copy()  # what is held in one operation is not held by the context of the next
            if operation in {"reserve", "hold on"}:
                reserve((context, model), holds, (first, second, third), is_holder=operation == "hold on")
            elif operation == "record":
                model.add("spent", first + second, first * RATE_IN + second * RATE_OUT)
                expect(model.passed(), context.run, sw.record_usage, "m", input_tokens=first, output_tokens=second)
            elif holds:
                end(operation, holds.pop(target % len(holds)), (first, second))
            for _, scope, expected in nodes:
                for what, usage in (("spent", scope.total), ("held", scope.held), ("uncertain", scope.uncertain)):
                    seen = {"tokens": usage.total_tokens, "usd": Fraction(usage.cost_usd)}
                    assert seen == getattr(expected, what), (operation, what)
        for context, taken, *_ in holds:
            context.run(taken.__exit__, None, None, None)


def reserve(at, holds, sizes, *, is_holder) -> None:
    """Reserve without waiting, where the context holds something already or not, and compare with the model."""
    (context, model), (tokens_in, asked, least) = at, sizes
    ask = sw.reserve(input_tokens=tokens_in, output_tokens=asked, min_output_tokens=least, model="m", wait=False)
    held = None
    if is_holder and model.output(0, 0, ["uncertain", "held"]) == 0:
        held = context.run(sw.reserve(cost_usd=0, wait=False).acquire)
    least = min(least, asked)
    ever = model.output(tokens_in, asked, ["uncertain"])
    now = model.output(tokens_in, ever, ["uncertain", "held"])
    granted, outcome = (ever, "wait") if held is None else (now, "would_deadlock")
    if ever < least:
        outcome = "no_room"
    elif now >= (ever if held is None else least):
        outcome = "granted"
    try:
        hold = context.run(ask.__enter__)
    except sw.ReserveTimeoutError:
        assert outcome == "wait"
    except sw.BudgetExceededError as error:
        assert error.reason == outcome  # noqa: PT017 - every outcome is compared, of which this is one
    else:
        usd = tokens_in * RATE_IN + granted * RATE_OUT
        assert (outcome, hold.output_tokens, Fraction(hold.cost_usd)) == ("granted", granted, usd)
        model.add("held", tokens_in + granted, usd)
        holds.append((context, ask, hold, model, granted))
    if held is not None:
        held.release()


def end(operation, taken, spent) -> None:
    """End a hold in one way, and do the same to the model."""
    context, ask, hold, model, output = taken
    usd_in, usd_out = hold.input_tokens * RATE_IN, output * RATE_OUT
    model.add("held", -hold.input_tokens - output, -usd_in - usd_out)
    if operation == "release":
        hold.release()
    elif operation == "leave":
        model.add("spent", hold.input_tokens, usd_in)
        model.add("uncertain", output, usd_out)
    else:
        model.add("spent", sum(spent), spent[0] * RATE_IN + spent[1] * RATE_OUT)
        expect(model.passed(), hold.settle, input_tokens=spent[0], output_tokens=spent[1])
    context.run(ask.__exit__, None, None, None)


def expect(passed, call, *args, **kwargs) -> None:
    """Make a call that raises exactly where the model says that a limit is passed."""
    if passed is None:
        call(*args, **kwargs)
    else:
        with pytest.raises(sw.BudgetExceededError) as caught:
            call(*args, **kwargs)
        assert caught.value.limit_value in {passed.limits["tokens"], passed.limits["usd"]}
