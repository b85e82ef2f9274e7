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
RUN = "19b71561338a5a81531a"
STORED = bytes.fromhex(
    "018dd33b0e80300c03d0bb74ee9044314d2e84c4dc89db53513e010462f6623dcbc71a0eb8398a0b130b1152848e3c29b79c"
    "b3a18393962f7315d1a1fc943fd1dbf56b9dc639e2bf88f60257d4b5e11dd6102cf981a7bb9e6c360b"
)


@given(st.binary(max_size=5_000).map(lambda data: data.replace(b"\0", b"")), st.text(max_size=20))
def test_what_was_packed_comes_out_again(data, run):
    """Whatever is packed comes out as it was: any bytes but the one that no JSON has."""
    assert unpack(pack(data, run), run) == data


def test_a_record_gets_shorter():
    """A record of a call takes less than half of its bytes."""
    assert len(pack(RECORD, RUN)) * 2 < len(RECORD)


def test_what_was_packed_once_is_read_for_ever():
    """Bytes that an earlier version has packed are read as the record that they were."""
    assert unpack(STORED, RUN) == RECORD


def test_what_is_not_packed_is_left_alone():
    """A record that is stored as it is is read as it is."""
    assert unpack(RECORD, RUN) == RECORD
    assert unpack(b"", RUN) == b""


@pytest.mark.parametrize(
    "change",
    [lambda it: it[:-3], lambda it: it + b"\0", lambda it: it[:1] + b"\xff" + it[2:]],
    ids=["cut off", "added to", "changed"],
)
def test_what_cannot_be_unpacked_is_no_record(change):
    """Packed bytes that were cut off, added to or changed come out as they are, and so as no record."""
    damaged = change(pack(RECORD, RUN))

    assert unpack(damaged, RUN) == damaged
