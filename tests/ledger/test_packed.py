"""Packing: a record takes fewer bytes in the file, and what comes out again is what went in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwarden.ledger._packed import pack, unpack

RECORD = (
    b'{"at":"1795598957921012005","calls":[["openai:gpt-5",1201,85,"0.00047","settled"]],"duration_ns":422467,"kind":'
    b'"receipt","model":"openai:gpt-5","name":"classify","own":{"calls":1,"cost_usd":"0.00047","input_tokens":1201,'
    b'"output_tokens":85},"parent":1,"run":"19b71561338a5a81531a","seq":4,"step":2,"v":1}'
)
STORED = bytes.fromhex(
    "018dd3bd0e80201003e0777166a00785bbc7d1c1c499c9b797f88b261ae72ecdd7f45cc248536336818778cfae456e693a57"
    "7338e586ed63fef28e2231e59fea1778bd7829d338b7f02f9a5b813be8daf089aa6c1c71d8c1860c2684a03d7b0503ce27c7"
    "035476ae05"
)


@given(st.binary(max_size=5_000))
def test_what_was_packed_comes_out_again(data):
    """Whatever bytes are packed, they come out as they were."""
    assert unpack(pack(data)) == data


def test_a_record_gets_shorter():
    """A record of a call takes less than half of its bytes."""
    assert len(pack(RECORD)) * 2 < len(RECORD)


def test_what_was_packed_once_is_read_for_ever():
    """Bytes that an earlier version has packed are read as the record that they were."""
    assert unpack(STORED) == RECORD


def test_what_is_not_packed_is_left_alone():
    """A record that is stored as it is is read as it is."""
    assert unpack(RECORD) == RECORD
    assert unpack(b"") == b""


@pytest.mark.parametrize(
    "change",
    [lambda it: it[:-3], lambda it: it + b"\0", lambda it: it[:1] + b"\xff" + it[2:]],
    ids=["cut off", "added to", "changed"],
)
def test_what_cannot_be_unpacked_is_no_record(change):
    """Packed bytes that were cut off, added to or changed come out as they are, and so as no record."""
    damaged = change(pack(RECORD))

    assert unpack(damaged) == damaged
