"""Boundaries and exception groups: a group counts as exhaustion only where every leaf of it is the step's own."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw

HUNDRED = sw.Budget(max_tokens=100)


async def spend(tokens):
    """Spend tokens on the current step, a moment later."""
    await asyncio.sleep(0)
    sw.record_usage(output_tokens=tokens)


async def spend_in_parallel(*tokens):
    """Spend these, each in a task of its own."""
    async with asyncio.TaskGroup() as group:
        for each in tokens:
            group.create_task(spend(each))


def own_error(tokens=101):
    """Return a budget error of the current step, whose limit is passed from here on."""
    try:
        sw.record_usage(output_tokens=tokens)
    except sw.BudgetExceededError as error:
        return error
    raise AssertionError("the step had room")


def leaves(error):
    """Return what is in a group, however deep; or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [error]


def statuses(run):
    """Return how each step ended, by its name."""
    return {one.name: str(one.status) for one in run.receipts}


def test_a_task_group_of_own_errors_counts_as_the_first():
    """A group that a task group raises, all of it the step's own exhaustion, is absorbed by `continue`."""

    @sw.step(budget=HUNDRED, error_boundary="continue", fallback="fallback")
    async def plan():
        await spend_in_parallel(60, 60, 70)

    with sw.Run() as run:
        assert asyncio.run(plan()) == "fallback"
    (receipt,) = run.receipts
    assert receipt.status is sw.Status.SKIPPED
    assert receipt.error == ("BudgetExceededError", "step `plan` exceeded max_tokens budget (120 > 100)")
    assert receipt.own.total_tokens == 190


def test_escalate_tells_of_the_first_leaf():
    """On `escalate`, the error of the escalation is the first leaf, and its cause leads to that leaf."""

    @sw.step(budget=HUNDRED, error_boundary="escalate")
    async def plan():
        await spend_in_parallel(60, 60, 70)

    with sw.Run() as run, pytest.raises(sw.EscalationError) as caught:
        asyncio.run(plan())
    assert caught.value.error.consumed == 120
    assert leaves(caught.value.__cause__)[0] is caught.value.error
    assert statuses(run) == {"plan": "escalated"}


def test_fail_lets_the_group_go_on():
    """On `fail`, `except*` still meets every leaf of the group, and the receipt is failed."""

    @sw.step(budget=HUNDRED)
    async def plan():
        await spend_in_parallel(60, 60, 70)

    met = []
    with sw.Run() as run:
        try:
            asyncio.run(plan())
        except* sw.BudgetExceededError as group:
            met.extend(leaves(group))
    assert [leaf.consumed for leaf in met] == [120, 190]
    assert statuses(run) == {"plan": "failed"}


