"""How the scripted model says a reply in Anthropic messages, and how the real SDK reads it."""

import json

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwarden.testing import Cut, Failure, Reply, ScriptedModel, ToolCall
from stepwarden.testing._messages_protocol import MessagesProtocol

HELLO = [{"role": "user", "content": "hello"}]
texts = st.text(max_size=60)
counts = st.integers(0, 40)
replies = st.builds(
    Reply,
    text=texts,
    output_tokens=st.none() | st.integers(40, 80),
    cached_tokens=counts,
    cache_write_tokens=counts,
    reasoning_tokens=counts,
    tool_calls=st.lists(
        st.builds(ToolCall, name=st.text(min_size=1, max_size=9), arguments=st.dictionaries(texts, counts)), max_size=2
    ),
)
requests = st.fixed_dictionaries(
    {
        "model": st.just("m"),
        "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": texts}), min_size=1),
        "max_tokens": st.integers(1, 90),
    }
)


def say(request, reply):
    """Render *reply* whole, and return its answer and its JSON."""
    answer = MessagesProtocol().render(request, reply, 1)
    (part,) = answer.parts
    return answer, json.loads(part.data)


def say_in_stream(request, reply):
    """Render *reply* as a stream, and return its answer and its events as JSON."""
    answer = MessagesProtocol().render({**request, "stream": True}, reply, 1)
    events = []
    for part in answer.parts:
        name, data = part.data.decode().removesuffix("\n\n").split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return answer, events


@pytest.fixture
def server():
    """Serve scripted replies on loopback."""
    with ScriptedModel() as server:
        yield server


@pytest.fixture
def client(server):
    """Give the real SDK, without retries."""
    with anthropic.Anthropic(base_url=server.origin, api_key="none", max_retries=0) as client:
        yield client


@given(requests, replies)
def test_what_the_cache_had_part_in_is_counted_beside_the_input(request_, reply):
    """Input, cache reads and cache writes add up to all input, and the output keeps to the limit."""
    answer, said = say(request_, reply)
    usage = said["usage"]
    caches = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    assert caches == (reply.cached_tokens, reply.cache_write_tokens)
    assert usage["input_tokens"] + sum(caches) == answer.input_tokens
    assert usage["output_tokens"] <= request_["max_tokens"]
    assert (said["stop_reason"] == "max_tokens") <= (usage["output_tokens"] <= request_["max_tokens"])


@given(requests, replies)
def test_a_stream_says_what_the_whole_reply_says(request_, reply):
    """The deltas of a stream add up to the whole message, its usage is the same, and so are the tokens charged."""
    answer, said = say(request_, reply)
    streamed, events = say_in_stream(request_, reply)
    texts_of = {}
    for event in events:
        if event["type"] == "content_block_delta":
            delta = event["delta"]
            texts_of[event["index"]] = texts_of.get(event["index"], "") + delta.get(
                "text", delta.get("partial_json", "")
            )
    for index, block in enumerate(said["content"]):
        if block["type"] == "text":
            assert texts_of.get(index, "") == block["text"]
    (end,) = [event for event in events if event["type"] == "message_delta"]
    assert (end["usage"], end["delta"]["stop_reason"]) == (said["usage"], said["stop_reason"])
    assert sum(part.output_tokens for part in streamed.parts) == answer.parts[0].output_tokens
    assert streamed.input_tokens == answer.input_tokens


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": HELLO, "max_tokens": 1}, "model"),
        ({"model": "m", "messages": [], "max_tokens": 1}, "messages"),
        ({"model": "m", "messages": HELLO}, "max_tokens"),
        ({"model": "m", "messages": HELLO, "max_tokens": True}, "max_tokens"),
        ({"model": "m", "messages": HELLO, "max_tokens": 9, "stream": 1}, "stream"),
        (
            {"model": "m", "messages": HELLO, "max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 9}},
            "thinking.enabled.budget_tokens",
        ),
        (
            {
                "model": "m",
                "messages": HELLO,
                "max_tokens": 1_024,
                "thinking": {"type": "enabled", "budget_tokens": 1_024},
            },
            "max_tokens",
        ),
    ],
)
def test_a_request_that_the_api_would_reject_is_rejected(server, client, body, param):
    """A missing or wrong field is a 400 that names it, and takes nothing off the script."""
    server.enqueue(Reply("kept"))
    with pytest.raises(anthropic.BadRequestError, match=param):
        client.post("/v1/messages", body=body, cast_to=object)
    assert client.messages.create(model="m", max_tokens=9, messages=HELLO).content[0].text == "kept"


def test_the_sdk_reads_a_reply(server, client):
    """Text, a tool call, usage and the stop reason arrive in the SDK's own types."""
    server.enqueue(
        Reply("hi", input_tokens=9, cached_tokens=2, cache_write_tokens=3, tool_calls=[ToolCall("look", {"at": 1})])
    )
    message = client.messages.create(model="m", max_tokens=99, messages=HELLO)
    text, call = message.content
    assert (text.text, call.name, call.input, message.stop_reason) == ("hi", "look", {"at": 1}, "tool_use")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (4, 2, 3)
    assert server.usage.input_tokens == 9


def test_the_sdk_reads_a_stream(server, client):
    """The SDK's stream helper puts the message together again."""
    server.enqueue(Reply("a longer reply", output_tokens=4, tool_calls=[ToolCall("look", {"at": 1})]))
    with client.messages.stream(model="m", max_tokens=99, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == "a longer reply"
        message = stream.get_final_message()
    assert (message.usage.output_tokens, message.stop_reason) == (4, "tool_use")
    assert message.content[1].input == {"at": 1}
    assert server.usage.output_tokens == 4


def test_a_stream_may_go_without_usage(server, client):
    """Where the script says so no event of a stream reports usage, and the server counts it still."""
    server.enqueue(Reply("hi", output_tokens=4, include_usage=False))
    events = list(client.messages.create(model="m", max_tokens=99, messages=HELLO, stream=True))
    assert [event.type for event in events if getattr(event, "usage", None)] == []
    assert server.usage.output_tokens == 4


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, anthropic.BadRequestError), (429, anthropic.RateLimitError), (529, anthropic.InternalServerError)],
)
def test_the_sdk_reads_a_failure(server, client, status, kind):
    """A scripted failure arrives as the SDK's own error, with the message."""
    server.enqueue(Failure(status, "not now"))
    with pytest.raises(kind, match="not now"):
        client.messages.create(model="m", max_tokens=9, messages=HELLO)


def test_counting_tokens_takes_nothing_off_the_script(server, client):
    """The counting endpoint answers with the request's input, and the next message gets the scripted reply."""
    server.enqueue(Reply("kept"))
    assert client.messages.count_tokens(model="m", messages=HELLO).input_tokens == 2
    assert client.messages.create(model="m", max_tokens=9, messages=HELLO).content[0].text == "kept"
    assert server.usage.input_tokens == 2


def test_a_cut_stream_counts_what_was_sent(server, client):
    """A stream that breaks raises in the client, and the books have the output that was sent until then."""
    server.enqueue(Cut(Reply("word " * 40, output_tokens=40), after_chunks=6))
    with (
        pytest.raises((anthropic.APIError, httpx2.HTTPError)),
        client.messages.stream(model="m", max_tokens=99, messages=HELLO) as stream,
    ):
        list(stream)
    assert 0 < server.usage.output_tokens < 40
