"""The tree of open scopes: nesting, charging upward, runs inside runs, names in force and depth."""

import subprocess
import sys
import textwrap
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

NODES = st.recursive(
    st.tuples(st.sampled_from(["step", "persona", "run"]), st.lists(st.integers(0, 50), max_size=2), st.just([])),
    lambda inner: st.tuples(
        st.sampled_from(["step", "persona", "run"]),
        st.lists(st.integers(0, 50), max_size=2),
        st.lists(inner, max_size=3),
    ),
    max_leaves=12,
)


@pytest.fixture
def implicit_receipts():
    """Keep the receipts of implicit runs of one test apart."""
    sw.configure(ledger=sw.MemoryLedger())
    yield sw.receipts
    sw.configure(ledger=sw.MemoryLedger())


def play(node):
    """Open a scope, spend in it and play what is inside it; return the scope and the same for its children."""
    kind, spending, children = node
    block = {"step": sw.step, "persona": sw.persona}[kind](kind) if kind != "run" else sw.Run()
    with block as scope:
        played = []
        for index, tokens in enumerate(spending):
            sw.record_usage(input_tokens=tokens, output_tokens=1, cost_usd=Decimal(tokens) / 1000)
            if index < len(children):
                played.append(play(children[index]))
        played += [play(child) for child in children[len(spending) :]]
    return scope, spending, played


def numbers(usage):
    """Name what was counted."""
    return (usage.input_tokens, usage.output_tokens, usage.cost_usd, usage.calls)


def added(many):
    """Add up what several scopes counted."""
    return tuple(sum(column) for column in zip((0, 0, Decimal(0), 0), *map(numbers, many), strict=True))


def assert_adds_up(played):
    """Check own and total of a scope and of everything under it."""
    scope, spending, children = played
    assert numbers(scope.own) == (sum(spending), len(spending), Decimal(sum(spending)) / 1000, len(spending))
    assert numbers(scope.total) == added([scope.own, *(child.total for child, _, _ in children)])
    for child in children:
        assert child[0].parent is scope
        assert_adds_up(child)


@given(st.lists(NODES, max_size=3))
def test_total_is_own_and_the_totals_of_the_children(children):
    """In any tree of runs, personas and steps, every total is the scope's own and its children's totals."""
    assert_adds_up(play(("run", [7], children)))


def test_usage_is_own_of_the_innermost_and_total_of_everything_around():
    """Usage belongs to the innermost scope, and counts in the total of every scope around it, but no sibling's."""
    with sw.Run() as run, sw.persona("captain") as captain:
        with sw.step("one") as one:
            sw.record_usage(input_tokens=3, output_tokens=4)
        with sw.step("two") as two, sw.step("three") as three:
            sw.record_usage(input_tokens=10)
    assert [scope.own.total_tokens for scope in (run, captain, one, two, three)] == [0, 0, 7, 0, 10]
    assert [scope.total.total_tokens for scope in (run, captain, one, two, three)] == [17, 17, 7, 10, 10]


def test_everything_in_force_is_reached_from_the_leaf():
    """Step, persona, run and policy are those of the innermost scope, and nothing is in force outside."""
    assert (sw.current_step(), sw.current_persona(), sw.current_run()) == (None, None, None)
    assert sw.current_policy() == sw.Policy()
    with sw.Run(policy=sw.Policy(tools=["git*", "ci"])) as run:
        assert (sw.current_step(), sw.current_persona(), sw.current_run()) == (None, None, run)
        with sw.persona("outer", tools=["github", "ci"]) as outer, sw.step("a", tools=["github"]) as a:
            assert (a.persona, a.parent, sw.current_policy()) == ("outer", outer, sw.Policy(tools=["github"]))
            with sw.persona("inner", tools=["ci", "github"]) as inner:
                assert (sw.current_persona(), sw.current_step(), inner.parent) == (inner, a, a)
                assert sw.current_policy() == sw.Policy(tools=["github"])
                with sw.step("b") as b:
                    assert (b.persona, sw.current_step(), sw.current_persona()) == ("inner", b, inner)
            assert (sw.current_persona(), sw.current_step()) == (outer, a)
            assert sw.current_policy() == a.policy
    assert sw.current_policy() == sw.Policy()