@pytest.mark.parametrize("boundary", ["continue", "escalate"])
@pytest.mark.parametrize(
    "other",
    [
        ValueError("ordinary"),
        sw.ReserveTimeoutError("waited", waited=1.0, scope_kind="step", scope_name="plan", limit="max_tokens"),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        ExceptionGroup("inner", [ValueError("deep")]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_mixed_group_passes_whole(boundary, other, is_first):
    """One leaf that is not the step's own exhaustion makes the whole group pass as it is."""

    @sw.step(budget=HUNDRED, error_boundary=boundary)
    def plan():
        own = own_error()
        mixed = [other, own] if is_first else [own, other]
        raise BaseExceptionGroup("mixed", mixed)

    with sw.Run() as run, pytest.raises(BaseExceptionGroup) as caught:
        plan()
    assert caught.value.message == "mixed"
    assert len(leaves(caught.value)) == 2
    assert statuses(run)["plan"] in {"failed", "cancelled"}


@pytest.mark.parametrize("boundary", ["continue", "escalate"])
def test_a_callers_error_among_the_leaves_passes_whole(boundary):
    """A group that has the caller's budget error too is left for the caller, whose own mixed group it is as well."""

    async def outer():
        async with sw.step("outer", budget=sw.Budget(max_tokens=150), error_boundary="continue"):
            await plan()

    @sw.step(budget=HUNDRED, error_boundary=boundary)
    async def plan():
        await spend_in_parallel(120, 40)

    with sw.Run() as run, pytest.raises(ExceptionGroup) as caught:
        asyncio.run(outer())
    assert [leaf.scope_name for leaf in leaves(caught.value)] == ["plan", "outer"]
    assert statuses(run) == {"plan": "failed", "outer": "failed"}


def test_a_group_with_an_escalation_passes_the_outer_continue():
    """An escalation in a group is absorbed no more than one alone."""

    @sw.step(budget=sw.Budget(max_tokens=10), error_boundary="escalate")
    async def inner():
        await spend(20)

    @sw.step(budget=HUNDRED, error_boundary="continue")
    async def outer():
        async with asyncio.TaskGroup() as group:
            group.create_task(inner())

    with sw.Run() as run, pytest.raises(ExceptionGroup) as caught:
        asyncio.run(outer())
    assert [type(leaf) for leaf in leaves(caught.value)] == [sw.EscalationError]
    assert statuses(run) == {"inner": "escalated", "outer": "failed"}


def test_parallel_steps_absorb_each_their_own():
    """Steps under one task group each absorb their own exhaustion, and the group raises nothing."""

    @sw.step(budget=sw.Budget(max_tokens=10), error_boundary="continue", fallback="fallback")
    async def part(tokens):
        await spend(tokens)
        return tokens

    async def whole():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part(tokens)) for tokens in (5, 20, 10, 11)]
        return [task.result() for task in tasks]

    with sw.Run() as run:
        assert asyncio.run(whole()) == [5, "fallback", 10, "fallback"]
    assert sorted(str(one.status) for one in run.receipts) == ["completed", "completed", "skipped", "skipped"]


def test_siblings_that_the_task_group_cancels_are_cancelled():
    """The steps that a task group cancels because of the exhaustion leave cancelled receipts, the outer is skipped."""

    @sw.step
    async def sibling():
        await asyncio.sleep(60)

    @sw.step(budget=HUNDRED, error_boundary="continue", fallback="fallback")
    async def outer():
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            group.create_task(spend(101))

    with sw.Run() as run:
        assert asyncio.run(outer()) == "fallback"
    assert statuses(run) == {"sibling": "cancelled", "outer": "skipped"}


def test_a_group_handled_by_except_star_inside_goes_on():
    """A step that handles its own part with `except*` goes on, and only what is left over leaves it."""

    @sw.step(budget=HUNDRED, error_boundary="continue", fallback="unused")
    def plan(*, other):
        try:
            raise ExceptionGroup("mixed", [own_error(), *other])
        except* sw.BudgetExceededError:
            pass
        return "done"

    with sw.Run() as run:
        assert plan(other=[]) == "done"
        with pytest.raises(ExceptionGroup) as caught:
            plan(other=[ValueError("left over")])
    assert [str(leaf) for leaf in leaves(caught.value)] == ["left over"]
    assert [str(one.status) for one in run.receipts] == ["completed", "failed"]


@pytest.mark.parametrize("shape", ["function", "generator", "async generator", "block", "async block"])
def test_every_shape_looks_into_groups(shape):
    """Functions, generators, async generators and blocks absorb a group of their own errors too."""
    step = sw.step("plan", budget=HUNDRED, error_boundary="continue", fallback="fallback")

    def exhaust():
        raise ExceptionGroup("own", [own_error(), ExceptionGroup("nested", [own_error(1), own_error(1)])])

    async def drive_async():
        if shape == "async block":
            async with step:
                exhaust()
            return

        @step
        async def items():
            yield 1
            exhaust()

        assert [item async for item in items()] == [1]

    def items():
        yield 1
        exhaust()

    with sw.Run() as run:
        if shape == "function":
            assert step(exhaust)() == "fallback"
        elif shape == "generator":
            assert list(step(items)()) == [1]
        elif shape == "block":
            with step:
                exhaust()
        else:
            asyncio.run(drive_async())
    assert statuses(run) == {"plan": "skipped"}


def test_a_budget_error_as_a_mere_cause_is_an_ordinary_exception():
    """An exception raised from the step's budget error is not one, and passes."""

    @sw.step(budget=HUNDRED, error_boundary="continue")
    def plan():
        try:
            raise own_error()
        except sw.BudgetExceededError as error:
            raise LookupError("told otherwise") from error

    with sw.Run() as run, pytest.raises(LookupError, match="told otherwise"):
        plan()
    assert statuses(run) == {"plan": "failed"}


TREES = st.recursive(
    st.sampled_from(["own", "own", "own", "caller", "ordinary"]),
    lambda inner: st.lists(inner, min_size=1, max_size=4),
    max_leaves=12,
)


@given(tree=TREES, boundary=st.sampled_from(["continue", "escalate"]))
def test_any_tree_of_groups_counts_only_when_all_leaves_are_own(tree, boundary):
    """However groups are nested, they count exactly when each leaf is the step's own, and then as the first leaf."""
    made = []

    def make(node, caller):
        if isinstance(node, list):
            return ExceptionGroup("group", [make(one, caller) for one in node])
        error = {"own": own_error, "caller": lambda: caller, "ordinary": lambda: ValueError("x")}[node]()
        made.append((node, error))
        return error

    @sw.step(budget=sw.Budget(max_calls=0), error_boundary="fail")
    def outer():
        caller = own_error()
        sw.current_step().extend(sw.Budget(max_calls=1_000_000))

        @sw.step(budget=HUNDRED, error_boundary=boundary, fallback="fallback")
        def plan():
            raise make(tree, caller)

        return plan()

    with sw.Run() as run:
        try:
            result = outer()
        except sw.EscalationError as error:
            result = error.error
        except Exception as error:
            result = error
    if all(node == "own" for node, _ in made):
        assert result == "fallback" if boundary == "continue" else result is made[0][1]
        assert statuses(run)["plan"] == ("skipped" if boundary == "continue" else "escalated")
    else:
        assert leaves(result) == [error for _, error in made]
        assert statuses(run)["plan"] == "failed"
