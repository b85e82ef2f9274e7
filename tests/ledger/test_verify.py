"""Verifying: every way to tamper is found, and the record is named."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.ledger import _export, _record, _sign, _verify
from tests.ledger import vectors
from tests.ledger.vectors import FOLDER, ROWS, RUN, SIGNED, VECTORS

FOUND = json.loads((FOLDER / "found.json").read_text())
KEY = _sign.read_public_key(FOLDER / "key.pub")


def found_in(name, key):
    try:
        verdict = _export.verify_export(FOLDER / f"{name}.jsonl", key)
    except sw.LedgerError as error:
        assert "no receipt file" in str(error)
        return "no receipt file"
    assert verdict.is_intact == (not verdict.findings)
    return [[str(finding.what), finding.seq, finding.kind] for finding in verdict.findings]


@pytest.mark.parametrize("name", FOUND)
def test_a_golden_file_is_judged_as_recorded(name):
    """A valid file is intact, and in every other one the records that were tampered with are named, and no others."""
    assert found_in(name, KEY) == FOUND[name]["with_key"]
    assert found_in(name, None) == FOUND[name]["without"]


def test_the_golden_files_are_the_format():
    """What is written today has the same bytes as the golden files, so that nothing changes the format unseen."""
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == VECTORS.keys() == FOUND.keys()
    for name, (content, with_key, without) in VECTORS.items():
        assert (FOLDER / f"{name}.jsonl").read_bytes() == b"".join(content), name
        assert FOUND[name] == {"with_key": with_key, "without": without}, name


@pytest.mark.parametrize(("name", "signed"), [("valid_signed", SIGNED), ("valid_unsigned", None)])
def test_an_export_is_the_golden_file(tmp_path, name, signed):
    """Exporting a run writes its records byte by byte, with their heads and how they end."""
    head = None if signed is None else _sign.SignedHead.parse("1.{count}.{head}.{key}.{signature}".format(**signed))
    path = tmp_path / "out.jsonl"

    with path.open("wb") as file:
        _export.write_export(file, RUN, ROWS, _verify.End(len(ROWS), ROWS[-1][1], head))

    assert path.read_bytes() == (FOLDER / f"{name}.jsonl").read_bytes()


def test_the_key_that_is_given_decides():
    """Signed by its holder, a run is intact and complete; without a key only integrity is claimed, in those words."""
    path = FOLDER / "valid_signed.jsonl"
    with_key, without = _export.verify_export(path, KEY), _export.verify_export(path)
    other = vectors.OTHER_KEY.public_key().public_bytes_raw()
    by_another = _export.verify_export(path, other)

    assert (with_key.signed, without.signed, by_another.signed) == (True, None, False)
    assert with_key.claim == "they are intact and complete, as the holder of the key has signed them"
    assert without.claim.startswith("only integrity is claimed")
    assert by_another.claim == "they fit together, and are not what the holder of the key has signed"
    assert str(by_another.findings[0]).startswith("forged: signed with another key, ")


def test_a_finding_reads_as_a_sentence():
    """A finding names what was done, the record's number and kind, and what shows it."""
    verdict = _export.verify_export(FOLDER / "removed_one.jsonl", KEY)

    assert [str(one) for one in verdict.findings] == ["removed: record 5: it is missing before record 6 (receipt)"]
    assert (verdict.run, verdict.count) == (RUN, 8)


def verify_rows(rows, end=None, key=None, **more):
    end = end or _verify.End(len(ROWS), ROWS[-1][1], None, **more)
    return _verify.verify(RUN, lambda: iter(rows), end, key)


def test_a_run_that_ended_has_the_record_of_its_end():
    """Where a run is stored as ended, it is found if the record of that was cut off and its count corrected."""
    short = ROWS[:-1]

    verdict = verify_rows(short, _verify.End(len(short), short[-1][1], None, is_ended=True))

    assert [(one.what, one.seq, one.kind) for one in verdict.findings] == [("cut off", 8, "run_ended")]


def test_an_empty_run_is_intact():
    """A run without a record fits together."""
    assert verify_rows([], _verify.End(0, vectors._chain.genesis(RUN), None)).is_intact


@settings(max_examples=300)
@given(st.data())
def test_no_change_of_a_byte_is_missed(data):
    """Whatever byte of whatever record is changed, it is found, and that record is named."""
    place = data.draw(st.integers(0, len(ROWS) - 1))
    record, head = ROWS[place]
    at = data.draw(st.integers(0, len(record) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != record[at]))
    rows = [*ROWS]
    rows[place] = (record[:at] + bytes([byte]) + record[at + 1 :], head)

    findings = verify_rows(rows).findings

    assert findings
    # A changed number moves it elsewhere: then its absence is named as well.
    assert place in {finding.seq for finding in findings}