def test_a_run_inside_a_run_is_its_child():
    """A child run is charged upward, meets its parent's policy, and keeps a log of its own."""
    outer_policy, inner_policy = sw.Policy(tools=["a", "b"]), sw.Policy(tools=["b", "c"], side_effect_level="read_only")
    with sw.Run(policy=outer_policy) as outer, sw.step("around") as around:
        with sw.Run(policy=inner_policy) as inner:
            assert sw.current_run() is inner
            assert inner.policy == sw.Policy(tools=["b"], side_effect_level="read_only")
            with sw.step("inside"):
                sw.record_usage(input_tokens=5, cost_usd="0.5")
        assert sw.current_run() is outer
        assert sw.current_step() is around
    assert [receipt.name for receipt in inner.receipts] == ["inside"]
    assert [receipt.name for receipt in outer.receipts] == ["around"]
    assert (inner.total.cost_usd, around.total.cost_usd, outer.total.cost_usd) == (Decimal("0.5"),) * 3
    assert (inner.own, around.own, outer.own) == (sw.Usage(),) * 3
    assert inner.receipts[0].run_id == inner.id != outer.id == outer.receipts[0].run_id
    assert inner.receipts[0].parent_id == inner.id


def test_a_child_run_stays_under_the_limits_around_it():
    """The budgets of the outer run and step are met inside a child run, whose own budget cannot widen them."""
    with sw.Run(budget=sw.Budget(max_tokens=10)) as outer, sw.Run(budget=sw.Budget(max_tokens=1_000)) as inner:
        assert inner.remaining.max_tokens == 10
        with pytest.raises(sw.BudgetExceededError) as caught, sw.step("s"):
            sw.record_usage(input_tokens=11)
        with pytest.raises(sw.BudgetExceededError):
            sw.reserve(input_tokens=1).acquire()
    assert (caught.value.scope_id, caught.value.scope_kind) == (outer.id, "run")
    assert outer.total.input_tokens == inner.total.input_tokens == 11


def test_a_child_run_brings_its_prices_and_inherits_the_others():
    """A child run's own prices come first, and a model that it does not price has the price of the run around."""
    price = {"input": 1_000_000, "output": 0}
    with sw.Run(prices={"a": price, "b": price}), sw.Run(prices={"a": {"input": 2_000_000, "output": 0}}) as inner:
        sw.record_usage("a", input_tokens=1)
        sw.record_usage("b", input_tokens=1)
    assert inner.own.cost_usd == 3


def test_the_model_is_that_of_the_innermost_scope_that_declares_one():
    """The nearest step that declares a model decides, else the persona, else the fallback; empty is not declared."""
    assert sw.default_model() is None
    assert sw.default_model("f") == "f"
    with sw.step("none"):
        assert sw.default_model("f") == "f"
    with sw.persona("p", model="P"):
        assert sw.default_model("f") == "P"
        with sw.step("s", model="S"), sw.step("empty", model=""):
            assert sw.default_model() == "S"
            with sw.step("t", model="T"):
                assert sw.default_model() == "T"
            assert sw.current_step().model == "S"
        with sw.step("bare"):
            assert sw.default_model() == "P"


def test_a_step_outside_every_run_opens_one(implicit_receipts):
    """Outside any run, each outermost persona, step or block has an implicit run, which ends with it."""
    seen = []

    @sw.step
    def inner():
        seen.append(sw.current_run())
        sw.record_usage(input_tokens=1)

    @sw.persona
    def outer():
        seen.append(sw.current_run())
        inner()

    outer()
    with sw.step("block") as block:
        seen.append(sw.current_run())
        inner()
    assert sw.current_run() is None
    assert seen[0] is seen[1] is not seen[2]
    assert [receipt.name for receipt in implicit_receipts()] == ["inner", "outer", "inner", "block"]
    assert [receipt.run_id for receipt in implicit_receipts()] == [seen[0].id] * 2 + [seen[2].id] * 2
    assert block.parent is seen[2]
    with pytest.raises(sw.RunClosedError), seen[2].attach():
        pass


