"""The contract, 1 to 3 and 7: refused before the wire, bounded by what was granted, settled by what was reported."""

import threading
from decimal import Decimal
from pathlib import Path

import pytest

import stepwarden as sw
from stepwarden.testing import Failure, Reply
from tests.integrations.contract.face import PRICES, play

REFUSING = [{"max_tokens": 3}, {"max_input_tokens": 3}, {"max_usd": 3}, {"max_calls": 0}]


@pytest.mark.parametrize("limit", REFUSING, ids=lambda limit: next(iter(limit)))
def test_a_refused_call_never_reaches_the_wire(server, face, limit):
    """What there is no room for is refused with our own error, unchanged and not retried; nothing arrives."""

    async def scenario():
        async with face.client(server, max_retries=2) as client:
            with sw.Run(budget=sw.Budget(**limit), prices=PRICES) as run:
                with pytest.raises(sw.BudgetExceededError) as caught:
                    await face.ask(client)
        return run, caught.value

    run, error = play(scenario)
    assert server.count == 0
    assert (error.limit, error.phase, error.reason, error.__cause__) == (next(iter(limit)), "reserve", "no_room", None)
    assert (run.total, run.held, run.uncertain) == (sw.Usage(), sw.Usage(), sw.Usage())


def test_the_limit_that_arrives_is_the_one_that_was_granted(server, speaking):
    """A request is bounded by what its budget has room for, under the caller's own name for it."""
    room = speaking.min_output + 3

    async def scenario():
        async with speaking.client(server) as client:
            for output in (100, None):
                with sw.Run(budget=sw.Budget(max_output_tokens=room)):
                    await speaking.ask(client, output=output)

    play(scenario)
    assert [speaking.limit_in(request.body) for request in server.requests] == [room, room]


def test_no_limit_below_the_apis_minimum_is_sent(server, speaking):
    """Room for less than the API takes is no room: refused, and the least that would be is named."""

    async def scenario():
        async with speaking.client(server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=speaking.min_output - 1)):
                with pytest.raises(sw.BudgetExceededError) as caught:
                    await speaking.ask(client, output=100)
        return caught.value

    assert play(scenario).requested == speaking.min_output
    assert server.count == 0


@pytest.mark.parametrize("budget", [None, sw.Budget(max_calls=9, max_seconds=600)], ids=["none", "calls"])
def test_without_a_token_or_dollar_limit_nothing_is_touched(server, face, budget):
    """Where no limit needs it, the request that arrives is the one that an unguarded client sends; it is counted."""

    async def scenario():
        for output in (20, 20 if face.names_limit else None):
            async with face.client(server, is_guarded=False) as plain:
                await face.ask(plain, output=output)
            async with face.client(server) as client:
                with sw.Run(budget=budget) as run:
                    await face.ask(client, output=output)
        return run

    assert play(scenario).total.calls == 1
    bodies = [request.body for request in server.requests]
    assert (bodies[0], bodies[2]) == (bodies[1], bodies[3])


def test_every_attempt_is_reserved(server, retrying):
    """An SDK's own retries take a hold each, and are granted what the ones before have left."""
    server.enqueue(Failure(500, retry_after=0.01), Failure(429, retry_after=0.01), Failure(500, retry_after=0.01))

    async def scenario():
        async with retrying.client(server, max_retries=3) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=56)) as run:
                await retrying.ask(client)
        return run

    run = play(scenario)
    assert server.count == 4
    assert (run.total.calls, run.total.estimated_calls, run.held) == (3, 2, sw.Usage())
    if retrying.has_output:
        assert [retrying.limit_in(request.body) for request in server.requests] == [20, 20, 20, 16]
        assert run.uncertain.output_tokens == 40


def test_a_refusal_on_a_later_attempt_arrives_unchanged(server, retrying):
    """When a retry finds no room, the caller gets our error, and nothing more is sent."""
    server.default = Failure(500, retry_after=0.01)

    async def scenario():
        async with retrying.client(server, max_retries=5) as client:
            with sw.Run(budget=sw.Budget(max_calls=2)), pytest.raises(sw.BudgetExceededError) as caught:
                await retrying.ask(client)
        return caught.value

    assert (play(scenario).limit, server.count) == ("max_calls", 2)


