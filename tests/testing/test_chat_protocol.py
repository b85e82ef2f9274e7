"""How the scripted model says a reply in OpenAI chat completions."""

import json

from hypothesis import given
from hypothesis import strategies as st

from stepwarden.testing._chat_protocol import ChatProtocol
from stepwarden.testing._protocol import cut, split
from stepwarden.testing._script import Reply, ToolCall

texts = st.text(max_size=60)
counts = st.integers(0, 40)
replies = st.builds(
    Reply,
    text=texts,
    output_tokens=st.none() | st.integers(40, 80),
    cached_tokens=counts,
    reasoning_tokens=counts,
    tool_calls=st.lists(st.builds(ToolCall, name=st.text(min_size=1, max_size=9), arguments=texts), max_size=2),
)
requests = st.fixed_dictionaries(
    {
        "model": st.just("m"),
        "messages": st.lists(
            st.fixed_dictionaries({"content": texts | st.lists(st.fixed_dictionaries({"text": texts}))}), min_size=1
        ),
        "max_tokens": st.none() | st.integers(1, 40),
        "n": st.none() | st.integers(1, 3),
    }
)


def say(request, reply):
    """Render *reply* whole, and return it as JSON."""
    (part,) = ChatProtocol().render(request, reply, 1).parts
    return json.loads(part.data)


def say_in_stream(request, reply):
    """Render *reply* as a stream with usage, and return its answer and its chunks as JSON."""
    request = {**request, "stream": True, "stream_options": {"include_usage": True}}
    answer = ChatProtocol().render(request, reply, 1)
    *events, end = [part.data for part in answer.parts]
    assert end == b"data: [DONE]\n\n"
    return answer, [json.loads(event.removeprefix(b"data: ")) for event in events]


@given(requests, replies)
def test_no_choice_passes_the_limit(request, reply):
    """No choice is ever longer than the limit, in tokens reported or in tokens of text; what was cut says so."""
    said = say(request, reply)

    limit = request["max_tokens"]
    usage = said["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] >= max(1, reply.cached_tokens)
    reasoning_tokens = usage["completion_tokens_details"]["reasoning_tokens"]
    assert reasoning_tokens <= usage["completion_tokens"]
    for choice in said["choices"]:
        message = choice["message"]
        content = message["content"] or ""
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
        if choice["finish_reason"] != "length":
            assert content == reply.text
            assert calls == [(call.name, call.arguments) for call in reply.tool_calls]
        if limit is not None:
            spoken = "".join([content, *(name + arguments for name, arguments in calls)])
            assert usage["completion_tokens"] <= limit * len(said["choices"])
            assert len(spoken.encode()) <= (limit - reasoning_tokens // len(said["choices"])) * 4


@given(requests, replies)
def test_stream_adds_up_to_the_whole(request, reply):
    """A stream's deltas, reasons, usage and tokens add up to what the reply is when it comes whole."""
    whole = say(request, reply)
    answer, chunks = say_in_stream(request, reply)

    assert chunks[-1]["usage"] == whole["usage"]
    assert sum(part.output_tokens for part in answer.parts) == whole["usage"]["completion_tokens"]
    for choice in whole["choices"]:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["delta"].get("content", "") for c in own) == (choice["message"]["content"] or "")
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        deltas = [call for c in own for call in c["delta"].get("tool_calls", ())]
        for index, call in enumerate(choice["message"].get("tool_calls", ())):
            arguments = [d["function"]["arguments"] for d in deltas if d["index"] == index]
            assert "".join(arguments) == call["function"]["arguments"]


@given(texts)
def test_pieces_are_tokens(text):
    """The pieces of a text are at most 4 bytes each, none is empty, and together they are the text."""
    pieces = split(text)

    assert "".join(pieces) == text
    assert all(1 <= len(piece.encode()) <= 4 for piece in pieces)


@given(texts, st.integers(0, 300))
def test_cut_divides_no_character(text, size):
    """A cut text is a beginning of the text, and no longer than allowed."""
    kept = cut(text, size)

    assert text.startswith(kept)
    assert len(kept.encode()) <= size


def test_text_beyond_utf8_is_counted():
    """A lone surrogate, which JSON can carry, counts as one byte and comes back as it was."""
    request = {"model": "m", "messages": [{"role": "user", "content": "\ud800"}]}

    said = say(request, Reply("\ud800"))

    assert said["choices"][0]["message"]["content"] == "\ud800"
    assert said["usage"]["prompt_tokens"] == 1


def test_reply_of_nothing_costs_a_token():
    """An empty reply is one token of output, in a stream as well; one of reasoning alone is that reasoning."""
    request = {"model": "m", "messages": [{"role": "user", "content": None}]}

    answer, chunks = say_in_stream(request, Reply(""))

    assert chunks[-1]["usage"]["completion_tokens"] == sum(part.output_tokens for part in answer.parts) == 1
    assert say(request, Reply("", reasoning_tokens=7))["usage"]["completion_tokens"] == 7


def test_usage_too_odd_to_read_leaves_the_derived_counts():
    """A usage object without counts that make sense is sent as it is, while the server counts what it derived."""
    request = {"model": "m", "messages": [{"role": "user", "content": "12345678"}]}
    answer = ChatProtocol().render(request, Reply("1234", usage={"prompt_tokens": None, "completion_tokens": -1}), 1)

    assert (answer.input_tokens, answer.parts[0].output_tokens) == (2, 1)
