"""Records: one way to write each, and every other way refused."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.ledger import _chain, _receipt_record, _record
from tests.ledger.strategies import nested, receipts, texts

FIELDS = {"name": "classify", "status": "completed"}
HEADER = b'"at":"5","kind":"tool","run":"r","seq":0,"v":1'


def write(fields, kind="tool"):
    return _record.encode(kind, "r", 0, 5, fields)


@given(st.dictionaries(texts.map("x".__add__), nested, max_size=4), texts, st.integers(0, 2**53 - 1))
def test_what_is_written_is_read_back(fields, run, seq):
    """A record gives back what was written, and is sorted, compact JSON that any JSON library reads the same way."""
    data = _record.encode("tool", run, seq, 5, fields)

    read = _record.decode(data)

    assert read == {**fields, "v": 1, "kind": "tool", "run": run, "seq": seq, "at": "5"}
    assert json.loads(data) == read
    assert json.dumps(read, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data


@given(receipts(), st.none() | st.integers(0, 2**62))
def test_a_receipt_comes_back_whole(receipt, at_ns):
    """A receipt that went through its record equals itself, in every field."""
    fields = _record.receipt_fields(receipt, at_ns, with_messages=True)

    data = _record.encode("receipt", receipt.run_id, 0, at_ns or 5, fields)

    assert _record.receipt_from(_record.decode(data)) == receipt
    # The fast way reads all of them, and sees the same.
    assert _receipt_record.as_receipt(_receipt_record.read_receipt(data)) == receipt


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{" + HEADER + b',"x":NaN}', "not-a-number"),
        (b"{" + HEADER + b',"x":Infinity}', "infinity"),
        (b"{" + HEADER + b',"x":1.0}', "a float"),
        (b"{" + HEADER + b',"x":1e2}', "an exponent"),
        (b"{" + HEADER + b',"x":-0}', "negative zero"),
        (b"{" + HEADER + b',"x":01}', "a leading zero"),
        (b"{" + HEADER + b',"x":9007199254740992}', "an integer over 2^53-1"),
        (b"{" + HEADER + b',"x":-9007199254740992}', "one under -(2^53-1)"),
        (b"{" + HEADER + b',"x":100000000000000000000000}', "one of more than 64 bits"),
        (b"{" + HEADER + b',"x":1,"x":2}', "a key twice"),
        (b'{"x":1,' + HEADER + b"}", "keys out of order"),
        (b"\xef\xbb\xbf{" + HEADER + b"}", "a byte-order mark"),
        (b"{" + HEADER + b"} ", "a space behind"),
        (b"{" + HEADER + b"}\n", "a line end behind"),
        (b"{" + HEADER + b"}{}", "bytes behind"),
        (b" {" + HEADER + b"}", "a space before"),
        (b"{" + HEADER + b', "x":1}', "a space inside"),
        (b"{" + HEADER + b',"x":"\\u0041"}', "a needless escape"),
        (b"{" + HEADER + b',"x":"\\/"}', "an escaped slash"),
        (b"{" + HEADER + b',"x":"\\u00e9"}', "an escaped letter"),
        (b"{" + HEADER + b',"x":"\\u000A"}', "a long escape where there is a short one"),
        (b"{" + HEADER + b',"x":"\\u000B"}', "capitals in an escape"),
        (b"{" + HEADER + b',"x":"\n"}', "a bare control character"),
        (b"{" + HEADER + b',"x":"\\ud800"}', "a lone surrogate, escaped"),
        (b"{" + HEADER + b',"x":"\xed\xa0\x80"}', "a lone surrogate, encoded"),
        (b"{" + HEADER + b',"x":"\\ud83d\\ude00"}', "a pair of surrogates, escaped"),
        (b"{" + HEADER + b',"x":"\xff"}', "bytes that are no UTF-8"),
        (b"{" + HEADER + b',"x":[[[[1]]]]}', "values nested too deep"),
        (b"{" + HEADER + b',"x":', "an end in the middle"),
        (b"[1]", "no object"),
        (b"", "nothing"),
        (b'{"at":"5","kind":"tool","run":"r","seq":0,"v":2}', "another version"),
        (b'{"at":"5","kind":"tool","run":"r","seq":0,"v":true}', "a version that is no integer"),
        (b'{"at":"5","kind":"tool","run":"r","seq":0}', "no version"),
        (b'{"at":"5","kind":"gossip","run":"r","seq":0,"v":1}', "an unknown kind"),
        (b'{"at":"5","kind":"tool","run":7,"seq":0,"v":1}', "a run that is no string"),
        (b'{"at":"5","kind":"tool","run":"r","seq":-1,"v":1}', "a negative number"),
        (b'{"at":"5","kind":"tool","run":"r","seq":false,"v":1}', "a number that is a boolean"),
        (b'{"at":5,"kind":"tool","run":"r","seq":0,"v":1}', "a time that is no string"),
        (b'{"at":"05","kind":"tool","run":"r","seq":0,"v":1}', "a time with a leading zero"),
        (b'{"at":"5\n","kind":"tool","run":"r","seq":0,"v":1}', "a time that is no number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_canonical_is_refused(data, why):
    """Bytes that no ledger of ours would write are refused, whatever another JSON reader makes of them."""
    with pytest.raises(sw.LedgerError):
        _record.decode(data)


def test_the_smallest_record_is_pinned():
    """The bytes of a record, and with them its hash, are the same for ever."""
    data = write({"z": [1, -1, True, None], "a": {"b": 'é\u0301 \u2028/\\"\n\x0b\x7f😀'}})

    assert data == (
        b'{"a":{"b":"\xc3\xa9\xcc\x81 \xe2\x80\xa8/\\\\\\"\\n\\u000b\x7f\xf0\x9f\x98\x80"},'
        + HEADER
        + b',"z":[1,-1,true,null]}'
    )


def test_strings_that_look_alike_stay_apart():
    """Unicode is stored as it came: a composed and a decomposed letter are two strings."""
    composed, decomposed = write({"x": "\u00e9"}), write({"x": "e\u0301"})

    assert composed != decomposed
    assert _record.decode(decomposed)["x"] == "e\u0301"


def test_keys_are_sorted_by_code_point():
    """Keys stand in the order of their code points, which is not that of UTF-16."""
    data = write({"\U0001f600": 1, "\uffff": 2, "Z": 3, "b": 4})

    assert list(_record.decode(data)) == ["Z", "at", "b", "kind", "run", "seq", "v", "\uffff", "\U0001f600"]


def test_a_lone_surrogate_is_written_as_text():
    """A name that is no Unicode is recorded, with the escape of what is wrong in it."""
    data = write({"x\udcff": ["a\udc80b"]})

    assert _record.decode(data)["x\\udcff"] == ["a\\udc80b"]


@pytest.mark.parametrize(
    ("number", "written"),
    [(2**53 - 1, 2**53 - 1), (2**53, str(2**53)), (-(2**53), str(-(2**53))), (2**80, str(2**80)), (True, True)],
)
def test_integers_that_readers_differ_on_become_strings(number, written):
    """An integer beyond 2^53-1, either way, is written as decimal digits in a string."""
    assert _record.decode(write({"x": [number]}))["x"] == [written]


@pytest.mark.parametrize("value", [1.5, 1.0, float("nan"), float("inf"), b"x", {1: 2}, object(), {"y": {1}}])
def test_what_a_record_cannot_have_is_refused(value):
    """A float or any other value that has no canonical form is an error that names the field."""
    with pytest.raises(sw.LedgerError, match="x"):
        write({"x": value})


def test_values_nested_too_deep_are_refused():
    """What could not be read back is not written."""
    with pytest.raises(sw.LedgerError, match="too deep"):
        write({"x": [[[[1]]]]})


def test_an_unknown_kind_is_refused():
    """A kind that no reader would take is an error that lists those that exist."""
    with pytest.raises(sw.LedgerError, match=r"hold, late.*'gossip'"):
        write({}, kind="gossip")


@pytest.mark.parametrize("name", ["v", "kind", "run", "seq", "at"])
def test_a_field_cannot_take_the_name_of_a_common_one(name):
    """A field that would replace a common one is refused."""
    with pytest.raises(sw.LedgerError, match=f"named {name}"):
        write({name: "x"})


def spent_receipt(error=None):
    with sw.Run() as run:
        with sw.step("outer"), sw.step("inner"):
            sw.record_usage("m", input_tokens=10, output_tokens=5, cost_usd="0.10")
    return replace(run.receipts[0], error=error)


def test_what_is_empty_is_left_out():
    """A receipt's record has only what is not empty, and its total only where that is not its own."""
    fields = _record.receipt_fields(spent_receipt())

    assert fields == {
        "step": 3,
        "parent": 2,
        "name": "inner",
        "model": "m",
        "own": {"calls": 1, "cost_usd": "0.1", "input_tokens": 10, "output_tokens": 5},
        "calls": [["m", 10, 5, "0.1", "recorded"]],
        "started_at": fields["started_at"],
        "duration_ns": fields["duration_ns"],
    }


