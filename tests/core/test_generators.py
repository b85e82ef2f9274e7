"""Generator steps: open only while their body runs, with the consumer's own scope in force in between."""

import contextlib
import contextvars
import gc
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw


@sw.step
def counting(name, most=1_000):
    """Yield numbers with usage, inside a block of its own, and take what is sent and thrown."""
    with sw.step(f"{name}-inside") as inside:
        total = 0
        for _ in range(most):
            sw.record_usage(input_tokens=1)
            assert sw.current_step() is inside
            try:
                total += (yield total) or 1
            except LookupError:
                total -= 1
            assert sw.current_step() is inside
    return total


def statuses(run):
    """Name what ended and how, in order."""
    return [(receipt.name, str(receipt.status)) for receipt in run.receipts]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["next", "send", "throw", "fail", "close", "drop", "enter", "leave", "elsewhere"]),
        st.integers(0, 2),
    ),
    max_size=40,
)


def act(action, generator):
    """Do one thing to a generator, as its consumer."""
    if action == "next":
        next(generator)
    elif action == "elsewhere":
        contextvars.copy_context().run(next, generator)
    elif action == "send":
        generator.send(5)
    elif action == "throw":
        generator.throw(LookupError())
    elif action == "fail":
        generator.throw(KeyboardInterrupt())
    elif action == "close":
        generator.close()


@given(ACTIONS)
def test_generators_advanced_in_any_order_never_show_their_scope(actions):
    """Whatever is done to several generator steps, in any order and context, the consumer's scope is in force."""
    started = set()
    blocks = []
    with sw.Run() as run:
        made = [counting(str(number), 4) for number in range(3)]
        for action, number in actions:
            if action == "enter":
                block = sw.step("consumer")
                blocks.append((block, block.__enter__()))
            elif action == "leave" and blocks:
                blocks.pop()[0].__exit__(None, None, None)
            elif action == "drop":
                made[number] = None
            elif made[number] is not None:
                is_fresh = inspect.getgeneratorstate(made[number]) == inspect.GEN_CREATED
                if is_fresh and action in {"next", "elsewhere"}:
                    started.add(number)
                # What a fresh generator refuses is no activation.
                with contextlib.suppress(StopIteration, LookupError, KeyboardInterrupt, TypeError):
                    act(action, made[number])
            assert sw.current_step() is (blocks[-1][1] if blocks else None)
        while blocks:
            blocks.pop()[0].__exit__(None, None, None)
        made.clear()
        gc.collect()
        assert sw.current_run() is run
        assert run.open_scopes == ()
        names = [receipt.name for receipt in run.receipts if receipt.name != "consumer"]
        assert sorted(names) == sorted(["counting"] * len(started) + [f"{number}-inside" for number in started])


def test_two_interleaved_generators_spend_each_on_its_own_step():
    """Two generator steps advanced alternately each charge their own scope, and the consumer's charges its own."""
    with sw.Run() as run, sw.step("consumer") as consumer:
        one, two = counting("one", 3), counting("two", 3)
        for _ in zip(one, two, strict=True):
            assert sw.current_step() is consumer
            sw.record_usage(input_tokens=100)
    totals = {receipt.name: (receipt.own.input_tokens, receipt.total.input_tokens) for receipt in run.receipts}
    assert totals["one-inside"] == totals["two-inside"] == (3, 3)
    assert totals["counting"] == (0, 3)
    assert totals["consumer"] == (300, 306)


def test_the_parent_is_the_scope_where_it_was_called():
    """A generator step made in one scope and consumed in another is the first one's child, and charged there."""
    with sw.Run() as run:
        with sw.step("maker") as maker:
            generator = counting("g", 2)
            with sw.step("consumer") as consumer:
                next(generator)
                assert sw.current_step() is consumer
            assert (maker.total.input_tokens, consumer.total.input_tokens) == (1, 0)
            assert next(generator) == 1
            with pytest.raises(StopIteration) as stop:
                next(generator)
            assert stop.value.value == 2
        assert maker.total.input_tokens == 2
    assert {receipt.name: receipt.parent_id for receipt in run.receipts}["counting"] == maker.id