@settings(max_examples=300)
@given(st.permutations(range(len(ROWS))))
def test_no_other_order_is_missed(order):
    """Records in another order are found, only moved ones are named, and without those the rest stands in order."""
    findings = verify_rows([ROWS[place] for place in order]).findings
    moved = {finding.seq for finding in findings}

    assert {str(finding.what) for finding in findings} <= {"reordered"}
    assert bool(findings) == (order != sorted(order))
    rest = [place for place in order if place not in moved]
    assert rest == sorted(rest)


@settings(max_examples=300)
@given(st.sets(st.integers(0, len(ROWS) - 1), min_size=1))
def test_no_missing_record_is_missed(gone):
    """Whichever records are taken away, exactly those are named, the last ones as cut off."""
    findings = verify_rows([row for place, row in enumerate(ROWS) if place not in gone]).findings
    left = max(set(range(len(ROWS))) - gone, default=-1)

    assert {one.seq for one in findings if one.what == "removed"} == {seq for seq in gone if seq < left}
    assert {one.seq for one in findings if one.what == "cut off"} == ({left + 1} if left < len(ROWS) - 1 else set())
    assert {str(one.what) for one in findings} <= {"removed", "cut off"}


@pytest.mark.parametrize("line", [
    b'{"count":9}\n',
    b'{"count":true,"head":"%b"}\n' % (b"0" * 64),
    b'{"count":-1,"head":"%b"}\n' % (b"0" * 64),
    b'{"count":9,"head":"%b"}\n' % (b"A" * 64),
    b'{"count":9,"head":"%b","signed":null}\n' % (b"0" * 64),
    b'{"count":9,"head":"%b","signed":{"count":9}}\n' % (b"0" * 64),
    b'{"count":9,"head":"%b","more":1}\n' % (b"0" * 64),
    b'{"count":9, "head":"%b"}\n' % (b"0" * 64),
])  # fmt: skip
def test_a_last_line_that_cannot_be_is_found(tmp_path, line):
    """The line that ends the records has its fields in their form, or was edited."""
    path = tmp_path / "file.jsonl"
    path.write_bytes(b"".join([*vectors.WHOLE[:-1], line]))

    findings = _export.verify_export(path).findings

    assert [str(finding.what) for finding in findings] == ["edited", "cut off"]


def test_no_byte_of_a_signed_file_can_be_changed_removed_or_added(tmp_path):
    """Wherever a byte of the file is changed, taken away or added, whoever has the public key is told."""
    whole = b"".join(vectors.WHOLE)
    path = tmp_path / "file.jsonl"

    def is_found(content):
        path.write_bytes(content)
        try:
            return bool(_export.verify_export(path, KEY).findings)
        except sw.LedgerError:
            return True

    assert not is_found(whole)
    missed = [
        (place, change)
        for place in range(len(whole) + 1)
        for change, middle in (("changed", bytes([value ^ 1 for value in whole[place : place + 1]])), ("removed", b""))
        if place < len(whole) and not is_found(whole[:place] + middle + whole[place + 1 :])
    ]
    missed += [
        (place, "added") for place in range(len(whole) + 1) if not is_found(whole[:place] + b" " + whole[place:])
    ]
    assert missed == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 200,
        b"{}\n",
        b'{"format":"stepwarden-receipts-2","run":"r"}\n',
        b'{"format":"stepwarden-receipts-1","run":7}\n',
    ],
)
def test_what_is_no_receipt_file_is_refused(tmp_path, content):
    """A file that does not begin as one is an error, and no verdict."""
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)

    with pytest.raises(sw.LedgerError, match="is no receipt file"):
        _export.verify_export(path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    """A file that is missing is named."""
    with pytest.raises(sw.LedgerError, match=r"nowhere cannot be read: No such file"):
        _export.verify_export(tmp_path / "nowhere")


def test_a_double_is_told_from_the_record_that_others_stand_on():
    """Of two records with one number, the one that the next record follows is the run's, whichever comes first."""
    forged = vectors.FORGED
    head = vectors._chain.extend(ROWS[4][1], forged)

    before = verify_rows([*ROWS[:5], (forged, head), *ROWS[5:]]).findings
    after = verify_rows([*ROWS[:6], (forged, head), *ROWS[6:]]).findings

    assert ["at place 5" in str(one) for one in before] == [True]
    assert ["at place 6" in str(one) for one in after] == [True]


def test_the_sample_is_what_a_ledger_writes():
    """The records of the golden files are read as receipts."""
    receipts = [_record.decode(data) for data, _ in ROWS]

    assert [_record.receipt_from(one).name for one in receipts if one["kind"] == "receipt"] == [
        "classify",
        "triage_captain",
    ]