def test_what_follows_is_left_out():
    """The beginning of a receipt that was recorded at its end follows from that and its duration."""
    receipt = replace(spent_receipt(), started_at=datetime(2026, 1, 2, tzinfo=UTC), duration=0.000_001_5)
    end = int(receipt.started_at.timestamp()) * 10**9 + 1_500

    short, long = _record.receipt_fields(receipt, end), _record.receipt_fields(receipt, end + 1_000)

    assert "started_at" not in short
    assert long["started_at"] == f"{end - 1_500}"
    assert _record.receipt_from(_record.decode(_record.encode("receipt", receipt.run_id, 0, end, short))) == receipt


def test_money_is_plain_digits():
    """USD have no exponent, no zeros at the end, and no more than twelve decimals."""
    receipt = replace(
        spent_receipt(),
        own=sw.Usage(cost_usd=Decimal("1E+3")),
        total=sw.Usage(cost_usd=Decimal("0.0000001000")),
        overshoot=sw.Usage(cost_usd=Decimal("1E-999")),
    )

    fields = _record.receipt_fields(receipt)

    assert (fields["own"], fields["total"]) == ({"cost_usd": "1000"}, {"cost_usd": "0.0000001"})
    assert fields["overshoot"] == {"cost_usd": "0.000000000001"}