def test_its_persona_policy_and_model_are_those_of_the_place_of_call():
    """What a generator step is under is decided where it is called, not where it is iterated."""

    @sw.step
    def asking():
        yield sw.current_policy(), sw.default_model(), sw.current_persona()

    with sw.Run():
        with sw.persona("p", tools=["t"], model="m") as persona:
            generator = asking()
            with sw.step("narrow", tools=[], model="other"):
                assert next(generator) == (sw.Policy(tools=["t"]), "m", persona)
            generator.close()


def test_never_iterated_is_never_activated():
    """A generator step that is not iterated runs no hook, opens no scope and leaves no receipt."""
    hooks = sw.Hooks()
    events = []
    hooks.on("PreStep")(lambda event: events.append(event.step))
    with sw.Run(hooks=hooks) as run:
        generator = counting("g")
        assert (events, run.open_scopes) == ([], ())
        generator.close()
        counting("h")
        gc.collect()
        with pytest.raises(LookupError):
            counting("i").throw(LookupError())
        assert events == []
        next(counting("j", 1))
        assert events == ["counting", "j-inside"]
    assert {receipt.name for receipt in run.receipts} == {"counting", "j-inside"}


def test_closed_early_is_cancelled():
    """A generator step that is closed, or dropped, before its end leaves one receipt, `cancelled`, with no error."""
    with sw.Run() as run:
        generator = counting("a")
        next(generator)
        assert run.receipts == ()
        generator.close()
        generator.close()
        generator = counting("b")
        next(generator)
        del generator
        gc.collect()
        assert statuses(run) == [(name, "cancelled") for name in ("a-inside", "counting", "b-inside", "counting")]
        assert run.receipts[1].error is None


@pytest.mark.parametrize("how", ["close", "collect"])
def test_ended_in_another_context_leaves_that_one_alone(how):
    """A generator step closed or collected in another context closes there without a trace in either context."""
    with sw.Run() as run, sw.step("opener") as opener:
        generators = [counting("g")]
        next(generators[0])

        def end():
            with sw.step("other") as other:
                generator = generators.pop()
                if how == "close":
                    generator.close()
                del generator
                gc.collect()
                assert sw.current_step() is other
                sw.record_usage(input_tokens=10)

        contextvars.copy_context().run(end)
        assert sw.current_step() is opener
    assert statuses(run)[:3] == [("g-inside", "cancelled"), ("counting", "cancelled"), ("other", "completed")]
    assert run.receipts[2].own.input_tokens == 10


def test_a_plain_generator_abandoned_with_a_block_open_is_skipped_once_collected():
    """A block inside a plain generator that is collected in another context is closed, and skipped as leaf."""

    def plain():
        with sw.step("block"):
            yield

    with sw.Run() as run, sw.step("consumer") as consumer:
        generators = [plain()]
        next(generators[0])
        contextvars.copy_context().run(generators.clear)
        gc.collect()
        assert sw.current_step() is consumer
        sw.record_usage(input_tokens=1)
    assert consumer.own.input_tokens == 1
    assert statuses(run)[0] == ("block", "cancelled")


def test_closed_out_of_order():
    """Generator steps may end in any order, also after the scope that called them, each with its own receipt."""
    with sw.Run() as run:
        with sw.step("maker"):
            first, second = counting("1"), counting("2")
            next(first)
            next(second)
            first.close()
        second.close()
        assert sw.current_step() is None
    assert [name for name, _ in statuses(run)] == ["1-inside", "counting", "maker", "2-inside", "counting"]


@pytest.mark.parametrize("limit", [0, 2])
def test_continue_ends_with_the_fallback_as_return_value(limit):
    """A generator step that is exhausted under `continue` just ends, with the fallback as its return value."""

    @sw.step(budget=sw.Budget(max_calls=limit), error_boundary="continue", fallback="enough")
    def spending():
        while True:
            sw.record_usage()
            yield

    def consume():
        return (yield from spending())

    with sw.Run() as run:
        generator = consume()
        with pytest.raises(StopIteration) as stop:
            for _ in range(5):
                next(generator)
        assert stop.value.value == "enough"
        assert sw.current_step() is None
    assert statuses(run) == [("spending", "skipped")]


