"""The Responses API on the wire: any pieces, any fields; what is counted and written is the same and never more."""

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepwarden.integrations._responses import ResponsesCall, ResponsesStream
from stepwarden.integrations._seam import Reported

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
KINDS = ["response.output_text.delta", "response.function_call_arguments.delta", "response.refusal.delta"]
DELTA = st.fixed_dictionaries({"type": st.sampled_from(KINDS), "delta": TEXT})
USAGE = st.fixed_dictionaries(
    {"input_tokens": st.integers(0, 99), "output_tokens": st.integers(0, 99)},
    optional={"input_tokens_details": st.none() | st.just({"cached_tokens": 3})},
)
ODD = st.sampled_from([b": keep-alive", b"data: {torn", b"data: [1]", b"data: {}", b'data: {"type": 7, "delta": 7}'])


def event(value):
    """Frame one event."""
    return f"event: {value.get('type')}\ndata: ".encode() + json.dumps(value, ensure_ascii=False).encode()


def play(pieces, request):
    """Feed the pieces; return what was shown, what is reported and the text."""
    reader = ResponsesStream(ResponsesCall(request))
    shown = b"".join([*(reader.feed(piece) for piece in pieces), reader.end()])
    return shown, reader.reported(), reader.text


@given(
    st.lists(DELTA.map(event) | ODD, max_size=6),
    st.none() | USAGE,
    st.lists(st.integers(0, 10_000), max_size=9),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
def test_any_pieces_show_every_byte_and_report_the_same(events, usage, places, end, background):
    """However a stream is cut, all of it is shown, and its usage, or else what arrived, is reported."""
    request = {"model": "m", "background": background}
    if usage is not None:
        last = {"type": "response.completed", "response": {"id": "r", "model": "n", "usage": usage}}
        events = [*events, event(last)]
    data = b"".join(one.replace(b"\n", end) + end + end for one in events)
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    whole = play([data], request)
    assert play([data[a:b] for a, b in itertools.pairwise(edges)], request) == whole
    shown, reported, _ = whole
    assert shown == data
    if usage is not None:
        assert (reported.model, reported.input_tokens, reported.output_tokens) == (
            "n", usage["input_tokens"], usage["output_tokens"],
        )  # fmt: skip
    elif any(b"response." in one for one in events) and not background:
        assert (reported.output_tokens, reported.arrived_tokens >= 1) == (None, True)
    else:
        assert reported is None


LIMITS = st.one_of(st.none(), st.integers(-2, 5_000), st.floats(), st.booleans(), st.text(max_size=2), st.just([1]))
REQUESTS = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "openai:m"]), "input": TEXT | st.just([{"role": "user", "content": "hello"}])},
    optional={
        "max_output_tokens": LIMITS,
        "stream": st.booleans(),
        "instructions": st.none() | TEXT,
        "conversation": st.none() | TEXT | st.just({"id": 3}),
        "previous_response_id": st.none() | st.integers() | TEXT,
    },
)


@given(REQUESTS, st.integers(0, 5_000))
def test_what_is_written_never_asks_for_more_than_was_granted(request, granted):
    """Whatever the request: the body that is sent names at most what was granted, and keeps all other fields."""
    call = ResponsesCall(json.loads(json.dumps(request)))
    asked = call.output_limit
    limit = granted if asked is None else min(granted, asked)
    body = call.body(limit)
    after = request if body is None else json.loads(body)
    assert limit == after["max_output_tokens"]
    own = {"max_output_tokens", "model"}
    assert {k: v for k, v in after.items() if k not in own} == {k: v for k, v in request.items() if k not in own}
    assert after["model"] == "m"
    assert call.asked.likely() > 0


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda x: st.lists(x) | st.dictionaries(TEXT, x)))
@example({"output": [{"content": [7], "summary": "x"}, 7]})
@example({"output": [], "usage": {"input_tokens": -1, "output_tokens": True}})
def test_any_json_is_a_reply_or_none(value):
    """Whatever JSON comes back is read as a response, or refused as none; nothing else is raised."""
    call = ResponsesCall({"model": "m"})
    body = json.dumps(value).encode()
    if isinstance(value, dict) and isinstance(value.get("output"), list):
        assert isinstance(call.read(body), Reported)
    else:
        with pytest.raises(ValueError, match="no response"):
            call.read(body)
