"""What is read and measured fast comes to what the standard library's JSON comes to."""

import dataclasses
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepwarden.integrations._chat import ChatCall
from stepwarden.integrations._fast_json import parsed, size_as_json
from stepwarden.integrations._json import compact
from stepwarden.integrations._messages import MessagesCall

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MARK = b"\xef\xbb\xbf"
"""A mark before JSON: only the standard library reads what comes after it."""
COUNT = st.integers(0, 99) | SCALARS | st.floats() | st.just(1 << 70)


def usages(counts, nested):
    return st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(counts, COUNT)
        | {name: JSON | st.dictionaries(st.sampled_from(inner), COUNT) for name, inner in nested.items()},
    )


CHAT = usages(
    ["prompt_tokens", "completion_tokens", "more"],
    {
        "prompt_tokens_details": ["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "x"],
        "completion_tokens_details": ["reasoning_tokens", "audio_tokens", "x"],
    },
)
MESSAGES = usages(
    ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "more"],
    {"cache_creation": ["ephemeral_1h_input_tokens", "x"], "output_tokens_details": ["thinking_tokens", "x"]},
)


def replies(said, usage):
    return st.fixed_dictionaries({said: st.lists(JSON, max_size=2) | JSON, "usage": usage}, optional={"model": SCALARS})


@given(JSON | st.floats(), st.booleans())
@example({"a": "\ud800"}, True)
@example(float("nan"), True)
def test_json_is_read_as_the_standard_library_reads_it(value, is_ascii):
    """Whatever is written, halves of surrogate pairs and odd numbers too, is read alike."""
    data = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    assert repr(parsed(data)) == repr(json.loads(data))


@given(st.binary(max_size=20))
def test_what_is_no_json_is_a_value_error(data):
    """Bytes are JSON, or a ValueError, exactly where they are for the standard library."""
    try:
        there = repr(json.loads(data))
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            parsed(data)
    else:
        assert repr(parsed(data)) == there


@given(JSON)
@example(["\ud800"])
@example([1 << 80])
@example({'\x7f\x00\n\\"/': "\u2028"})
def test_a_value_has_the_size_that_it_is_sent_with(value):
    """The bytes that are counted are those of the compact JSON that SDKs send."""
    assert size_as_json(value) == len(compact(value).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("call", "kind"), [(ChatCall, replies("choices", CHAT)), (MessagesCall, replies("content", MESSAGES))]
)
@given(data=st.data())
def test_a_reply_reports_the_same_read_fast_and_read_whole(call, kind, data):
    """Whatever a reply says of its usage, in right numbers or in odd ones, the shortcut reports it like the long way."""
    body = json.dumps(data.draw(kind)).encode()
    whole, fast = (_read(call, prefix + body) for prefix in (MARK, b""))
    if whole is not None and fast is not None and whole.output_tokens is not None:
        whole, fast = (dataclasses.replace(each, arrived_tokens=1) for each in (whole, fast))
    assert fast == whole


@pytest.mark.parametrize("call", [ChatCall, MessagesCall])
def test_a_torn_text_makes_a_reply_unreadable(call):
    """Bytes that are no UTF-8 make a reply none, wherever in it they stand."""
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "input_tokens": 1, "output_tokens": 1}
    body = json.dumps({"choices": ["?"], "content": ["?"], "usage": counts}).encode()
    assert _read(call, body) is not None
    assert _read(call, body.replace(b"?", b"\xff")) is None


def _read(call, body):
    try:
        return call({}).read(body)
    except ValueError:
        return None
