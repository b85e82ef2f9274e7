"""`guard` on the OpenAI SDK: refused, settled, given back; every way into the SDK and every kind of client."""

from decimal import Decimal

import pytest

import stepwarden as sw
from stepwarden.testing import Reply
from tests.integrations.faces import PRICES, ask, connected, guarded, play, read_out


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_refused_call_reaches_no_server_and_its_error_arrives_unchanged(server, kind, streams):
    """What there is no room for is refused with our own error, not wrapped and not retried, and nothing is sent."""

    async def scenario():
        async with guarded(kind, server, max_retries=3) as client:
            with sw.Run(budget=sw.Budget(max_tokens=5)), sw.step("small"):
                with pytest.raises(sw.BudgetExceededError, match="has no room in max_tokens") as caught:
                    await ask(client, stream=streams)
        return caught.value

    error = play(scenario)
    assert server.count == 0
    assert (error.scope_kind, error.limit, error.limit_value, error.phase) == ("run", "max_tokens", 5, "reserve")
    assert error.__cause__ is None


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_cached_and_reasoning_tokens_are_priced_once(server, kind, streams):
    """Cache reads are a part of the input and reasoning is a part of the output; each token is paid for once."""
    server.default = Reply(input_tokens=7, output_tokens=3, cached_tokens=2, reasoning_tokens=1)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(prices=PRICES, budget=sw.Budget(max_usd=1_000)) as run, sw.step("s"):
                reply = await ask(client, stream=streams)
                if streams:
                    await read_out(reply)
        return run

    run = play(scenario)
    assert run.receipts[0].own == run.total
    assert run.total == sw.Usage(
        input_tokens=7,
        output_tokens=3,
        cache_read_tokens=2,
        reasoning_tokens=1,
        cost_usd=Decimal("11.5"),  # 5 at a dollar, 2 at a quarter, 3 at two dollars
        calls=1,
    )


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"prompt_tokens": 2, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
            sw.Usage(input_tokens=4, output_tokens=3, cache_read_tokens=4, cost_usd=Decimal(7), calls=1),
        ),
        ({"prompt_tokens": 2, "completion_tokens": 1 << 60}, None),
        ({"prompt_tokens": 1 << 60, "completion_tokens": 3}, None),
    ],
    ids=["cached beside", "output", "input"],
)
def test_counts_that_cannot_be_right_throw_no_reply_away(server, kind, streams, usage, expected):
    """Cache reads beside the input are counted inside; a count that no call can have is one that was not said."""
    server.default = Reply(text="paid for", usage=usage)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(prices=PRICES, budget=sw.Budget(max_usd=1_000)) as run:
                reply = await ask(client, stream=streams)
                if streams:
                    await read_out(reply)
                assert (run.held, run.uncertain) == (sw.Usage(), sw.Usage())
        return run.total

    total = play(scenario)
    if expected is None:
        assert (total.calls, total.estimated_calls) == (1, 1)
        assert min(total.input_tokens, total.output_tokens) > 0
    else:
        assert total == expected


