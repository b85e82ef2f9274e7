"""A guarded call inside a guarded call: one hold for both, changed to what the inner one asks for, settled once."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import openai
import pytest

import stepwarden as sw
from stepwarden.integrations._seam import Attempt, Reported
from tests.integrations.faces import PRICES, ask, done, guarded, pieces, play

USED = Reported(model="m", input_tokens=3, output_tokens=2)
NOTHING = (sw.Usage(), sw.Usage())


def outer(**asked):
    """Describe a framework's call."""
    return Attempt(**{"model": "m", "input_tokens": 10, "output_tokens": 20, **asked})


inner = outer


def test_the_first_call_inside_adopts_the_hold_and_settles_it():
    """One call through two guards is one call: a limit of one has room for it, and it is counted once."""
    with sw.Run(budget=sw.Budget(max_calls=1)) as run, sw.step("s"):
        with outer() as around:
            with inner() as attempt:
                assert run.held.calls == 1
                attempt.settle(USED)
            around.settle(Reported(input_tokens=999, output_tokens=999))
        with pytest.raises(sw.BudgetExceededError), outer():
            pass
    assert run.total == sw.Usage(input_tokens=3, output_tokens=2, calls=1, unpriced_calls=1)
    assert (run.held, run.uncertain) == NOTHING
    assert [call.outcome for call in run.receipts[0].calls] == ["settled"]


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_any_number_of_guards_take_one_hold(depth):
    """Through a whole stack of guards the hold goes to the innermost."""

    def call(left):
        with outer() as attempt:
            if left:
                call(left - 1)
            attempt.settle(USED)

    with sw.Run(budget=sw.Budget(max_calls=1)) as run:
        call(depth - 1)
    assert (run.total.calls, run.total.total_tokens, run.held) == (1, 5, sw.Usage())


def test_a_call_after_the_first_reserves_anew():
    """A second call inside, such as a retry, has a hold of its own, whatever became of the first."""
    with sw.Run(budget=sw.Budget(max_calls=2)) as run:
        with outer() as around:
            first = inner()
            first.acquire()
            first.keep()
            with inner() as second:
                assert run.held.calls == 2
                second.settle(USED)
            with pytest.raises(sw.BudgetExceededError) as caught, inner():
                pass
            around.settle(USED)
            assert run.held.calls == 1
            first.settle(USED)
    assert run.total.calls == 2
    assert caught.value.reason == "would_deadlock"


def test_after_a_released_attempt_the_next_one_may_wait_and_is_counted_once():
    """A first attempt that was refused by its server leaves nothing held, so the next is like any other."""
    with sw.Run(budget=sw.Budget(max_calls=1)) as run, outer() as around:
        for status in (429, 429, None):
            with inner() as attempt:
                assert run.held.calls == 1
                if status is None:
                    attempt.settle(USED)
                else:
                    assert attempt.refused_with(status)
        around.settle(USED)
    assert (run.total.calls, run.uncertain) == (1, sw.Usage())


@pytest.mark.parametrize("carried", ["task", "to_thread", "propagate", "gather"])
def test_the_hold_is_adopted_wherever_the_context_reaches(carried):
    """Tasks, threads of asyncio and threads under `propagate` adopt the hold of the call that they are part of."""

    def work():
        with inner() as attempt:
            attempt.settle(USED)

    async def task():
        async with inner() as attempt:
            await asyncio.sleep(0)
            attempt.settle(USED)

    async def scenario():
        with sw.Run(budget=sw.Budget(max_calls=1)) as run:
            async with outer() as around:
                if carried == "task":
                    await asyncio.create_task(task())
                elif carried == "gather":
                    await asyncio.gather(task())
                elif carried == "to_thread":
                    await asyncio.to_thread(work)
                else:
                    with ThreadPoolExecutor(1) as pool:
                        await asyncio.wrap_future(pool.submit(sw.propagate(work)))
                around.settle(USED)
        return run

    run = asyncio.run(scenario())
    assert (run.total.calls, run.held, run.uncertain) == (1, *NOTHING)


