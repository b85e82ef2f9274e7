"""What the guard reaches: every way into the OpenAI SDK, every kind of client, and calls outside of every scope."""

import asyncio
import json
import threading

import openai
import pydantic
import pytest

import stepwarden as sw
from stepwarden.testing import Reply, ScriptedModel
from tests.integrations.faces import HELLO, ask, connected, done, guarded, play, read_out


class City(pydantic.BaseModel):
    """A reply with a schema."""

    name: str


async def raw(client):
    """Ask for the raw response."""
    response = await done(client.chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=10))
    assert (await done(response.parse())).choices


async def streaming(client):
    """Ask for a response that is read later."""
    manager = client.chat.completions.with_streaming_response.create(model="m", messages=HELLO, max_tokens=10)
    if isinstance(client, openai.AsyncOpenAI):
        async with manager as response:
            assert (await response.parse()).choices
    else:
        with manager as response:
            assert response.parse().choices


async def parsed(client):
    """Ask for a reply with a schema."""
    reply = await done(client.chat.completions.parse(model="m", messages=HELLO, max_tokens=10, response_format=City))
    assert reply.choices[0].message.parsed == City(name="Bern")


async def helper(client):
    """Use the SDK's stream helper."""
    manager = client.chat.completions.stream(model="m", messages=HELLO, max_tokens=10)
    if isinstance(client, openai.AsyncOpenAI):
        async with manager as stream:
            assert (await stream.get_final_completion()).choices
    else:
        with manager as stream:
            assert stream.get_final_completion().choices


async def posted(client):
    """Use the client's own `post`."""
    body = {"model": "m", "messages": HELLO, "max_tokens": 10}
    assert await done(client.post("/chat/completions", body=body, cast_to=object))


async def streamed_raw(client):
    """Stream through the raw response."""
    response = await done(
        client.chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=10, stream=True)
    )
    assert await read_out(await done(response.parse()))


@pytest.mark.parametrize("way", [raw, streaming, parsed, helper, posted, streamed_raw])
def test_every_way_into_the_sdk_is_guarded(server, kind, way):
    """Raw, streamed, parsed and posted requests are held, limited and settled like plain ones."""
    server.default = Reply(text=json.dumps({"name": "Bern"}), input_tokens=5, output_tokens=4)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=9)) as run:
                await way(client)
                assert run.held == sw.Usage()
            with sw.Run(budget=sw.Budget(max_tokens=1)), pytest.raises(sw.BudgetExceededError):
                await way(client)
        return run

    run = play(scenario)
    assert server.count == 1
    assert server.requests[0].body["max_tokens"] == 9
    assert run.total == sw.Usage(input_tokens=5, output_tokens=4, calls=1, unpriced_calls=1)


def test_azure_clients_are_guarded():
    """An Azure client puts the deployment into the path; it is guarded, and so are its copies."""
    seen = []
    with (
        ScriptedModel() as server,
        openai.DefaultHttpxClient(event_hooks={"request": [seen.append]}) as http,
        openai.AzureOpenAI(
            azure_endpoint=server.base_url, api_key="none", api_version="v", max_retries=0, http_client=http
        ) as plain,
        sw.Run(budget=sw.Budget(max_output_tokens=9)) as run,
    ):
        client = sw.guard(plain)
        assert type(client) is openai.AzureOpenAI
        # The scripted server knows no deployments, so it answers 404: what counts is what was sent.
        with pytest.raises(openai.NotFoundError):
            client.with_options(timeout=5).chat.completions.create(model="m", messages=HELLO, max_tokens=10)
    assert seen[0].url.path.endswith("/openai/deployments/m/chat/completions")
    assert json.loads(seen[0].content)["max_tokens"] == 9
    assert (run.total, run.uncertain, server.count) == (sw.Usage(), sw.Usage(), 1)


class TeamClient(openai.OpenAI):
    """A user's own client, which counts what it sends."""

    sent = 0

    def _send_request(self, request, *, stream, **kwargs):
        TeamClient.sent += 1
        return super()._send_request(request, stream=stream, **kwargs)


class Stubborn(openai.OpenAI):
    """A user's own client that cannot be made like others, so the SDK cannot copy it."""

    def __init__(self, address):
        super().__init__(base_url=address, api_key="none", max_retries=0)