@pytest.mark.parametrize("limit", [1 << 45, 1 << 52, 1 << 60])
def test_an_output_limit_that_no_call_can_reach_is_none(server, kind, limit):
    """A limit so large limits nothing: the call gets what the step assumes, and is no error of ours."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=999)), sw.step("s", default_max_output_tokens=32):
                await ask(client, max_tokens=limit)

    play(scenario)
    assert server.requests[0].body["max_tokens"] == 32


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_the_model_that_answered_is_priced_and_recorded(server, kind, streams):
    """A reply that names another model than was asked for is priced as that one, and that one is on the receipt."""
    server.default = Reply(model="m-dated", input_tokens=2, output_tokens=1)
    prices = {**PRICES, "m-dated": {"input": 3_000_000, "output": 5_000_000}}

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(prices=prices, budget=sw.Budget(max_usd=1_000)) as run, sw.step("s"):
                reply = await ask(client, stream=streams)
                if streams:
                    await read_out(reply)
        return run.receipts[0]

    receipt = play(scenario)
    assert receipt.own.cost_usd == Decimal(11)
    assert receipt.model == "m-dated"
    assert [(call.model, call.outcome) for call in receipt.calls] == [("m-dated", "settled")]


def test_an_answering_model_without_a_price_costs_what_was_reserved_for(server, kind):
    """Where the reply names a model that nobody can price, the price of the one that was asked for is charged."""
    server.default = Reply(model="nobody-knows", input_tokens=2, output_tokens=1)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(prices=PRICES, budget=sw.Budget(max_usd=1_000)) as run:
                await ask(client)
        return run

    run = play(scenario)
    assert (run.total.cost_usd, run.total.unpriced_calls) == (Decimal(4), 0)


def test_an_unpriced_model_is_refused_under_a_dollar_limit_and_else_counted(server, kind):
    """A model without a price never meets a USD limit; without one the call is made, and counted as unpriced."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_usd=1)), sw.step("inner"):
                with pytest.raises(sw.UnpricedModelError, match="nobody-knows"):
                    await ask(client, model="nobody-knows")
            assert server.count == 0
            with sw.Run(budget=sw.Budget(max_tokens=999)) as run:
                await ask(client, model="nobody-knows")
        return run

    run = play(scenario)
    assert (run.total.calls, run.total.unpriced_calls, run.total.cost_usd) == (1, 1, 0)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_reply_that_passes_a_limit_is_given_back(server, kind, streams):
    """What was paid for is given back whole though it passes a limit; the excess is shown, the next call refused."""
    usage = {"prompt_tokens": 90, "completion_tokens": 30, "total_tokens": 120}
    server.enqueue(Reply(text="paid for", usage=usage))

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run() as run, sw.step("s", budget=sw.Budget(max_tokens=100), error_boundary="continue"):
                reply = await ask(client, stream=streams)
                if streams:
                    said = "".join(c.choices[0].delta.content or "" for c in await read_out(reply) if c.choices)
                else:
                    said = reply.choices[0].message.content
                assert said == "paid for"
                await ask(client)
        return run.receipts[0]

    receipt = play(scenario)
    assert (receipt.status, receipt.overshoot.total_tokens, receipt.own.calls) == (sw.Status.SKIPPED, 20, 1)
    assert server.count == 1


def test_the_client_given_stays_unguarded(server, kind):
    """`guard` makes a copy of the client's own class; what the one given sends is counted nowhere."""

    async def scenario():
        async with connected(kind, server.base_url) as plain:
            client = sw.guard(plain)
            assert type(client) is kind
            with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
                await ask(plain)
                assert run.total.calls == 0
                await ask(client)
        return run

    assert play(scenario).total.calls == 1
    assert "stream_options" not in server.requests[0].body


@pytest.mark.parametrize(
    "copied",
    [
        sw.guard,
        lambda client: client.with_options(timeout=9),
        lambda client: client.copy(),
        lambda client: sw.guard(client.with_options(max_retries=0).copy(timeout=3)),
    ],
    ids=["guard", "with_options", "copy", "all"],
)
def test_a_copy_of_a_guarded_client_is_guarded_once(server, kind, copied):
    """Guarded again, or copied by the SDK's own means, a client reserves each call exactly once."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_calls=1)) as run:
                await ask(copied(client))
                with pytest.raises(sw.BudgetExceededError):
                    await ask(copied(client))
        return run

    assert play(scenario).total.calls == server.count == 1


def test_options_given_to_a_guarded_client_hold(server, kind):
    """`with_options` changes what it is asked to and nothing else."""

    async def scenario():
        async with guarded(kind, server, default_headers={"x-team": "a"}) as client:
            copied = client.with_options(max_retries=7)
            assert (copied.max_retries, client.max_retries) == (7, 0)
            with sw.Run():
                await ask(copied)

    play(scenario)
    assert server.requests[0].headers["x-team"] == "a"
