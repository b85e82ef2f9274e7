"""The scripted model server, as the real OpenAI SDK sees it."""

import json

import openai
import pydantic
import pytest

from stepwarden.testing._script import Cut, Drop, Failure, Garbage, Hang, Reply, ToolCall

ASK = {"model": "gpt-test", "messages": [{"role": "user", "content": "12345678"}]}


def create(client, **options):
    """Ask the model, as plainly as can be."""
    return client.chat.completions.create(**{**ASK, **options})


# --- replies


def test_reply_reaches_the_client_whole(server, client):
    """A reply comes with its text, its finish reason, the model asked for, and usage of one token for 4 bytes."""
    server.enqueue(Reply("123456789"))

    completion = create(client)

    assert completion.choices[0].message.content == "123456789"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "gpt-test"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (2, 3)
    assert (server.usage.input_tokens, server.usage.output_tokens) == (2, 3)


def test_reply_reports_what_the_script_says(server, client):
    """Counts, model and finish reason that a reply names are reported as they are named."""
    server.default = Reply(
        "x",
        input_tokens=100,
        output_tokens=50,
        cached_tokens=80,
        reasoning_tokens=30,
        finish_reason="content_filter",
        model="gpt-test-2",
    )

    completion = create(client)

    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 50, 150)
    assert usage.prompt_tokens_details.cached_tokens == 80
    assert usage.completion_tokens_details.reasoning_tokens == 30
    assert (completion.choices[0].finish_reason, completion.model) == ("content_filter", "gpt-test-2")


def test_usage_can_be_left_out(server, client):
    """A reply without usage reports none, and the server counts it all the same."""
    server.enqueue(Reply("1234", include_usage=False))

    assert create(client).usage is None
    assert server.usage.output_tokens == 1


def test_usage_can_pass_the_limit(server, client):
    """A usage object given word for word is sent and counted so, whatever the request's limit was."""
    reported = {"prompt_tokens": 7, "completion_tokens": 900, "total_tokens": 907, "odd": "field"}
    server.enqueue(Reply(usage=reported))

    assert create(client, max_tokens=5).usage.to_dict() == reported
    assert (server.usage.input_tokens, server.usage.output_tokens) == (7, 900)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_output_limit_is_obeyed(server, client, field):
    """A reply longer than the request allows is cut to the limit, and ends with "length"."""
    server.enqueue(Reply("x" * 1000))

    completion = create(client, **{field: 3})

    assert completion.choices[0].message.content == "x" * 12
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 3


def test_choices_multiply_the_output(server, client):
    """A request for n choices gets the reply n times, and pays for its output n times."""
    server.default = Reply("12345678")

    completion = create(client, n=2)
    streamed = list(create(client, n=2, stream=True))

    assert [choice.message.content for choice in completion.choices] == ["12345678"] * 2
    assert completion.usage.completion_tokens == 4
    assert {choice.index for chunk in streamed for choice in chunk.choices} == {0, 1}
    assert server.usage.output_tokens == 8


def test_tool_calls_arrive_whole_and_streamed(server, client):
    """Tool calls come with their names and arguments, in one piece or as deltas that add up to the same."""
    calls = (ToolCall("search", {"query": "guards"}), ToolCall("shout", "not json", id="mine"))
    server.default = Reply("", tool_calls=calls)

    choice = create(client).choices[0]
    with client.chat.completions.stream(**ASK) as stream:
        final = stream.get_final_completion().choices[0]

    assert choice.message.content is None
    for said in (choice, final):
        functions = [call.function for call in said.message.tool_calls]
        assert said.finish_reason == "tool_calls"
        assert [function.name for function in functions] == ["search", "shout"]
        assert json.loads(functions[0].arguments) == {"query": "guards"}
        assert functions[1].arguments == "not json"
        assert said.message.tool_calls[1].id == "mine"


def test_parse_reads_a_schema(server, client):
    """A reply to a request with a schema is its text as it stands, which the SDK parses."""

    class Verdict(pydantic.BaseModel):
        label: str

    server.enqueue(Reply('{"label": "bug"}'))

    completion = client.chat.completions.parse(**ASK, response_format=Verdict)

    assert completion.choices[0].message.parsed == Verdict(label="bug")
    assert server.requests[0].body["response_format"]["type"] == "json_schema"


# --- streams


def test_stream_comes_in_pieces(server, client):
    """A stream names the role, brings the text a token at a time, then the reason, and no usage unasked."""
    server.enqueue(Reply("one two three"))

    chunks = list(create(client, stream=True))

    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert [delta.content for delta in deltas[1:-1]] == ["one ", "two ", "thre", "e"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert server.usage.output_tokens == 4


def test_stream_reports_usage_when_asked(server, client):
    """Asked for usage, a stream ends with one chunk more, which has no choices."""
    *chunks, last = create(client, stream=True, stream_options={"include_usage": True})

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 1)