def test_a_users_own_client_keeps_its_class_and_its_methods(server):
    """A subclass stays what it is: what it does on sending is done inside the guard, once for each attempt sent."""
    with TeamClient(base_url=server.base_url, api_key="none") as plain, sw.Run(budget=sw.Budget(max_calls=1)) as run:
        client = sw.guard(plain)
        assert type(client) is TeamClient
        client.chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(sw.BudgetExceededError):
            client.chat.completions.create(model="m", messages=HELLO)
    assert TeamClient.sent == server.count == run.total.calls == 1


def test_a_client_that_cannot_be_copied_is_refused_with_the_reason(server):
    """A subclass with a constructor of its own cannot be copied; the error says what it lacks."""
    with Stubborn(server.base_url) as plain, pytest.raises(TypeError, match=r"give Stubborn a copy\(\)"):
        sw.guard(plain)


@pytest.mark.parametrize("thing", [object(), None, "openai", openai, dict], ids=lambda thing: repr(thing)[:20])
def test_anything_else_is_refused_with_what_is_taken(thing):
    """`guard` of what is no client is a TypeError that says what it takes, and what to do with others."""
    taken = r"openai\.OpenAI, openai\.AsyncOpenAI, anthropic\.Anthropic or anthropic\.AsyncAnthropic"
    with pytest.raises(TypeError, match=rf"guard\(\) takes an {taken}, not \w+; reserve .* with guarded_call"):
        sw.guard(thing)


def test_a_clients_class_is_refused_with_what_to_write_instead():
    """`guard` of a client's class, and not of a client, is a TypeError that says to make one."""
    with pytest.raises(TypeError, match=r"not the class OpenAI; make one first: guard\(OpenAI\(\)\)"):
        sw.guard(openai.OpenAI)


UNGUARDED = [
    lambda client: client.responses.compact(model="m", input="hello"),
    lambda client: client.images.generate(model="m", prompt="hello"),
    lambda client: client.audio.speech.create(model="m", input="hello", voice="alloy"),
    lambda client: client.batches.create(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id="file-1"
    ),
    lambda client: client.fine_tuning.jobs.create(model="m", training_file="file-1"),
    lambda client: client.vector_stores.create(),
    lambda client: client.containers.create(name="c"),
    lambda client: client.realtime.client_secrets.create(),
    lambda client: client.post("/what-comes-next", body={}, cast_to=object),
]


@pytest.mark.parametrize("call", UNGUARDED, ids=range(len(UNGUARDED)))
def test_what_is_not_covered_is_refused(server, kind, call):
    """Whatever may cost money and is not covered raises, inside and outside of runs, and nothing is sent."""

    async def scenario():
        async with guarded(kind, server, max_retries=2) as client:
            with pytest.raises(sw.PolicyViolationError, match="guarded are chat completions, responses, completions"):
                await done(call(client))
            with sw.Run(), pytest.raises(sw.PolicyViolationError, match="POST /v1/"):
                await done(call(client))

    play(scenario)
    assert server.count == 0


