"""The script of a scripted model: what may stand in it, and the order in which it is played."""

import asyncio
import math
import threading

import openai
import pytest

from stepwarden.testing._script import Cut, Drop, Failure, Hang, Reply, ToolCall
from stepwarden.testing._scripted_model import ScriptedModel


def create(client):
    """Ask the model."""
    return client.chat.completions.create(model="gpt-test", messages=[{"role": "user", "content": "12345678"}])


def test_script_is_consumed_in_order(server, client):
    """Responses come in the order in which they were added, and after them the default."""
    server.enqueue(Reply("1"), Reply("2"))
    server.default = rest = Reply("rest")

    assert [create(client).choices[0].message.content for _ in range(4)] == ["1", "2", "rest", "rest"]
    assert server.default is rest


def test_callable_computes_the_response(server, client):
    """A callable sees the request as it arrived, and answers it."""
    server.default = lambda request: Reply(request.body["messages"][0]["content"][::-1])

    assert create(client).choices[0].message.content == "87654321"


def test_callable_may_wait_for_the_test(server):
    """A callable that blocks holds up its own request, and no other."""
    gate = threading.Event()

    def wait(_request):
        gate.wait()
        return Reply("released")

    server.enqueue(wait)

    async def ask():
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
            held = asyncio.create_task(create(client))
            await asyncio.to_thread(server.wait_for, 1)
            assert (await create(client)).choices[0].message.content == "ok"
            assert server.in_flight == 1
            gate.set()
            return (await held).choices[0].message.content

    assert asyncio.run(ask()) == "released"


def test_callable_that_outlives_the_server_is_harmless(capfd):
    """A server closes without waiting for a callable that blocks, which finds nobody to answer later."""
    gate, computed = threading.Event(), threading.Event()

    def wait(_request):
        gate.wait()
        computed.set()
        return Reply()

    with ScriptedModel(default=wait) as server:

        async def ask_and_close():
            async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
                asked = asyncio.create_task(create(client))
                await asyncio.to_thread(server.wait_for, 1)
                await asyncio.to_thread(server.close)
                with pytest.raises(openai.APIConnectionError):
                    await asked

        asyncio.run(ask_and_close())
    gate.set()

    assert computed.wait(5)
    for thread in threading.enumerate():
        if thread.name == "scripted-response":
            thread.join()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda request: request.body["absent"], id="raises"),
        pytest.param(lambda _request: "ok", id="returns no response"),
    ],
)
def test_mistake_in_a_callable_is_heard(mistake):
    """A callable that raises, or returns no response, is a 500 for its client and an error at close."""
    server = ScriptedModel(default=mistake)
    server.start()

    with (
        openai.OpenAI(base_url=server.base_url, api_key="none") as client,
        pytest.raises(openai.InternalServerError, match="the script failed"),
    ):
        create(client)
    assert server.count == 1
    with pytest.raises((KeyError, TypeError)):
        server.close()


@pytest.mark.parametrize("wrong", ["ok", None, Reply, 500])
def test_script_takes_responses_only(server, client, wrong):
    """What is not a response is refused before it can surprise a client, and leaves the script as it was."""
    with pytest.raises(TypeError, match=r"responses\[1\]: .* is not a Reply"):
        server.enqueue(Failure(500), wrong)
    with pytest.raises(TypeError, match="default: "):
        server.default = wrong

    assert create(client).choices[0].message.content == "ok"


@pytest.mark.parametrize(
    ("kind", "fields", "blamed"),
    [
        (Reply, {"text": None}, "text"),
        (Reply, {"input_tokens": -1}, "input_tokens"),
        (Reply, {"input_tokens": 1, "cached_tokens": 2}, "input_tokens"),
        (Reply, {"output_tokens": 1, "reasoning_tokens": 2}, "output_tokens"),
        (Reply, {"output_tokens": True}, "output_tokens"),
        (Reply, {"tool_calls": ["search"]}, "tool_calls"),
        (Reply, {"delay": -1}, "delay"),
        (Reply, {"chunk_delay": math.inf}, "chunk_delay"),
        (Reply, {"usage": {"prompt_tokens": object()}}, "usage"),
        (ToolCall, {"name": "", "arguments": {}}, "name"),
        (ToolCall, {"name": "search", "arguments": ["query"]}, "arguments"),
        (ToolCall, {"name": "search", "arguments": {"query": object()}}, "arguments"),
        (Failure, {"status": 200}, "status"),
        (Failure, {"status": 429, "retry_after": math.nan}, "retry_after"),
        (Failure, {"status": 500, "body": {"error": object()}}, "body"),
        (Hang, {"seconds": "long"}, "seconds"),
        (Cut, {"reply": Drop()}, "reply"),
        (Cut, {"after_chunks": -1}, "after_chunks"),
    ],
)
def test_impossible_response_names_its_field(kind, fields, blamed):
    """A response that cannot be is refused where it is written, with the name of the field."""
    with pytest.raises((TypeError, ValueError), match=f"^{blamed}: "):
        kind(**fields)


def test_tool_calls_are_kept_as_they_were_given():
    """A reply does not change when the list that its tool calls were given in does."""
    calls = [ToolCall("search", {})]
    reply = Reply(tool_calls=calls)

    calls.clear()

    assert reply.tool_calls == (ToolCall("search", {}),)