def test_stream_can_keep_its_usage_to_itself(server, client):
    """A reply without usage reports none in a stream either, even where the request asks."""
    server.enqueue(Reply(include_usage=False))

    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))

    assert all(chunk.usage is None for chunk in chunks)


def test_stream_that_is_hung_up_counts_what_was_sent(server, client):
    """A client that leaves a slow stream has been served the whole input and only the output sent so far."""
    server.enqueue(Reply("x" * 40_000, chunk_delay=0.001))

    with create(client, stream=True) as stream:
        next(stream), next(stream)
        assert server.in_flight == 1

    server.wait_until_idle()
    assert server.usage.input_tokens == 2
    assert 1 <= server.usage.output_tokens < 10_000


def test_cut_stream_breaks_in_its_middle(server, client):
    """A cut stream sends as many events as it was told to, and then breaks."""
    server.enqueue(Cut(Reply("12345678"), after_chunks=2))
    pieces = []

    with pytest.raises(openai.APIConnectionError), create(client, stream=True) as stream:
        pieces.extend(chunk.choices[0].delta.content for chunk in stream)

    assert pieces == ["", "1234"]
    assert (server.usage.input_tokens, server.usage.output_tokens) == (2, 1)


@pytest.mark.parametrize("after_chunks", [0, 99])
def test_cut_stream_never_ends_well(server, client, after_chunks):
    """Cut before its first event or after its last but one, a stream is a broken one."""
    server.enqueue(Cut(after_chunks=after_chunks))

    with pytest.raises(openai.APIConnectionError), create(client, stream=True) as stream:
        list(stream)


def test_cut_reply_breaks_in_its_body(server, client):
    """A cut reply to a request that does not stream is less than it promised, and was generated in full."""
    server.enqueue(Cut(Reply("12345678")))

    with pytest.raises(openai.APIConnectionError):
        create(client)

    assert server.usage.output_tokens == 2


# --- failures


def test_client_retries_a_rate_limit(server, client):
    """Each attempt of the SDK takes a response off the script and is counted."""
    server.enqueue(Failure(429, "slow down", retry_after=0.01), Failure(429, retry_after=0.01), Reply("at last"))

    completion = create(client.with_options(max_retries=2))

    assert completion.choices[0].message.content == "at last"
    assert server.count == 3
    assert [r.headers["x-stainless-retry-count"] for r in server.requests] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
def test_failure_is_the_fitting_error(server, client, status, error):
    """A failure reaches the client as the SDK's error for its status, with its message, and serves no tokens."""
    server.enqueue(Failure(status, "no such luck"))

    with pytest.raises(error, match="no such luck"):
        create(client)

    assert server.usage.input_tokens == 0


def test_failure_can_bring_its_own_body(server, client):
    """A failure's body may be any object, or bytes that are no JSON at all."""
    server.enqueue(Failure(502, body=b"<html>bad gateway"), Failure(429, body={"error": {"code": "quota"}}))

    with pytest.raises(openai.InternalServerError) as html:
        create(client)
    with pytest.raises(openai.RateLimitError) as quota:
        create(client)
    assert html.value.response.content == b"<html>bad gateway"
    assert quota.value.code == "quota"


def test_hang_drives_the_client_into_its_timeout(server, client):
    """A hanging request is never answered; it is in flight until its client gives up, and in the books."""
    server.enqueue(Hang())

    with pytest.raises(openai.APITimeoutError):
        create(client, timeout=0.1)

    server.wait_until_idle()
    assert (server.count, server.usage.output_tokens) == (1, 0)
    assert create(client).choices[0].message.content == "ok"


def test_hang_can_end(server, client):
    """A hang with a time closes the connection when that is over."""
    server.enqueue(Hang(0.01))

    with pytest.raises(openai.APIConnectionError):
        create(client)


def test_delayed_reply_comes_in_the_end(server, client):
    """A delayed reply is complete, and counted when it is sent."""
    server.enqueue(Reply("late", delay=0.01))

    assert create(client).choices[0].message.content == "late"
    assert server.usage.output_tokens == 1


def test_drop_is_a_connection_error(server, client):
    """A dropped request was received, and its client hears nothing but the end of the connection."""
    server.enqueue(Drop())

    with pytest.raises(openai.APIConnectionError):
        create(client)

    assert server.requests[0].body == ASK


def test_garbage_cannot_be_read(server, client):
    """A success with an unreadable body is an error to its client, whether it streams or not."""
    server.default = Garbage(b'{"half": ')

    with pytest.raises(json.JSONDecodeError):
        create(client)
    with pytest.raises(json.JSONDecodeError), create(client, stream=True) as stream:
        list(stream)
