"""How the scripted model says a reply in OpenAI's responses, completions and embeddings, and how the SDK reads it."""

import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwarden.testing import Cut, Failure, Reply, ScriptedModel, ToolCall
from stepwarden.testing._responses_protocol import ResponsesProtocol

texts = st.text(max_size=60)
counts = st.integers(0, 40)
replies = st.builds(
    Reply,
    text=texts,
    output_tokens=st.none() | st.integers(40, 80),
    cached_tokens=counts,
    reasoning_tokens=counts,
    tool_calls=st.lists(
        st.builds(ToolCall, name=st.text(min_size=1, max_size=9), arguments=st.dictionaries(texts, counts)), max_size=2
    ),
)
requests = st.fixed_dictionaries(
    {"model": st.just("m"), "input": st.one_of(texts, st.just([{"role": "user", "content": "hello"}]))},
    optional={"max_output_tokens": st.integers(16, 90)},
)


def events_of(request, reply):
    """Render *reply* as a stream, and return its answer and its events as JSON."""
    answer = ResponsesProtocol().render({**request, "stream": True}, reply, 1)
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
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@given(requests, replies)
def test_a_streamed_response_says_what_the_whole_one_says(request_, reply):
    """The last event carries the very response that is not streamed, and the deltas add up to its output."""
    (part,) = ResponsesProtocol().render(request_, reply, 1).parts
    whole = json.loads(part.data)
    answer, events = events_of(request_, reply)
    ended = events[-1]["response"]
    created = {"created_at": whole["created_at"]}
    assert {**ended, **created} == whole
    assert events[-1]["type"] == f"response.{whole['status']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert deltas == "".join(item["content"][0]["text"] for item in whole["output"] if item["type"] == "message")
    assert sum(part.output_tokens for part in answer.parts) == whole["usage"]["output_tokens"]
    assert whole["usage"]["output_tokens"] <= request_.get("max_output_tokens", 1_000)


def test_the_sdk_reads_a_response(server, client):
    """Text, tool calls, usage and the model arrive in the SDK's own types."""
    server.default = Reply("hello there", cached_tokens=1, reasoning_tokens=2, tool_calls=[ToolCall("f", {"a": 1})])
    response = client.responses.create(model="m", input="hello")
    assert response.output_text == "hello there"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert json.loads(response.output[-1].arguments) == {"a": 1}
    usage = response.usage
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (1, 2)
    assert (usage.input_tokens, usage.output_tokens) == (server.usage.input_tokens, server.usage.output_tokens)


def test_the_sdks_stream_helper_reads_a_response(server, client):
    """The SDK's own accumulation of the stream ends with the whole response."""
    server.default = Reply("hello there", tool_calls=[ToolCall("f", {"a": 1})])
    with client.responses.stream(model="m", input="hello") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "hello there"
    assert final.usage.output_tokens == server.usage.output_tokens


def test_a_response_that_meets_its_limit_is_incomplete(server, client):
    """An output limit is obeyed, and named as what cut the response off."""
    server.default = Reply("word " * 100)
    response = client.responses.create(model="m", input="hello", max_output_tokens=16)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.output_tokens == 16


def test_a_background_response_is_queued_and_reports_nothing(client):
    """A response in the background comes back at once, without output and usage."""
    response = client.responses.create(model="m", input="hello", background=True)
    assert (response.status, response.output, response.usage) == ("queued", [], None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "hello"}, "model"),
        ({"model": "m"}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": "hello", "max_output_tokens": 15}, "max_output_tokens"),
        ({"model": "m", "input": "hello", "stream": 1}, "stream"),
        ({"model": "m", "input": "hello", "background": "no"}, "background"),
    ],
)
def test_what_the_responses_api_would_reject_is_rejected(client, body, param):
    """Missing and wrong fields are a 400 that names the field."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/responses", body=body, cast_to=object)
    assert caught.value.param == param


def test_failures_and_cuts_speak_the_protocol(server, client):
    """Errors have OpenAI's form, and a cut stream ends without the event that ends it."""
    server.enqueue(Failure(429), Cut(Reply("word " * 9), after_chunks=6))
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="m", input="hello")
    seen = []
    with pytest.raises(openai.APIConnectionError):
        seen.extend(event.type for event in client.responses.create(model="m", input="hello", stream=True))


def test_the_sdk_reads_legacy_completions(server, client):
    """Every prompt is completed n times, streamed or not, within the limit that the API assumes."""
    server.default = Reply("word " * 100)
    whole = client.completions.create(model="m", prompt=["one", "two"], n=2)
    assert [len(choice.text) for choice in whole.choices] == [64] * 4
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (64, "length")
    chunks = list(
        client.completions.create(
            model="m", prompt=[1, 2, 3], stream=True, max_tokens=20, stream_options={"include_usage": True}
        )
    )
    assert len("".join(choice.text for chunk in chunks for choice in chunk.choices)) == 80
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 20)
    assert server.usage.output_tokens == 84


@pytest.mark.parametrize("given_", ["hello there", ["hell", "there"], [1, 2, 3], [[1, 2], [3]]])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_the_sdk_reads_embeddings(server, client, given_, encoding):
    """A vector for each input, the same in both encodings, and the input is all that is counted."""
    vectors = client.embeddings.create(model="m", input=given_, encoding_format=encoding, dimensions=3)
    plain = client.embeddings.create(model="m", input=given_, dimensions=3)
    if encoding == "float":
        assert [one.embedding for one in vectors.data] == [one.embedding for one in plain.data]
    assert len(vectors.data) == (2 if isinstance(given_[0], str) and isinstance(given_, list) else len(plain.data))
    assert vectors.usage.prompt_tokens == 3
    assert (server.usage.input_tokens, server.usage.output_tokens) == (6, 0)


def test_embeddings_report_what_the_script_says(server, client):
    """Input tokens, the model and a whole usage come from the script."""
    server.enqueue(Reply(input_tokens=9, model="other"), Reply(usage={"prompt_tokens": 4, "total_tokens": 4}))
    first = client.embeddings.create(model="m", input="hello")
    second = client.embeddings.create(model="m", input="hello")
    assert (first.model, first.usage.prompt_tokens, second.usage.prompt_tokens) == ("other", 9, 4)
    assert server.usage.input_tokens == 13


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/completions", {"model": "m"}, "prompt"),
        ("/completions", {"model": "m", "prompt": "x", "best_of": 0}, "best_of"),
        ("/embeddings", {"input": "x"}, "model"),
        ("/embeddings", {"model": "m", "input": ""}, "input"),
        ("/embeddings", {"model": "m", "input": "x", "encoding_format": "hex"}, "encoding_format"),
        ("/embeddings", {"model": "m", "input": "x", "dimensions": 0}, "dimensions"),
    ],
)
def test_what_the_other_apis_would_reject_is_rejected(client, path, body, param):
    """Missing and wrong fields are a 400 that names the field."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(path, body=body, cast_to=object)
    assert caught.value.param == param
