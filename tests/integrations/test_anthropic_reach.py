"""What the guard reaches: every way into the Anthropic SDK, its subclasses, and streams that say that they failed."""

import json

import anthropic
import pydantic
import pytest

import stepwarden as sw
from stepwarden.testing import Reply
from stepwarden.testing._loopback import LoopbackServer
from tests.integrations.faces import HELLO, done, play, read_out

GIVEN = {"model": "m", "messages": HELLO, "max_tokens": 10}


class City(pydantic.BaseModel):
    """A reply with a schema."""

    name: str


@pytest.fixture(params=[anthropic.Anthropic, anthropic.AsyncAnthropic], ids=["sync", "async"])
def kind(request):
    """Give each face of the SDK in turn."""
    return request.param


def is_async(client):
    """Tell which face a client is."""
    return isinstance(client, anthropic.AsyncAnthropic)


def connected(kind, address, **options):
    """Make a client that does not retry."""
    http = anthropic.DefaultAsyncHttpxClient if kind is anthropic.AsyncAnthropic else anthropic.DefaultHttpxClient
    return kind(base_url=address, api_key="none", max_retries=0, http_client=http(verify=False), **options)


async def raw(client):
    """Ask for the raw response."""
    response = await done(client.messages.with_raw_response.create(**GIVEN))
    assert (await done(response.parse())).content


async def streaming(client):
    """Ask for a response that is read later."""
    manager = client.messages.with_streaming_response.create(**GIVEN)
    if is_async(client):
        async with manager as response:
            assert (await response.parse()).content
    else:
        with manager as response:
            assert response.parse().content


async def parsed(client):
    """Ask for a reply with a schema."""
    reply = await done(client.messages.parse(**GIVEN, output_format=City))
    assert reply.parsed_output == City(name="Bern")


async def helper(client):
    """Use the SDK's stream helper."""
    await helped(client, client.messages)


async def beta_helper(client):
    """Use the helper of the beta resource."""
    await helped(client, client.beta.messages)


async def helped(client, messages):
    """Stream by a helper, and read its text alone."""
    if is_async(client):
        async with messages.stream(**GIVEN) as stream:
            assert "".join([text async for text in stream.text_stream])
    else:
        with messages.stream(**GIVEN) as stream:
            assert "".join(stream.text_stream)


async def posted(client):
    """Use the client's own `post`."""
    assert await done(client.post("/v1/messages", body=GIVEN, cast_to=object))


async def streamed_raw(client):
    """Stream through the raw response."""
    response = await done(client.messages.with_raw_response.create(**GIVEN, stream=True))
    assert await read_out(await done(response.parse()))


async def with_options(client):
    """Ask by a copy with other options."""
    assert (await done(client.with_options(timeout=30).messages.create(**GIVEN))).content


async def run_tools(client):
    """Let the SDK run an agent's loop."""
    runner = client.beta.messages.tool_runner(**GIVEN, tools=[])
    assert (await done(runner.until_done())).content


WAYS = [raw, streaming, parsed, helper, beta_helper, posted, streamed_raw, with_options, run_tools]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_installed", [False, True], ids=["guard", "install"])
def test_every_way_into_the_sdk_is_guarded(server, kind, way, is_installed):
    """Raw, streamed, parsed and posted requests are held, limited and settled like plain ones."""
    server.default = Reply(text=json.dumps({"name": "Bern"}), input_tokens=5, output_tokens=4)

    async def scenario():
        plain = connected(kind, server.origin)
        if is_installed:
            sw.install("anthropic")
        client = plain if is_installed else sw.guard(plain)
        try:
            with sw.Run(budget=sw.Budget(max_output_tokens=9)) as run:
                await way(client)
                assert run.held == sw.Usage()
            with sw.Run(budget=sw.Budget(max_tokens=1)), pytest.raises(sw.BudgetExceededError):
                await way(client)
        finally:
            sw.uninstall("anthropic")
            await done(plain.close())
        return run

    run = play(scenario)
    assert server.count == 1
    assert server.requests[0].body["max_tokens"] == 9
    assert run.total == sw.Usage(input_tokens=5, output_tokens=4, calls=1, unpriced_calls=1)


def test_batches_are_refused_or_passed(server, kind):
    """A batch is not sent by a guarded client, plain or beta, unless it is let by; then it counts nowhere."""

    async def scenario():
        plain = connected(kind, server.origin)
        with sw.Run() as run:
            for messages in (sw.guard(plain).messages, sw.guard(plain).beta.messages):
                with pytest.raises(sw.PolicyViolationError, match="messages/batches"):
                    await done(messages.batches.create(requests=[]))
            assert server.count == 0
            with pytest.raises(anthropic.NotFoundError):
                await done(sw.guard(plain, allow=["messages/batches"]).messages.batches.create(requests=[]))
        await done(plain.close())
        return run

    assert (play(scenario).total.calls, server.count) == (0, 1)


class Tagging(anthropic.Anthropic):
    """Be a client that adds a header of its own."""

    @property
    def default_headers(self):
        return {**super().default_headers, "x-team": "a"}


def test_a_subclass_is_guarded_and_stays_what_it_is(server):
    """What a subclass adds is sent, by its guarded copy and by a copy of that."""
    with connected(Tagging, server.origin) as plain, sw.Run(budget=sw.Budget(max_calls=2)) as run:
        client = sw.guard(plain)
        for one in (client, client.copy()):
            assert isinstance(one, Tagging)
            one.messages.create(**GIVEN)
        with pytest.raises(sw.BudgetExceededError):
            client.copy().messages.create(**GIVEN)
    assert [request.headers["x-team"] for request in server.requests] == ["a", "a"]
    assert run.total.calls == 2


@pytest.fixture
def failing():
    """Serve a stream that says "one two" and then that the server is overloaded."""

    async def handle(request, connection):
        connection.start_stream({"content-type": "text/event-stream"})
        message = {"id": "1", "type": "message", "role": "assistant", "content": [], "model": "m"}
        events = [
            {"type": "message_start", "message": {**message, "usage": {"input_tokens": 7, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one two"}},
            {"type": "error", "error": {"type": "overloaded_error", "message": "later"}},
        ]
        for event in events:
            connection.send_chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    server = LoopbackServer(handle)
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def test_a_stream_that_says_that_it_failed_is_counted_from_what_arrived(failing, kind):
    """What a server sent before the error inside its stream is paid for: its input as told, its output as it arrived."""

    async def scenario():
        plain = connected(kind, failing)
        with sw.Run(budget=sw.Budget(max_tokens=500)) as run, pytest.raises(anthropic.APIStatusError):
            await read_out(await done(sw.guard(plain).messages.create(**GIVEN, stream=True)))
        await done(plain.close())
        return run

    run = play(scenario)
    assert (run.total.calls, run.total.estimated_calls, run.held, run.uncertain) == (1, 1, sw.Usage(), sw.Usage())
    assert run.total.input_tokens == 7
    assert 1 <= run.total.output_tokens <= 10