def test_an_implicit_run_ends_however_its_step_ends(implicit_receipts):
    """An implicit run is closed, and nothing is in force, when its step raises or a hook refuses it."""
    runs = []

    @sw.step
    def fails():
        runs.append(sw.current_run())
        raise KeyError("x")

    with pytest.raises(KeyError):
        fails()
    hook = sw.hooks.on("PreStep", step="fails")(lambda event: sw.Deny("no"))
    try:
        with pytest.raises(sw.HookDeniedError):
            fails()
    finally:
        hook.remove()
    assert sw.current_run() is None
    assert [receipt.status for receipt in implicit_receipts()] == [sw.Status.FAILED, sw.Status.DENIED]
    with pytest.raises(sw.RunClosedError), runs[0].attach():
        pass


def test_ids_are_unique():
    """No two activations, in one run or in several, have the same id, and the receipt carries it."""
    ids = []
    for _ in range(3):
        with sw.Run() as run:
            ids.append(run.id)
            for _ in range(3):
                with sw.persona("p") as persona, sw.step("s") as step, sw.Run() as child, sw.step("t") as inner:
                    ids += [persona.id, step.id, child.id, inner.id]
            assert {receipt.step_id for receipt in (*run.receipts, *child.receipts)} <= set(ids)
    assert len(set(ids)) == len(ids) == 3 + 3 * 3 * 4


PROGRAM = """
import asyncio, sys
import stepwarden as sw

if {limit}:
    sys.setrecursionlimit({limit})

@sw.step(budget=sw.Budget(max_tokens=5))
def down(n):
    if n > 1:
        return down(n - 1)
    sw.record_usage(input_tokens=1, cost_usd="0.1")
    with sw.reserve(input_tokens=1, cost_usd="0.1") as hold:
        hold.settle(output_tokens=0, input_tokens=1, cost_usd="0.1")
    if {fails}:
        sw.record_usage(input_tokens=9)

@sw.step(budget=sw.Budget(max_tokens=5))
async def down_async(n):
    if n > 1:
        return await down_async(n - 1)
    await asyncio.sleep(0)
    sw.record_usage(input_tokens=1, cost_usd="0.1")
    async with sw.reserve(input_tokens=1, cost_usd="0.1") as hold:
        hold.settle(output_tokens=0, input_tokens=1, cost_usd="0.1")
    if {fails}:
        sw.record_usage(input_tokens=9)

with sw.Run() as run:
    try:
        down({depth}) if {sync} else asyncio.run(down_async({depth}))
    except sw.BudgetExceededError as error:
        print(error.scope_id == run.receipts[-1].step_id)
print(len(run.receipts), run.receipts[0].own.calls, run.total.calls, run.receipts[-1].total.cost_usd, run.held.calls)
"""


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "fails"])
@pytest.mark.parametrize("sync", [True, False], ids=["function", "coroutine"])
@pytest.mark.parametrize(("depth", "limit"), [(450, 0), (2_000, 20_000)])
def test_steps_nest_deep(depth, limit, sync, fails):
    """Steps recurse 450 deep in a bare interpreter and 2,000 deep with a raised limit, also when the deepest fails."""
    program = textwrap.dedent(PROGRAM).format(depth=depth, limit=limit, sync=sync, fails=fails)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-2_000:]
    expected = f"{depth} 3 3 0.2 0" if fails else f"{depth} 2 2 0.2 0"
    assert done.stdout.split("\n")[:-1] == (["True", expected] if fails else [expected])
