"""What a failed call means, row by row: given back where it was certainly not served, else set aside as uncertain."""

import asyncio
import contextlib
import contextvars
import threading

import httpx2
import openai
import pytest

import stepwarden as sw
from stepwarden.testing import Cut, Drop, Failure, Garbage, Hang, Reply, ScriptedModel
from tests.integrations.faces import HELLO, PRICES, ask, connected, done, guarded, play, read_out

NOTHING = (sw.Usage(), sw.Usage(), sw.Usage())
STREAMS = pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])


async def fail(client, *, streams=False, **request):
    """Send a request that fails, now or while its reply is read."""
    with pytest.raises((openai.OpenAIError, ValueError)) as caught:
        reply = await ask(client, stream=streams, **request)
        if streams:
            await read_out(reply)
    return caught.value


@STREAMS
@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 429, 503, 529])
def test_what_was_refused_sets_nothing_aside(server, kind, status, streams):
    """Every 4xx, 503 and 529 give their holds back whole, ten times over: a limit of one call is still free."""
    server.default = Failure(status)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=60, max_calls=1, max_usd=60), prices=PRICES) as run:
                for _ in range(10):
                    error = await fail(client, streams=streams)
                    assert isinstance(error, openai.APIStatusError)
                assert (run.total, run.uncertain, run.held) == NOTHING
                assert run.remaining.max_tokens == 60

    play(scenario)
    assert server.count == 10


@STREAMS
def test_a_server_that_was_never_reached_costs_nothing(kind, streams):
    """A closed port means that nothing was sent: every attempt gives its hold back."""
    with ScriptedModel() as gone:
        address = gone.base_url

    async def scenario():
        async with connected(kind, address, max_retries=1) as plain:
            with sw.Run(budget=sw.Budget(max_tokens=60, max_calls=1)) as run:
                error = await fail(sw.guard(plain), streams=streams)
                assert type(error) is openai.APIConnectionError
                return run.total, run.uncertain, run.held

    assert play(scenario) == NOTHING


WHOLE_OR_STREAM = [Failure(500), Failure(502), Failure(504), Drop(), Garbage(), Garbage(b"\xff\xfe")]
WHOLE = [Garbage(b"{}"), Garbage(b"[]"), Garbage(b'{"choices": null}'), Cut(Reply())]
STREAM = [Cut(Reply(), after_chunks=0)]
UNKNOWN = [
    *((failing, streams) for failing in WHOLE_OR_STREAM for streams in (False, True)),
    *((failing, False) for failing in WHOLE),
    *((failing, True) for failing in STREAM),
]


@pytest.mark.parametrize(("failing", "streams"), UNKNOWN, ids=range(len(UNKNOWN)))
def test_what_may_have_been_served_is_uncertain(server, kind, failing, streams):
    """Other 5xx, a reset and an unreadable body charge the input as estimated and set the rest aside."""
    server.default = failing

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=60, max_usd=90), prices=PRICES) as run, sw.step("s"):
                # The SDK itself takes some odd bodies for a reply.
                with contextlib.suppress(openai.OpenAIError, ValueError):
                    reply = await ask(client, stream=streams)
                    if streams:
                        await read_out(reply)
                spent = run.total.input_tokens
                left = run.remaining
        return run, spent, left

    run, spent, left = play(scenario)
    assert (run.total.calls, run.total.estimated_calls, run.total.output_tokens) == (1, 1, 0)
    assert run.uncertain.output_tokens == 10
    assert run.uncertain.cost_usd == 20
    assert (left.max_tokens, left.max_usd) == (60 - spent - 10, 90 - spent - 20)
    assert [call.outcome for call in run.receipts[0].calls] == ["uncertain"]


@STREAMS
def test_a_timeout_after_sending_is_uncertain(server, kind, streams):
    """A call that nobody answered in time may still be served, and so may each of its retries."""
    server.default = Hang()

    async def scenario():
        async with guarded(kind, server, timeout=0.1, max_retries=1) as client:
            with sw.Run(budget=sw.Budget(max_tokens=200)) as run:
                assert isinstance(await fail(client, streams=streams), openai.APITimeoutError)
        return run

    run = play(scenario)
    assert server.count == run.total.calls == run.total.estimated_calls == 2
    assert run.uncertain.output_tokens == 20


def test_no_free_connection_is_no_call(server, kind):
    """A request that found no connection free in time was never sent, so its hold is given back."""
    server.default = Reply(text="word " * 100, chunk_delay=0.05)
    make = openai.DefaultHttpxClient if kind is openai.OpenAI else openai.DefaultAsyncHttpxClient

    async def scenario():
        http = make(limits=httpx2.Limits(max_connections=1))
        timeout = openai.Timeout(5, pool=0.05)
        async with guarded(kind, server, http_client=http, timeout=timeout) as client:
            with sw.Run(budget=sw.Budget(max_tokens=999)) as run:
                stream = await ask(client, stream=True, max_tokens=100)
                held = run.held
                assert isinstance(await fail(client), openai.APITimeoutError)
                assert (run.held, run.uncertain, run.total) == (held, sw.Usage(), sw.Usage())
                await done(stream.close())

    play(scenario)
    assert server.count == 1


def test_a_call_that_is_cancelled_after_sending_is_uncertain(server):
    """Cancelled while it waits for the reply, a call may be served all the same."""
    server.default = Hang()

    async def scenario():
        async with guarded(openai.AsyncOpenAI, server, max_retries=2) as client:
            async with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
                task = asyncio.create_task(ask(client))
                await asyncio.to_thread(server.wait_for, 1)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                assert run.held == sw.Usage()
                return run.uncertain

    assert play(scenario).output_tokens == 10
    assert server.count == 1