def test_texts_that_may_quote_a_prompt_are_left_out():
    """Of an error that is not ours its type is kept, and of ours, which names steps and numbers, the text too."""
    foreign = _record.receipt_fields(spent_receipt(sw.ReceiptError("ValueError", "bad: secret")))
    ours = _record.receipt_fields(spent_receipt(sw.ReceiptError("BudgetExceededError", "step `plan` exceeded")))
    quoting = _record.receipt_fields(spent_receipt(sw.ReceiptError("DefinitionError", "not 'secret'")))

    assert foreign["error"] == ["ValueError"]
    assert ours["error"] == ["BudgetExceededError", "step `plan` exceeded"]
    assert quoting["error"] == ["DefinitionError"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"status": "fine"}, r"\$\.status"),
        ({"own": {"calls": -1}}, r"\$\.own\.calls"),
        ({"own": {"calls": "12"}}, r"own\.calls cannot be '12'"),
        ({"own": {"cost_usd": "0.10"}}, r"own\.cost_usd cannot be '0.10'"),
        ({"own": {"cost_usd": "1e3"}}, r"own\.cost_usd cannot be '1e3'"),
        ({"own": {"cost_usd": 1}}, r"\$\.own\.cost_usd"),
        ({"budget": {"max_seconds": "nan"}}, r"budget\.max_seconds cannot be 'nan'"),
        ({"calls": [["m", 1, 2, "x", "settled"]]}, r"calls cannot be 'x'"),
        ({"calls": [["m"]]}, r"\$\.calls"),
        ({"calls": [["m", 1, 2, "0", "settled", False]]}, "calls cannot have"),
        ({"calls": [["m", 1, 2, 0, "settled"]]}, "calls cannot have"),
        ({"calls": [["m", True, 2, "0", "settled"]]}, "calls cannot be True"),
        ({"prompt": "x"}, "prompt"),
        ({"started_at": "1.5"}, r"started_at cannot be '1.5'"),
    ],
)
def test_a_record_that_is_no_receipt_is_refused(change, where):
    """A receipt record with a field that cannot be is an error that names the field."""
    receipt = spent_receipt()
    record = {**_record.decode(_record.encode("receipt", receipt.run_id, 0, 5, _record.receipt_fields(receipt)))}

    with pytest.raises(sw.LedgerError, match=where):
        _record.receipt_from({**record, **change})


def test_the_head_covers_every_byte_before_it():
    """The chain begins with the run's id, and each head is the hash of the one before and the record."""
    first = hashlib.sha256(b"stepwarden-chain-1\nr").digest()

    head = _chain.extend(_chain.genesis("r"), b"{}")

    assert _chain.genesis("r") == first
    assert head == hashlib.sha256(first + b"{}").digest()


def test_times_before_the_epoch_are_times():
    """A clock that stands before 1970 is recorded as it stands."""
    receipt = replace(spent_receipt(), started_at=datetime(1969, 12, 31, tzinfo=UTC))

    assert _record.receipt_fields(receipt)["started_at"] == "-86400000000000"
    assert _record.decode(_record.encode("tool", "r", 0, -5, {}))["at"] == "-5"
