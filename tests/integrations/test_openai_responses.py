"""The Responses API under the guard: every way into it, input that the server holds, and what is made in background."""

import json
import threading
from decimal import Decimal

import openai
import pydantic
import pytest

import stepwarden as sw
from stepwarden.integrations._responses import ResponsesCall
from stepwarden.testing import Cut, Reply, ToolCall
from stepwarden.testing._loopback import LoopbackServer
from tests.integrations.faces import PRICES, connected, done, guarded, pieces, play, read_out


class City(pydantic.BaseModel):
    """A reply with a schema."""

    name: str


def request(**given):
    """Make one small request."""
    return {"model": "m", "input": "hello", "max_output_tokens": 30, **given}


async def created(client):
    """Ask plainly."""
    assert (await done(client.responses.create(**request()))).output_text


async def streamed(client):
    """Ask for a stream."""
    assert await read_out(await done(client.responses.create(**request(stream=True))))


async def parsed(client):
    """Ask for a reply with a schema."""
    response = await done(client.responses.parse(**request(text_format=City)))
    assert response.output_parsed == City(name="Bern")


async def helper(client):
    """Use the SDK's stream helper."""
    manager = client.responses.stream(**request())
    if isinstance(client, openai.AsyncOpenAI):
        async with manager as stream:
            assert (await stream.get_final_response()).output_text
    else:
        with manager as stream:
            assert stream.get_final_response().output_text


async def raw(client):
    """Ask for the raw response."""
    response = await done(client.responses.with_raw_response.create(**request()))
    assert (await done(response.parse())).output_text


async def streaming(client):
    """Ask for a response that is read later."""
    manager = client.responses.with_streaming_response.create(**request())
    if isinstance(client, openai.AsyncOpenAI):
        async with manager as response:
            assert (await response.parse()).output_text
    else:
        with manager as response:
            assert response.parse().output_text


async def beta(client):
    """Use the beta resource."""
    assert (await done(client.beta.responses.create(**request()))).output


async def copied(client):
    """Use a copy with options of its own."""
    assert (await done(client.with_options(timeout=9).responses.create(**request()))).output_text


@pytest.mark.parametrize("way", [created, streamed, parsed, helper, raw, streaming, beta, copied])
def test_every_way_into_the_api_is_guarded(server, kind, way):
    """Whatever the SDK's own way, a response is held, limited and settled once, or refused and not sent."""
    server.default = Reply(text=json.dumps({"name": "Bern"}), input_tokens=5, output_tokens=4)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=19)) as run:
                await way(client)
                assert run.held == sw.Usage()
            with sw.Run(budget=sw.Budget(max_output_tokens=15)), pytest.raises(sw.BudgetExceededError):
                await way(client)
        return run

    run = play(scenario)
    assert server.count == 1
    assert server.requests[0].body["max_output_tokens"] == 19
    assert run.total == sw.Usage(input_tokens=5, output_tokens=4, calls=1, unpriced_calls=1)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_tool_calls_without_usage_are_counted_from_what_arrived(server, kind, stream):
    """The arguments of a tool call are output like text; a reply without usage is estimated by them."""
    server.default = Reply(text="", tool_calls=[ToolCall("find", {"what": "a needle " * 9})], include_usage=False)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=900)) as run:
                reply = await done(client.responses.create(**request(max_output_tokens=200, stream=stream)))
                if stream:
                    await read_out(reply)
        return run.total

    total = play(scenario)
    served = server.usage.output_tokens
    assert served <= total.output_tokens <= 2 * served
    assert (total.calls, total.estimated_calls) == (1, 1)


@pytest.mark.parametrize("how", ["previous_response_id", "conversation"])
def test_a_request_that_goes_on_is_estimated_with_what_came_before(server, kind, how):
    """What the server holds after a response is known from its usage, and is input of the one that goes on."""
    server.default = lambda received: Reply(input_tokens=500, output_tokens=30)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run():
                first = {"conversation": {"id": f"conv-{kind.__name__}"}} if how == "conversation" else {}
                response = await done(client.responses.create(**request(**first)))
            if how == "conversation":
                later = {"conversation": f"conv-{kind.__name__}"}
            else:
                later = {"previous_response_id": response.id}
            with sw.Run(budget=sw.Budget(max_input_tokens=510)), pytest.raises(sw.BudgetExceededError) as caught:
                await done(client.responses.create(**request(**later)))
            with sw.Run(budget=sw.Budget(max_input_tokens=510)) as run:
                await done(client.responses.create(**request(previous_response_id="unknown")))
        return caught.value, run

    error, run = play(scenario)
    assert 530 < error.requested < 580
    assert run.total.calls == 1
    assert server.count == 2