def test_usage_is_settled_from_the_reply_and_each_token_priced_once(server, face):
    """Input, output, cache reads and reasoning are the reply's; what a whole contains is not paid for twice."""
    server.default = Reply(input_tokens=7, output_tokens=3, cached_tokens=2, reasoning_tokens=1)

    async def scenario():
        async with face.client(server) as client:
            with sw.Run(prices=PRICES, budget=sw.Budget(max_usd=1_000)) as run, sw.step("s"):
                await face.ask(client)
        return run

    run = play(scenario)
    expected = sw.Usage(input_tokens=7, cost_usd=7, calls=1)
    if face.has_output:
        # 5 at a dollar, 2 at a quarter, 3 at two dollars
        expected = sw.Usage(
            input_tokens=7, output_tokens=3, cache_read_tokens=2, reasoning_tokens=1, cost_usd=Decimal("11.5"), calls=1
        )
    assert run.total == run.receipts[0].own == expected


def test_the_model_that_answered_is_priced_and_recorded(server, face):
    """A reply that names another model than was asked for is priced as that one, and that one is on the receipt."""
    server.default = Reply(model="m-dated", input_tokens=2, output_tokens=1)
    prices = {**PRICES, "m-dated": {"input": 3_000_000, "output": 5_000_000}}

    async def scenario():
        async with face.client(server) as client:
            with sw.Run(prices=prices, budget=sw.Budget(max_usd=1_000)) as run, sw.step("s"):
                await face.ask(client)
        return run.receipts[0]

    receipt = play(scenario)
    assert receipt.own.cost_usd == (11 if face.has_output else 6)
    assert [(call.model, call.outcome) for call in receipt.calls] == [("m-dated", "settled")]


def test_an_unpriced_model_is_refused_under_a_dollar_limit_and_else_counted(server, face):
    """A model without a price never meets a USD limit; without one the call is made, and counted as unpriced."""

    async def scenario():
        async with face.client(server) as client:
            with sw.Run(budget=sw.Budget(max_usd=1)), pytest.raises(sw.UnpricedModelError, match="nobody-knows"):
                await face.ask(client, model="nobody-knows")
            assert server.count == 0
            with sw.Run(budget=sw.Budget(max_tokens=999)) as run:
                await face.ask(client, model="nobody-knows")
        return run.total

    total = play(scenario)
    assert (total.calls, total.unpriced_calls, total.cost_usd) == (1, 1, 0)


def test_a_reply_is_not_thrown_away_because_settling_it_passes_a_limit(server, face):
    """What was paid for is given back whole; the excess is shown, and the next call is refused."""
    server.enqueue(Reply(text="ok", input_tokens=190, output_tokens=20))

    async def scenario():
        async with face.client(server) as client:
            with sw.Run() as run, sw.step("s", budget=sw.Budget(max_tokens=100), error_boundary="continue"):
                assert await face.ask(client) == "ok"
                await face.ask(client)
        return run.receipts[0]

    receipt = play(scenario)
    over = 110 if face.has_output else 90
    assert (receipt.status, receipt.overshoot.total_tokens, receipt.own.calls) == (sw.Status.SKIPPED, over, 1)
    assert server.count == 1


def test_the_steps_default_model_is_used_where_the_call_names_none(server, face):
    """A call without a model is sent, priced and recorded with the default in force, without the provider's prefix."""

    async def scenario():
        async with face.client(server) as client:
            with (
                sw.Run(prices=PRICES, budget=sw.Budget(max_usd=1_000)) as run,
                sw.step("s", model=f"{face.prefix or face.sdk}:m"),
            ):
                await face.ask(client, model=None)
                await face.ask(client, model="m")
        return run.receipts[0]

    receipt = play(scenario)
    assert [request.body["model"] for request in server.requests] == ["m", "m"]
    assert [call.model for call in receipt.calls] == ["m", "m"]


@pytest.mark.parametrize("unscoped", ["pass", "warn", "refuse"])
def test_outside_every_scope_a_call_does_what_is_configured(server, face, configure, unscoped):
    """Where no scope is, a call goes by as it was made, warns while a run is open elsewhere, or is refused."""
    configure(unscoped_calls=unscoped)

    async def call():
        async with face.client(server) as client:
            await face.ask(client)

    def alone():
        if unscoped == "refuse":
            with pytest.raises(sw.PolicyViolationError, match="outside every run"):
                play(call)
        elif unscoped == "warn":
            with pytest.warns(sw.UnscopedCallWarning, match="propagate") as warned:
                play(call)
            assert {Path(one.filename).parts[-3] for one in warned} <= {"integrations", "tests"}, "not the user's code"
        else:
            play(call)
        told.append(unscoped)

    told = []
    with sw.Run(budget=sw.Budget(max_calls=5)) as run:
        thread = threading.Thread(target=alone)
        thread.start()
        thread.join()
    assert (told, run.total.calls, server.count) == ([unscoped], 0, 0 if unscoped == "refuse" else 1)
