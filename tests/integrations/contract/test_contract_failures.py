"""The contract, 6: what a failed call means, row by row, on every client."""

import asyncio

import pytest

import stepwarden as sw
from stepwarden.testing import Cut, Drop, Failure, Garbage, Hang, Reply, ScriptedModel
from tests.integrations.contract.face import PRICES, play

NOTHING = (sw.Usage(), sw.Usage(), sw.Usage())


async def fail(face, client):
    """Ask, and fail now or while the reply is read."""
    with pytest.raises(face.errors) as caught:
        await face.ask(client)
    return caught.value


def test_what_was_refused_sets_nothing_aside(server, face):
    """Every 4xx, 503 and 529 give their holds back whole: after ten 429s, a limit of one call is still free."""
    statuses = [400, 401, 404, 409, 422, 503, 529, *[429] * 10]
    server.enqueue(*map(Failure, statuses))

    async def scenario():
        async with face.client(server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=200, max_calls=1, max_usd=200), prices=PRICES) as run:
                for _ in statuses:
                    await fail(face, client)
                    assert (run.total, run.uncertain, run.held) == NOTHING
                await face.ask(client)
        return run

    assert play(scenario).total.calls == 1
    assert server.count == len(statuses) + 1


def test_a_server_that_was_never_reached_costs_nothing(face):
    """A closed port means that nothing was sent: every attempt gives its hold back."""
    with ScriptedModel() as gone:
        address = gone.base_url

    async def scenario():
        async with face.client(address, max_retries=1) as client:
            with sw.Run(budget=sw.Budget(max_tokens=200, max_calls=1)) as run:
                await fail(face, client)
                return run.total, run.uncertain, run.held

    assert play(scenario) == NOTHING


UNKNOWN = [Failure(500), Failure(502), Failure(504), Drop(), Garbage(), Garbage(b"\xff\xfe")]


@pytest.mark.parametrize("failing", UNKNOWN, ids=range(len(UNKNOWN)))
def test_what_may_have_been_served_is_uncertain(server, face, failing):
    """Other 5xx, a reset and an unreadable body charge the input as estimated and set the rest aside."""
    server.default = failing

    async def scenario():
        async with face.client(server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=200, max_usd=200), prices=PRICES) as run, sw.step("s"):
                try:
                    await face.ask(client)
                except (*face.errors, AttributeError, TypeError):
                    pass  # an SDK itself may take an odd body for a reply, which then is not what it seems
                left = run.remaining.max_tokens
        return run, left

    run, left = play(scenario)
    output = 20 if face.has_output else 0
    assert (run.total.calls, run.total.estimated_calls, run.total.output_tokens) == (1, 1, 0)
    assert (run.uncertain.output_tokens, run.uncertain.cost_usd) == (output, 2 * output)
    assert left == 200 - run.total.input_tokens - output
    assert [call.outcome for call in run.receipts[0].calls] == ["uncertain"]


def test_a_whole_reply_that_breaks_off_is_uncertain(server, face):
    """Half a reply says nothing of its cost; of a stream that broke before anything came, nothing is known either."""
    server.default = Cut(Reply(text="word " * 9), after_chunks=0)

    async def scenario():
        async with face.client(server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=200)) as run:
                await fail(face, client)
                return run.uncertain, run.held

    uncertain, held = play(scenario)
    assert (uncertain.output_tokens, held) == (20 if face.has_output else 0, sw.Usage())


def test_a_time_out_after_sending_is_uncertain(server, retrying):
    """A call that nobody answered in time may still be served, and so may each of its retries."""
    server.default = Hang()

    async def scenario():
        async with retrying.client(server, timeout=0.1, max_retries=1) as client:
            with sw.Run(budget=sw.Budget(max_tokens=400)) as run:
                await fail(retrying, client)
        return run

    run = play(scenario)
    assert server.count == run.total.calls == run.total.estimated_calls == 2
    assert run.uncertain.output_tokens == (40 if retrying.has_output else 0)


def test_a_call_that_is_cancelled_after_sending_is_uncertain(server, awaited):
    """Cancelled while it waits for the reply, a call may be served all the same."""
    server.default = Hang()

    async def scenario():
        async with awaited.client(server, max_retries=2) as client:
            async with sw.Run(budget=sw.Budget(max_tokens=200)) as run:
                task = asyncio.create_task(awaited.ask(client))
                await asyncio.to_thread(server.wait_for, 1)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                return run.total.calls, run.held

    assert play(scenario) == (1, sw.Usage())
    assert server.count == 1