def test_a_template_names_its_own_model(server):
    """A request by a prompt template is not given the step's model, which would replace the template's."""
    call = ResponsesCall({"prompt": {"id": "pmpt_1", "variables": {"city": "Bern"}}, "input": "hello"})
    assert (call.model, call.body(None)) == (None, None)
    with sw.step("s", model="openai:m"):
        assert ResponsesCall({"prompt": {"id": "pmpt_1"}}).model is None
        assert json.loads(ResponsesCall({"input": "hello"}).body(20)) == {
            "input": "hello", "model": "m", "max_output_tokens": 20,
        }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "broken stream"])
def test_a_background_response_is_set_aside_until_it_is_retrieved(kind, stream):
    """What is made after its request was answered is bounded, uncertain, and settled when it is retrieved."""
    ended = {
        "id": "resp_7", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": [],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "usage": {
            "input_tokens": 5, "output_tokens": 4, "total_tokens": 9, "input_tokens_details": {"cached_tokens": 2},
            "output_tokens_details": {"reasoning_tokens": 1},
        },
    }  # fmt: skip
    queued = {**ended, "status": "queued", "usage": None}
    seen = []

    async def handle(received, connection):
        seen.append((received.method, received.target, json.loads(received.body or b"{}")))
        if received.method == "POST" and stream:
            event = {"type": "response.created", "sequence_number": 0, "response": queued}
            connection.start_stream({"content-type": "text/event-stream"})
            connection.send_chunk(b"data: %s\n\n" % json.dumps(event).encode(), last=True)
        elif received.method == "POST":
            connection.respond(200, {"content-type": "application/json"}, json.dumps(queued).encode())
        else:
            # Polled once too early.
            body = ended if len(seen) > 2 else queued
            connection.respond(200, {"content-type": "application/json"}, json.dumps(body).encode())

    server = LoopbackServer(handle)

    async def scenario():
        async with connected(kind, f"http://127.0.0.1:{server.port}/v1") as plain:
            client = sw.guard(plain)
            with sw.Run(budget=sw.Budget(max_tokens=500, max_usd=500), prices=PRICES) as run:
                reply = await done(client.responses.create(**request(background=True, stream=stream)))
                if stream:
                    await read_out(reply)
                assert (run.uncertain.output_tokens, run.total.calls, run.held) == (30, 1, sw.Usage())
                await done(client.responses.retrieve("resp_7"))
                assert run.uncertain.output_tokens == 30
                await done(client.responses.retrieve("resp_7"))
                await done(client.responses.retrieve("resp_7"))
        return run

    try:
        run = play(scenario)
    finally:
        server.close()
    assert (seen[0][2]["max_output_tokens"], len(seen)) == (30, 4)
    assert run.uncertain == sw.Usage()
    assert run.total == sw.Usage(
        input_tokens=5, output_tokens=4, cache_read_tokens=2, reasoning_tokens=1, cost_usd=Decimal("11.5"), calls=1
    )


def test_a_broken_stream_in_the_foreground_is_estimated(server, kind):
    """Only what goes on in the background stays uncertain; a stream that broke is counted from what arrived."""
    server.default = Cut(Reply("word " * 20), after_chunks=8)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                with pytest.raises(openai.APIError):
                    async for _ in pieces(await done(client.responses.create(**request(stream=True)))):
                        pass
        return run

    run = play(scenario)
    assert run.uncertain == sw.Usage()
    assert run.total.output_tokens > 0


def test_threads_that_remember_and_settle_at_once_lose_nothing(server):
    """Responses that end at the same time are remembered each, whoever goes on from them."""
    server.default = lambda received: Reply(input_tokens=100, output_tokens=10)
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as plain, sw.Run():
        client = sw.guard(plain)
        found = []

        def work():
            response = client.responses.create(**request())
            found.append(ResponsesCall({"previous_response_id": response.id, "input": "x"}).asked.likely())

        threads = [threading.Thread(target=sw.propagate(work)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 8
    assert all(tokens > 110 for tokens in found)