ALLOWED = [
    ("batches", lambda client: client.batches.create(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id="file-1"
    )),
    ("images", lambda client: client.images.generate(model="m", prompt="hello")),
    ("audio", lambda client: client.audio.speech.create(model="m", input="hello", voice="alloy")),
    ("responses/compact", lambda client: client.responses.compact(model="m", input="hello")),
    ("threads", lambda client: client.post("/threads/runs", body={}, cast_to=object)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call"), ALLOWED, ids=[name for name, _ in ALLOWED])
def test_what_is_allowed_goes_by_and_nothing_else_does(server, kind, name, call):
    """An endpoint named in `allow` is sent unreserved, by the client's copies too; the others stay refused."""

    async def scenario():
        async with connected(kind, server.base_url) as plain:
            client = sw.guard(plain, allow=[name])
            with sw.Run(budget=sw.Budget(max_calls=0)) as run:
                for one in (client, client.with_options(timeout=9), sw.guard(client)):
                    with pytest.raises(openai.NotFoundError):
                        await done(call(one))
                with pytest.raises(sw.PolicyViolationError, match=r"give allow=\['vector_stores'\] to let it through"):
                    await done(client.vector_stores.create())
        return run

    assert play(scenario).total == sw.Usage()
    assert server.count == 3


@pytest.mark.parametrize(
    ("allow", "message"),
    [
        (["batch"], "allow: 'batch' is not an endpoint that a guard can let through; known: agents, "),
        ("batches", r"not the text 'batches'; give \['batches'\]"),
        ([None], "allow: None is not an endpoint"),
        (7, "allow must be a list of endpoints' names, not 7"),
    ],
)
def test_what_cannot_be_allowed_is_refused(server, allow, message):
    """A misspelt endpoint is an error where it is given, which says what there is."""
    with openai.OpenAI(base_url=server.base_url, api_key="none") as plain:
        with pytest.raises(sw.DefinitionError, match=message):
            sw.guard(plain, allow=allow)


def test_a_guard_is_not_widened(server):
    """A guarded client keeps what it was guarded with; guarding it again cannot allow more."""
    with openai.OpenAI(base_url=server.base_url, api_key="none") as plain:
        client = sw.guard(plain, allow=["batches", "images"])
        assert sw.guard(client, allow=["batches"]) is client
        with pytest.raises(sw.DefinitionError, match=r"allow=\['audio'\]: this client is already guarded"):
            sw.guard(client, allow=["audio"])


FREE = [
    lambda client: client.models.list(),
    lambda client: client.models.retrieve("m"),
    lambda client: client.moderations.create(input="hello"),
    lambda client: client.files.create(file=b"{}", purpose="batch"),
    lambda client: client.batches.cancel("batch-1"),
    lambda client: client.responses.cancel("resp-1"),
    lambda client: client.chat.completions.retrieve("chatcmpl-1"),
    lambda client: client.chat.completions.update("chatcmpl-1", metadata={}),
    lambda client: client.conversations.create(),
    lambda client: client.responses.retrieve("resp-1"),
    lambda client: client.responses.input_tokens.count(model="m", input="hello"),
]


@pytest.mark.parametrize("call", FREE, ids=range(len(FREE)))
def test_what_costs_nothing_goes_by(server, kind, call):
    """Reading, free endpoints and stopping what costs money are neither refused nor counted."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_calls=0)) as run, pytest.raises(openai.NotFoundError):
                await done(call(client))  # the scripted server knows none of these
        return run

    assert play(scenario).total == sw.Usage()
    assert server.count == 1


def test_outside_every_scope_a_call_goes_through_untouched(server, kind):
    """With no run anywhere a call is sent as it was made, and nobody is warned."""

    async def scenario():
        async with guarded(kind, server) as client:
            assert await read_out(await ask(client, stream=True))

    play(scenario)
    assert server.requests[0].body == {"model": "m", "messages": HELLO, "max_tokens": 10, "stream": True}


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_thread_without_propagate_is_warned_of(server, streams):
    """While a run is open, a call from a thread that has lost the scope warns, and is counted nowhere."""
    with openai.OpenAI(base_url=server.base_url, api_key="none") as plain, sw.Run(budget=sw.Budget(max_calls=5)) as run:
        client = sw.guard(plain)
        caught = []

        def work():
            with pytest.warns(sw.UnscopedCallWarning, match="stepwarden.propagate") as warned:
                reply = client.chat.completions.create(model="m", messages=HELLO, stream=streams)
                if streams:
                    list(reply)
            caught.extend(warned)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(caught) == server.count == 1
        assert run.total.calls == 0

        thread = threading.Thread(
            target=sw.propagate(lambda: client.chat.completions.create(model="m", messages=HELLO))
        )
        thread.start()
        thread.join()
        assert run.total.calls == 1


def test_outside_every_scope_a_call_is_refused_where_that_is_configured(server, kind, configure):
    """With `unscoped_calls="refuse"` a call outside every scope raises, run or no run, and is not sent."""
    configure(unscoped_calls="refuse")

    async def scenario():
        async with guarded(kind, server, max_retries=2) as client:
            with pytest.raises(sw.PolicyViolationError, match="outside every run"):
                await ask(client)
            with sw.Run():
                await ask(client)

    play(scenario)
    assert server.count == 1


def test_after_its_run_a_call_is_refused(server, kind):
    """A task that outlives its run cannot make another call in it."""

    async def scenario():
        async with guarded(kind, server) as client:
            ended = asyncio.Event()

            async def late():
                await ended.wait()
                with pytest.raises(sw.RunClosedError):
                    await ask(client)

            with sw.Run():
                task = asyncio.create_task(late())
                await asyncio.sleep(0)
            ended.set()
            await task

    play(scenario)
    assert server.count == 0