def test_an_error_thrown_in_is_the_bodys_to_handle():
    """What is thrown into a generator step reaches its body as it is; unhandled, it ends the step as failed."""
    with sw.Run() as run:
        generator = counting("g")
        next(generator)
        assert generator.throw(LookupError()) == -1
        error = ValueError("x")
        with pytest.raises(ValueError, match="x") as caught:
            generator.throw(error)
        assert caught.value is error
    assert statuses(run) == [("g-inside", "failed"), ("counting", "failed")]


def test_a_body_that_yields_while_it_is_closed_breaks_the_same_rule_as_any_generator():
    """A generator step that ignores `GeneratorExit` raises RuntimeError, and leaves one receipt all the same."""

    @sw.step
    def stubborn():
        while True:
            try:
                yield
            except GeneratorExit:
                yield "no"

    with sw.Run() as run:
        generator = stubborn()
        next(generator)
        with pytest.raises(RuntimeError, match="GeneratorExit"):
            generator.close()
        assert sw.current_step() is None
        del generator
        gc.collect()
    assert len(run.receipts) == 1


def test_yield_from_a_step_inside_a_step():
    """A generator step that delegates to another is its parent, and both are out of force between items."""

    @sw.step
    def outer():
        result = yield from counting("in", 2)
        sw.record_usage(input_tokens=10)
        return result

    with sw.Run() as run:
        for _ in outer():
            assert sw.current_step() is None
    inside, counted, around = run.receipts
    assert (inside.parent_id, counted.parent_id, around.parent_id) == (counted.step_id, around.step_id, run.id)
    assert (around.own.input_tokens, around.total.input_tokens) == (10, 12)


def test_a_hold_may_stay_open_across_a_yield():
    """A hold that a generator step keeps over its yields is on its scope, and settled there at the end."""

    @sw.step
    def holding():
        with sw.reserve(input_tokens=5) as hold:
            yield
            hold.settle(output_tokens=0, input_tokens=4)

    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        generator = holding()
        next(generator)
        assert run.held.input_tokens == 5
        assert sw.current_step() is None
        assert next(generator, "end") == "end"
        assert (run.held.input_tokens, run.total.input_tokens) == (0, 4)
    assert run.receipts[0].own.input_tokens == 4


def test_called_outside_every_run_it_has_one_of_its_own():
    """A generator step called outside any run opens an implicit run at its first item and ends it at its end."""
    sw.configure(ledger=sw.MemoryLedger())
    generator = counting("g", 1)
    with sw.Run() as consumer:
        next(generator)
        assert sw.current_run() is consumer
        assert next(generator, None) is None
    assert (consumer.receipts, consumer.total.calls) == ((), 0)
    assert [receipt.name for receipt in sw.receipts()] == ["g-inside", "counting"]
    sw.configure(ledger=sw.MemoryLedger())


@pytest.mark.parametrize("as_block", [True, False], ids=["block", "function"])
def test_called_in_a_scope_that_has_ended_it_stays_under_its_contract(as_block):
    """A generator step first iterated after the scope of its call has ended is under that scope's policy and limits."""

    @sw.step
    def late():
        yield sw.current_policy()
        sw.record_usage(input_tokens=2)

    contract = {"tools": ["t"], "budget": sw.Budget(max_tokens=1)}
    with sw.Run() as run:
        if as_block:
            with sw.step("maker", **contract) as maker:
                generator = late()
            parent = maker.id
        else:
            generator = sw.step(name="maker", **contract)(lambda: late())()
            parent = run.receipts[0].step_id
        assert next(generator) == sw.Policy(tools=["t"])
        with pytest.raises(sw.BudgetExceededError) as caught:
            next(generator)
        assert caught.value.scope_id == parent
        assert run.total.input_tokens == 2
    assert [(receipt.name, receipt.parent_id) for receipt in run.receipts] == [("maker", run.id), ("late", parent)]
    assert [receipt.total.input_tokens for receipt in run.receipts] == [0, 2]


def test_first_iterated_after_its_run_has_ended():
    """A generator step first iterated when the run of its call is over is refused, and consumes nothing."""
    with sw.Run():
        generator = counting("g")
    with pytest.raises(sw.RunClosedError):
        next(generator)
    assert sw.current_run() is None