def test_a_caller_that_is_cancelled_while_it_waits_for_room_sends_nothing(server):
    """A caller that leaves the queue leaves nothing behind, neither a hold nor a request."""
    server.default = Hang()

    async def scenario():
        async with guarded(openai.AsyncOpenAI, server) as client:
            async with sw.Run(budget=sw.Budget(max_calls=1)) as run:
                first = asyncio.create_task(ask(client))
                await asyncio.to_thread(server.wait_for, 1)
                second = asyncio.create_task(ask(client))
                await asyncio.sleep(0.05)
                assert not second.done()
                second.cancel()
                await asyncio.wait([second])
                first.cancel()
                await asyncio.wait([first])
                return run.held, run.total.calls

    assert play(scenario) == (sw.Usage(), 1)
    assert server.count == 1


def test_a_later_step_sees_what_is_uncertain(server, kind):
    """What is set aside counts around the step that ended, until that scope ends too."""
    server.enqueue(Failure(500))

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run() as run, sw.step("outer", budget=sw.Budget(max_output_tokens=15)) as outer:
                with sw.step("first"):
                    await fail(client)
                with sw.step("second") as second:
                    assert second.uncertain == sw.Usage()
                    assert second.remaining.max_output_tokens == outer.remaining.max_output_tokens == 5
                    await ask(client)
                    with pytest.raises(sw.BudgetExceededError, match="10 uncertain"):
                        await ask(client, n=9)
        return run

    run = play(scenario)
    assert server.requests[1].body["max_tokens"] == 5
    assert {receipt.name: receipt.uncertain.output_tokens for receipt in run.receipts} == {
        "first": 10, "second": 0, "outer": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("failures", "calls"),
    [
        ([Failure(429, retry_after=0.01)] * 2, 1),
        ([Failure(500, retry_after=0.01)] * 2, 3),
        ([Failure(429, retry_after=0.01), Failure(500, retry_after=0.01)], 2),
        ([Failure(503, retry_after=0.01), Failure(409, retry_after=0.01)], 1),
    ],
    ids=["429", "500", "429 and 500", "503 and 409"],
)
@STREAMS
def test_every_attempt_of_a_retry_is_reserved(server, kind, failures, calls, streams):
    """The SDK's own retries take a hold each: what may have been served counts as calls, with the one that was."""
    server.enqueue(*failures, Reply(input_tokens=3, output_tokens=2))

    async def scenario():
        async with guarded(kind, server, max_retries=2) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500, max_calls=calls)) as run, sw.step("s"):
                reply = await ask(client, stream=streams)
                if streams:
                    await read_out(reply)
        return run

    run = play(scenario)
    assert server.count == 3
    assert (run.total.calls, run.total.estimated_calls) == (calls, calls - 1)
    assert run.uncertain.output_tokens == 10 * (calls - 1)
    assert [call.outcome for call in run.receipts[0].calls] == ["uncertain"] * (calls - 1) + ["settled"]


@STREAMS
def test_a_refusal_on_a_retry_arrives_unchanged(server, kind, streams):
    """When a later attempt finds no room, the caller gets our error, and nothing more is sent."""
    server.default = Failure(500, retry_after=0.01)

    async def scenario():
        async with guarded(kind, server, max_retries=5) as client:
            with sw.Run(budget=sw.Budget(max_calls=2)), pytest.raises(sw.BudgetExceededError) as caught:
                await ask(client, stream=streams)
        return caught.value

    error = play(scenario)
    assert (error.limit, error.consumed, server.count) == ("max_calls", 2, 2)


@pytest.fixture
def crowded():
    """Open a run whose only call is held by somebody else."""
    with sw.Run(budget=sw.Budget(max_calls=1)) as run:
        hold = contextvars.copy_context().run(sw.reserve(output_tokens=1).acquire)
        yield run
        hold.release()


def test_a_caller_waits_for_room_no_longer_than_its_clients_timeout(server, crowded):
    """The wait for others' holds ends with the client's own time-out, as our error, which the SDK does not retry."""
    with openai.OpenAI(base_url=server.base_url, api_key="none", timeout=0.05, max_retries=3) as plain:
        with pytest.raises(sw.ReserveTimeoutError, match="max_calls"):
            sw.guard(plain).chat.completions.create(model="m", messages=HELLO)
    assert (server.count, crowded.held.calls) == (0, 1)


def test_a_waiting_caller_goes_on_when_room_is_made(server, crowded):
    """A call that fits only because another gives its hold back waits for it, and is sent then."""

    def work():
        with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as plain:
            sw.guard(plain).chat.completions.create(model="m", messages=HELLO)

    with sw.step("s", budget=sw.Budget(max_calls=5)) as step:
        thread = threading.Thread(target=sw.propagate(work))
        thread.start()
        crowded.extend(sw.Budget(max_calls=2))
        thread.join()
        assert (server.count, step.own.calls) == (1, 1)


def test_a_sync_client_that_would_freeze_a_loop_is_refused(server, crowded):
    """A sync client that must wait on an event loop's thread gets our error instead, and nothing is sent."""

    async def scenario():
        with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=3) as plain:
            with pytest.raises(sw.WouldBlockError):
                sw.guard(plain).chat.completions.create(model="m", messages=HELLO)

    play(scenario)
    assert server.count == 0
