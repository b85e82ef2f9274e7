"""The scripted model as a server: many clients at once, its books, bad requests, and its end."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading

import openai
import pydantic
import pytest

from stepwarden.testing._script import Failure, Hang, Reply
from stepwarden.testing._scripted_model import ScriptedModel

ASK = {"model": "gpt-test", "messages": [{"role": "user", "content": "12345678"}]}


def create(client, **options):
    """Ask the model, as plainly as can be."""
    return client.chat.completions.create(**{**ASK, **options})


def async_client(server, **options):
    """Make an asynchronous client that does not retry."""
    return openai.AsyncOpenAI(base_url=server.base_url, api_key="none", **{"max_retries": 0, **options})


def post(server, body, *, path="/v1/chat/completions", method="POST"):
    """Send *body* without an SDK, and return the status and the error that comes back."""
    with contextlib.closing(http.client.HTTPConnection(server.base_url.split("/")[2])) as connection:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())["error"]


def connect(server):
    """Open a raw connection to the server."""
    host, port = server.base_url.split("/")[2].split(":")
    return socket.create_connection((host, int(port)))


def read_answer(lines):
    """Read one response off a raw connection, and return its JSON body."""
    headers = dict(line.decode().strip().split(": ") for line in iter(lines.readline, b"\r\n") if b": " in line)
    return json.loads(lines.read(int(headers["content-length"])))


# --- many clients


def test_async_client_streams_parses_and_retries(server):
    """What the synchronous client can do here, the asynchronous one can."""

    class Verdict(pydantic.BaseModel):
        label: str

    server.enqueue(Failure(500, retry_after=0.01), Reply("streamed"), Reply('{"label": "bug"}'), Hang())

    async def ask():
        async with async_client(server, max_retries=1) as client:
            stream = await create(client, stream=True, stream_options={"include_usage": True})
            chunks = [chunk async for chunk in stream]
            parsed = await client.chat.completions.parse(**ASK, response_format=Verdict)
            with pytest.raises(openai.APITimeoutError):
                await create(client.with_options(max_retries=0), timeout=0.1)
            return chunks, parsed

    chunks, parsed = asyncio.run(ask())

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "streamed"
    assert chunks[-1].usage.completion_tokens == 2
    assert parsed.choices[0].message.parsed == Verdict(label="bug")
    assert server.count == 4


def test_64_async_requests_are_served_in_parallel(server):
    """64 requests are all in flight at once, and each gets its own answer."""
    everyone_is_here = threading.Barrier(64)

    def answer_together(request):
        everyone_is_here.wait(timeout=30)
        return Reply(request.body["user"])

    server.default = answer_together

    async def ask_all():
        async with async_client(server) as client:
            asked = [create(client, user=str(number)) for number in range(64)]
            return [completion.choices[0].message.content for completion in await asyncio.gather(*asked)]

    assert asyncio.run(ask_all()) == [str(number) for number in range(64)]
    assert (server.count, server.max_in_flight, server.in_flight) == (64, 64, 0)
    assert server.usage.input_tokens == 64 * 2


def test_cancelled_request_leaves(server):
    """A request whose task is cancelled is in flight no more."""
    server.enqueue(Hang())

    async def ask_and_cancel():
        async with async_client(server) as client:
            asked = asyncio.create_task(create(client))
            await asyncio.to_thread(server.wait_for, 1)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            await asyncio.to_thread(server.wait_until_idle)

    asyncio.run(ask_and_cancel())

    assert (server.in_flight, server.max_in_flight) == (0, 1)


# --- the end, and the books


def test_close_breaks_what_hangs(capfd):
    """Closing ends hanging requests, slow streams and idle connections at once, without a word on stderr."""
    with ScriptedModel() as server:
        server.enqueue(Reply("idle"), Hang(), Reply("x" * 1000, chunk_delay=3600), Reply(delay=3600))

        async def ask():
            async with async_client(server) as client:
                await create(client)
                hung = []
                for asked in (create(client), collect(client), create(client)):
                    hung.append(asyncio.create_task(asked))
                    await asyncio.to_thread(server.wait_for, 1 + len(hung))
                await asyncio.to_thread(server.close)
                return await asyncio.gather(*hung, return_exceptions=True)

        async def collect(client):
            return [chunk async for chunk in await create(client, stream=True)]

        outcomes = asyncio.run(ask())

    assert [type(outcome) for outcome in outcomes] == [openai.APIConnectionError] * 3
    assert server.in_flight == 0
    assert capfd.readouterr().err == ""


def test_books_outlive_the_server():
    """A closed server is still read, its address refuses connections, and it does not start again."""
    with ScriptedModel() as server:
        post(server, json.dumps({**ASK, "stream": True, "n": "x"}))
    server.close()

    assert server.count == 1
    with pytest.raises(ConnectionRefusedError):
        post(server, b"{}")
    with pytest.raises(RuntimeError, match="started before"):
        server.start()


def test_address_needs_a_start():
    """A server that was not started has no address to give, and closes all the same."""
    server = ScriptedModel()

    with pytest.raises(RuntimeError, match=r"call start\(\)"):
        _ = server.base_url
    server.close()


def test_wait_for_says_how_many_came(server, client):
    """Waiting in vain ends with the number of requests that did arrive."""
    create(client)

    with pytest.raises(TimeoutError, match="1 of 2 requests arrived"):
        server.wait_for(2, timeout=0.01)


def test_wait_until_idle_says_how_many_stay(server):
    """Waiting for a request that stays ends with the number of those in flight."""
    server.enqueue(Hang())
    with contextlib.closing(http.client.HTTPConnection(server.base_url.split("/")[2])) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(ASK))
        server.wait_for(1)

        with pytest.raises(TimeoutError, match="1 requests are in flight"):
            server.wait_until_idle(timeout=0.01)


def test_reset_forgets_all_but_what_is_in_flight(server, client):
    """After a reset, script and books are as at the start, and what arrived before it counts nowhere."""
    gate = threading.Event()

    def wait(_request):
        gate.wait()
        return Reply("before the reset")

    server.enqueue(wait)
    early = threading.Thread(target=create, args=(client,))
    early.start()
    server.wait_for(1)
    server.enqueue(Failure(500))
    server.default = Failure(500)

    server.reset()
    assert (server.requests, server.in_flight, server.max_in_flight) == ((), 1, 1)
    gate.set()
    early.join()

    assert server.usage.output_tokens == 0
    assert create(client).choices[0].message.content == "ok"
    assert (server.count, server.usage.output_tokens) == (1, 1)


def test_connection_serves_pipelined_and_split_requests(server):
    """Requests are told apart by their lengths, however their bytes arrive, and answered in order."""
    server.enqueue(Reply("first", delay=0.01), Reply("second"))
    body = json.dumps(ASK).encode()
    request = b"POST /v1/chat/completions?v=1 HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    with connect(server) as connection, connection.makefile("rb") as answers:
        connection.sendall(request + request[:30])
        server.wait_for(1)
        connection.sendall(request[30:])
        said = [read_answer(answers)["choices"][0]["message"]["content"] for _ in range(2)]

    assert said == ["first", "second"]
    assert {received.path for received in server.requests} == {"/v1/chat/completions"}


def test_body_of_unknown_length_is_refused(server):
    """A body that comes in chunks, as no SDK sends it, is refused rather than misread."""
    with connect(server) as connection, connection.makefile("rb") as answer:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")

        assert answer.readline() == b"HTTP/1.1 411 Length Required\r\n"


# --- requests that no script answers


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (json.dumps({"messages": ASK["messages"]}), "model"),
        (json.dumps({"model": "m"}), "messages"),
        (json.dumps({**ASK, "max_tokens": 0}), "max_tokens"),
        (json.dumps({**ASK, "max_completion_tokens": "5"}), "max_completion_tokens"),
        (json.dumps({**ASK, "n": True}), "n"),
        (json.dumps({**ASK, "stream": "yes"}), "stream"),
        (json.dumps({**ASK, "stream_options": []}), "stream_options"),
    ],
)
def test_bad_request_is_refused(server, body, param):
    """What is not a chat request gets a 400 in OpenAI's form, is counted, and takes nothing off the script."""
    server.enqueue(Failure(503))

    status, error = post(server, body)

    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert post(server, json.dumps(ASK))[0] == 503
    assert server.count == 2


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/nothing"), ("GET", "/v1/chat/completions")])
def test_unknown_path_is_not_found(server, method, path):
    """A path that the server does not speak is a 404 in OpenAI's form, and in the books."""
    status, error = post(server, json.dumps(ASK), path=path, method=method)

    assert status == 404
    message = f"Invalid URL ({method} {path})"
    assert error == {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    assert server.requests[0].path == path