def test_of_threads_that_call_at_once_exactly_one_adopts():
    """Whoever comes first has the hold, the others reserve; together they count what they are."""
    callers = 8
    barrier = threading.Barrier(callers)

    def work():
        barrier.wait()
        with inner() as attempt:
            barrier.wait()
            attempt.settle(USED)

    with sw.Run(budget=sw.Budget(max_calls=callers)) as run:
        with outer() as around:
            threads = [threading.Thread(target=sw.propagate(work)) for _ in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            around.settle(USED)
    assert (run.total.calls, run.held, run.uncertain) == (callers, *NOTHING)


@pytest.mark.parametrize(
    ("asked", "held", "limit"),
    [
        ({}, (10, 20), 20),
        ({"output_tokens": 5}, (10, 5), 5),
        ({"output_tokens": 90}, (10, 20), 20),
        ({"input_tokens": 4}, (4, 20), 20),
        ({"input_tokens": 30}, (30, 20), 20),
        ({"output_tokens": 7, "choices": 2}, (10, 14), 7),
        ({"output_tokens": 50, "min_output_tokens": 25}, (10, 50), 50),
        ({"output_tokens": None}, (10, 20), 20),
    ],
)
def test_the_hold_becomes_what_the_inner_call_asks_for(asked, held, limit):
    """The inner request is what is sent, so it is what is held, but for output that the outer call was not granted."""
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run, outer(), inner(**asked) as attempt:
        assert (run.held.input_tokens, run.held.output_tokens) == held
        assert (run.held.calls, attempt.output_limit) == (1, limit)
        attempt.settle(USED)
        assert run.held == sw.Usage()
    assert run.total.total_tokens == 5


def test_an_inner_call_that_needs_more_gets_what_is_free_now():
    """More input than was reserved comes out of the output that was granted, where nothing else is left."""
    with sw.Run(budget=sw.Budget(max_tokens=35)) as run:
        with outer(), inner(input_tokens=25) as attempt:
            assert attempt.output_limit == 10
            assert run.held.total_tokens == 35
            attempt.settle(USED)


def test_an_inner_call_for_which_there_is_no_room_is_refused_and_nothing_is_held():
    """Where what is spent leaves no room for the inner call, it is refused, and the outer one held for nothing."""
    with sw.Run(budget=sw.Budget(max_tokens=35)) as run:
        with pytest.raises(sw.BudgetExceededError) as caught, outer(), inner(input_tokens=40):
            pass
        assert (caught.value.phase, caught.value.reason) == ("reserve", "no_room")
        assert (run.held, run.uncertain, run.total) == (*NOTHING, sw.Usage())


def test_an_inner_call_waits_for_others_where_it_needs_more():
    """What an inner call needs beyond the outer hold it may wait for, having given that back."""
    with sw.Run(budget=sw.Budget(max_tokens=60)) as run:
        other = contextvars.copy_context().run(sw.reserve(input_tokens=30).acquire)
        entered = threading.Event()

        def work():
            with outer():
                entered.set()
                with inner(input_tokens=40) as attempt:
                    attempt.settle(USED)

        thread = threading.Thread(target=sw.propagate(work))
        thread.start()
        entered.wait()
        other.release()
        thread.join()
    assert (run.total.calls, run.held, run.uncertain) == (1, *NOTHING)


def test_room_that_the_inner_call_does_not_need_wakes_who_waits_for_it():
    """A hold that becomes smaller lets the next in the queue go on."""
    with sw.Run(budget=sw.Budget(max_tokens=30)) as run, outer():
        waiting = threading.Thread(target=contextvars.Context().run, args=(_take_ten, run))
        waiting.start()
        with inner(output_tokens=5) as attempt:
            waiting.join()
            attempt.settle(USED)
    assert run.total.calls == 2


def _take_ten(run):
    with run.attach(), Attempt(model="m", input_tokens=10, output_tokens=0) as attempt:
        attempt.settle(USED)


def test_a_call_inside_a_step_of_its_own_is_held_and_charged_there():
    """A step that is opened between the two calls has its own limits on the inner one, and its usage."""
    with sw.Run() as run, outer() as around:
        with sw.step("deeper", budget=sw.Budget(max_output_tokens=8)) as step:
            with inner() as attempt:
                assert (attempt.output_limit, step.held.output_tokens, run.held.calls) == (8, 8, 1)
                attempt.settle(USED)
            assert (step.own.total_tokens, step.held) == (5, sw.Usage())
        around.settle(USED)
    assert (run.total.calls, run.own.calls, run.receipts[0].own.calls) == (1, 0, 1)


def test_outside_every_scope_both_calls_go_through():
    """Without a scope nothing is counted by either guard, and the second does not warn again."""
    with outer() as around:
        with inner() as attempt:
            assert attempt.output_limit is None
            attempt.settle(USED)
        around.settle(USED)


def test_a_run_that_is_opened_inside_reserves_for_itself(configure):
    """A hold that was granted outside every scope is none in a run that is opened after it."""
    configure(unscoped_calls="pass")
    with outer(), sw.Run(budget=sw.Budget(max_calls=1)) as run:
        with inner() as attempt:
            attempt.settle(USED)
    assert (run.total.calls, run.held, run.uncertain) == (1, *NOTHING)


def test_between_runs_nothing_is_adopted():
    """A hold in one run is no hold in another: the outer one is given back, the inner one is taken where it is."""
    elsewhere = contextvars.copy_context()
    other = elsewhere.run(sw.Run(budget=sw.Budget(max_calls=1)).__enter__)
    with sw.Run(budget=sw.Budget(max_calls=1)) as run:
        with outer(), other.attach(), inner() as attempt:
            assert (run.held.calls, other.held.calls) == (0, 1)
            attempt.settle(USED)
    elsewhere.run(other.__exit__, None, None, None)
    assert (run.total.calls, other.total.calls, run.uncertain) == (0, 1, sw.Usage())


def test_a_call_that_was_made_offers_nothing():
    """While the reply of a kept call is read, another call is one of its own."""
    with sw.Run(budget=sw.Budget(max_calls=2)) as run:
        with outer() as around:
            around.keep()
        with inner() as attempt:
            assert run.held.calls == 2
            attempt.settle(USED)
        around.settle(USED)
    assert (run.total.calls, run.held) == (2, sw.Usage())


def test_a_manual_hold_is_not_adopted():
    """`reserve` is for what the guard does not see, so a guarded call inside it reserves for itself."""
    with sw.Run() as run, sw.reserve(output_tokens=10) as hold, inner() as attempt:
        assert run.held.calls == 2
        attempt.settle(USED)
        hold.settle(output_tokens=1)
    assert run.total.calls == 2


def test_a_stated_cost_stands_for_the_inner_call_too():
    """Who states what a call costs knows better than the price of what is sent inside, or that it has none."""
    with sw.Run(budget=sw.Budget(max_usd=1)) as run, outer(cost_usd="0.25"):
        with inner(model="nobody-knows") as attempt:
            attempt.settle(USED)
    assert run.total.cost_usd == Decimal("0.25")


def test_an_inner_model_without_a_price_is_refused_under_a_dollar_limit():
    """The inner call names the model that is sent; without a price it is refused, and nothing stays held."""
    with sw.Run(budget=sw.Budget(max_usd=100), prices=PRICES) as run:
        with pytest.raises(sw.UnpricedModelError), outer(), inner(model="nobody-knows"):
            pass
        assert (run.held, run.uncertain, run.total) == (*NOTHING, sw.Usage())


def test_the_inner_model_is_the_one_that_is_priced():
    """The hold is at the price of the model that is sent."""
    prices = {**PRICES, "dear": {"input": 5_000_000, "output": 7_000_000}}
    with sw.Run(budget=sw.Budget(max_usd=1_000), prices=prices) as run, outer() as around:
        assert run.held.cost_usd == 10 + 40
        with inner(model="dear") as attempt:
            assert run.held.cost_usd == 50 + 140
            attempt.settle(Reported(input_tokens=3, output_tokens=2))
        around.leave()
    assert run.total.cost_usd == 15 + 14


def test_what_the_outer_call_was_granted_of_more_shows_once(server):
    """A call whose output was lowered by the outer guard is one lowered call, and marked so."""
    with sw.Run() as run, sw.step("s", budget=sw.Budget(max_output_tokens=8)), outer() as around:
        with inner(output_tokens=around.output_limit) as attempt:
            attempt.settle(USED)
    receipt = run.receipts[0]
    assert (receipt.clamped_calls, [call.clamped for call in receipt.calls]) == (1, [True])


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_framework_over_a_guarded_client_takes_a_hold_for_each_request(server, kind, streams):
    """Holds taken are requests that arrived, the limit that arrives is the one that was granted, nothing is twice."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=15, max_calls=2)) as run:
                for expected in (10, 15 - 1):
                    with outer(output_tokens=50) as attempt:
                        reply = await ask(client, max_tokens=min(10, attempt.output_limit), stream=streams)
                        if streams:
                            attempt.keep()
                            async for _ in pieces(reply):
                                pass
                        attempt.settle(None)
                    assert server.requests[-1].body["max_tokens"] == min(10, expected)
                    assert run.held == sw.Usage()
                with pytest.raises(sw.BudgetExceededError), outer():
                    await ask(client)
        return run

    run = play(scenario)
    assert (run.total.calls, server.count, run.uncertain) == (2, 2, sw.Usage())


def test_a_refusal_of_the_inner_guard_costs_the_outer_one_nothing(server, kind):
    """What the inner guard refuses was not sent, so the outer hold is given back and not set aside."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_calls=1)) as run:
                with pytest.raises(sw.PolicyViolationError), outer():
                    await done(client.post("/what-comes-next", body={}, cast_to=object))
                assert (run.held, run.uncertain, run.total) == (*NOTHING, sw.Usage())

    play(scenario)
    assert server.count == 0


def test_a_stream_that_is_consumed_while_its_framework_calls_again_does_not_deadlock(server):
    """The context of the outer call still knows that the adopted hold is open, so a call beside it does not wait."""

    async def scenario():
        async with guarded(openai.AsyncOpenAI, server) as client:
            with sw.Run(budget=sw.Budget(max_calls=1)) as run:
                async with outer() as around:
                    stream = await asyncio.create_task(ask(client, stream=True))
                    around.keep()
                    with pytest.raises(sw.BudgetExceededError) as caught:
                        await ask(client)
                    async for _ in stream:
                        pass
        return run, caught.value

    run, error = asyncio.run(scenario())
    assert (error.reason, run.total.calls, run.held) == ("would_deadlock", 1, sw.Usage())
