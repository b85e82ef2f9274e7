"""The chat wire format: whatever the pieces that a stream comes in, the caller sees and the budget counts the same."""

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepwarden.integrations._chat import ChatCall, ChatStream
from stepwarden.integrations._seam import Reported

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
CHOICE = st.fixed_dictionaries(
    {"index": st.integers(0, 3), "delta": st.fixed_dictionaries({}, optional={"content": TEXT, "refusal": TEXT})}
)
COUNTS = st.fixed_dictionaries({"prompt_tokens": st.integers(0, 99), "completion_tokens": st.integers(0, 99)})
CHUNK = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, min_size=1, max_size=3)},
    optional={"model": st.sampled_from(["m", "n"]), "usage": st.none()},
)
EVENT = st.one_of(
    CHUNK.map(lambda chunk: b"data: " + json.dumps(chunk, ensure_ascii=False).encode()),
    CHUNK.map(lambda chunk: b"event: x\ndata:" + json.dumps(chunk).encode()),
    st.just(b": keep-alive"),
    st.just(b"data: {torn"),
    st.just(b"retry: 10"),
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw):
    """Draw a stream: its events with one kind of line end, and where in it the chunk with the usage stands."""
    end = draw(ENDS)
    events = [event.replace(b"\n", end) + end + end for event in draw(st.lists(EVENT, max_size=6))]
    usage = draw(st.none() | COUNTS)
    if usage is None:
        return events, None, usage
    chunk = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + end + end
    at = draw(st.integers(0, len(events)))
    return [*events[:at], chunk, *events[at:]], chunk, usage


def cut(data, places):
    """Cut bytes at places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def play(pieces, *, hides_usage):
    """Feed the pieces; return what was shown and what is reported."""
    reader = ChatStream(hides_usage=hides_usage)
    shown = b"".join([*(reader.feed(piece) for piece in pieces), reader.end()])
    return shown, reader.reported()


@given(streams(), st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_any_pieces_show_the_same_bytes_and_report_the_same_numbers(stream, places, hides_usage):
    """However a stream is cut, the caller gets its very bytes, less a hidden usage chunk, and the numbers are the same."""
    events, hidden, usage = stream
    data = b"".join(events)
    shown, reported = play(cut(data, places), hides_usage=hides_usage)
    assert shown == b"".join(event for event in events if not (hides_usage and event is hidden))
    assert (shown, reported) == play([data], hides_usage=hides_usage)
    assert (shown, reported) == play([bytes([byte]) for byte in data], hides_usage=hides_usage)
    if usage is not None:
        assert reported is not None
        assert (reported.input_tokens, reported.output_tokens) == (
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6), st.booleans())
@example(b"data: {}\n\ndata: [DONE]", [3, 9, 10], True)
def test_bytes_that_are_no_chat_are_shown_as_they_are(data, places, hides_usage):
    """What is no usage chunk is never held back, added to or taken from, whatever it is."""
    assert play(cut(data, places), hides_usage=hides_usage)[0] == data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ODD = st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON | st.lists(st.fixed_dictionaries({}, optional={
            "delta": JSON | st.fixed_dictionaries({}, optional={"content": JSON, "tool_calls": JSON | st.lists(
                st.fixed_dictionaries({}, optional={"function": JSON | st.fixed_dictionaries({"name": JSON})})
            )}),
            "message": JSON,
        }), max_size=2),
        "usage": JSON | st.dictionaries(
            st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details"]),
            JSON | st.just({"cached_tokens": -1}),
        ),
        "model": JSON,
    },
)  # fmt: skip


@given(ODD)
def test_an_odd_reply_is_read_or_is_none_and_never_an_error_of_ours(reply):
    """Whatever JSON a server sends: reading it gives counts of at least 0, or a ValueError where it is no reply."""
    data = json.dumps(reply).encode()
    _, streamed = play([b"data: " + data + b"\n\n"], hides_usage=True)
    try:
        whole = ChatCall({}).read(data)
    except ValueError:
        whole = None
    for reported in (streamed, whole):
        if reported is not None:
            counts = (reported.input_tokens or 0, reported.output_tokens or 0, reported.cache_read_tokens)
            assert min(*counts, reported.reasoning_tokens) >= 0
            assert reported.output_tokens is not None or reported.arrived_tokens > 0
            assert reported.model is None or isinstance(reported.model, str)


@given(st.text(min_size=1, max_size=200), st.integers(1, 9))
def test_what_arrived_is_estimated_by_its_bytes_and_its_chunks(text, size):
    """Without usage the output is a token for three bytes, or one for each chunk where those are more."""
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    chunks = [{"choices": [{"delta": {"content": part}}]} for part in parts]
    _, reported = play([b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks], hides_usage=False)
    size = len(text.encode("utf-8", "surrogatepass"))
    assert reported == Reported(arrived_tokens=max(len(parts), -(-size // 3)))


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 3, "completion_tokens": 2},
        {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None},
        {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": None}},
    ],
    ids=["none", "null", "null inside"],
)
def test_details_that_are_missing_are_none(usage):
    """Servers leave out the details of their usage; the counts stand without them."""
    reply = {"choices": [], "model": "m", "usage": usage}
    reported = ChatCall({}).read(json.dumps(reply).encode())
    assert (reported.input_tokens, reported.output_tokens, reported.cache_read_tokens) == (3, 2, 0)


def test_a_stream_that_says_its_usage_all_along_is_complete_at_its_end():
    """Some servers send the usage so far with each chunk: only the last of them says that all has arrived."""
    reader = ChatStream(hides_usage=False)

    def feed(usage, *choices):
        reader.feed(b"data: %s\n\n" % json.dumps({"choices": choices, "usage": usage}).encode())
        return reader.is_complete, reader.reported()

    for tokens in (1, 2):
        usage = {"prompt_tokens": 3, "completion_tokens": tokens}
        is_complete, reported = feed(usage, {"index": 0, "delta": {"content": "x"}, "finish_reason": None})
        assert not is_complete
        assert (reported.input_tokens, reported.output_tokens) == (3, tokens)
    assert feed(usage, {"index": 0, "delta": {}, "finish_reason": "stop"})[0]
    assert not feed(usage, {"index": 1, "delta": {"content": "x"}, "finish_reason": None})[0]
    assert feed(usage)[0]
