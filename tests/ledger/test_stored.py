"""Verifying a ledger's file: tampering with its records, its lists or its runs is found and named."""

import shutil
import sqlite3

import pytest
from hypothesis import given

import stepwarden as sw
from stepwarden.ledger import _columns, _receipt_record, _record, _sign
from stepwarden.ledger._packed import pack, unpack
from stepwarden.ledger._reading import Reading
from stepwarden.ledger._stored import find_strays, verify_ledger, verify_run
from tests.ledger.strategies import receipts


@sw.step(model="toy", budget=sw.Budget(max_tokens=100))
def count(tokens):
    with sw.reserve(input_tokens=tokens, output_tokens=5, cost_usd="0.01") as hold:
        hold.settle(input_tokens=tokens, output_tokens=2, cost_usd="0.004")


@sw.persona(budget=sw.Budget(max_usd=1, max_calls=10, max_output_tokens=100, max_input_tokens=900, max_tool_calls=3))
def captain():
    for tokens in (10, 20, 30):
        count(tokens)
    with sw.step("look", budget=sw.Budget(max_seconds=60)), sw.step("closer"):
        sw.tool(name="grep", side_effect="none")(lambda: None)()
        sw.record_usage("toy", input_tokens=7, cost_usd="0.5")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Give a ledger's file with two runs in it, that no test changes."""
    path = tmp_path_factory.mktemp("original") / "ledger.db"
    with sw.SQLiteLedger(path) as ledger:
        for name in ("first", "second"):
            with sw.Run(ledger=ledger, name=name):
                captain()
    return path


@pytest.fixture
def filled(original, path):
    """Give a copy of it, to be tampered with."""
    return shutil.copy(original, path)


def runs_of(path):
    with Reading(path) as reading:
        return [row.id for row in reversed(reading.runs())]


def findings_in(path, key=None):
    with Reading(path) as reading:
        return [
            (str(one.what), one.seq, one.kind) for verdict in verify_ledger(reading, key) for one in verdict.findings
        ]


def change(path, statement, *values):
    database = sqlite3.connect(path)
    database.create_function("unpack", 2, unpack)
    database.create_function("pack", 2, pack)
    with database:
        assert database.execute(statement, values).rowcount > 0
    database.close()


def place_of(path, kind, run=1):
    """Return the key of the first record of a kind in a run, and its number in it."""
    database = sqlite3.connect(path)
    database.create_function("unpack", 2, unpack)
    query = (
        "SELECT key FROM records JOIN runs ON number = key >> 32"
        " WHERE number = ? AND instr(CAST(unpack(data, id) AS TEXT), ?) ORDER BY key"
    )
    key = database.execute(query, (run, f'"kind":"{kind}"')).fetchone()[0]
    database.close()
    return key, key & 0xFFFFFFFF


def of(key):
    """Choose the receipt whose record has a key."""
    return f"place = (SELECT place FROM records WHERE key = {key:d})"  # noqa: S608 - a number


def test_what_a_ledger_wrote_is_intact(filled):
    """Every run in a file verifies, and nothing in it belongs to none."""
    with Reading(filled) as reading:
        verdicts = list(verify_ledger(reading))
        strays = find_strays(reading)

    assert [verdict.run for verdict in verdicts] == runs_of(filled)
    assert [str(one) for verdict in verdicts for one in verdict.findings] == []
    assert all(verdict.claim.startswith("only integrity is claimed") for verdict in verdicts)
    assert strays == ()


def test_a_run_that_goes_on_is_verified_as_far_as_it_is(path):
    """A run that is being written fits together at every moment."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger) as run:
        captain()
        run.journal.ticket().wait()
        with Reading(path) as reading:
            verdict = verify_run(reading, run.id)

    assert (verdict.is_intact, verdict.count > 10) == (True, True)


@pytest.mark.parametrize(
    "kind", ["run_started", "scope_opened", "hold", "settlement", "usage", "tool", "receipt", "run_ended"]
)
@pytest.mark.parametrize("stored", ["pack(CAST(%s AS BLOB), id)", "CAST(%s AS BLOB)"], ids=["packed", "plain"])
def test_an_edited_record_is_named(filled, kind, stored):
    """Whatever kind of record is edited in the file, it is named, whether it is packed again or not."""
    key, seq = place_of(filled, kind)
    edited = stored % """replace(CAST(unpack(data, id) AS TEXT), '"v":1', '"v":1,"w":1')"""
    change(filled, f"UPDATE records SET data = {edited} FROM runs WHERE number = key >> 32 AND key = ?", key)  # noqa: S608 - written above

    assert findings_in(filled) == [("edited", seq, kind)]


def test_a_removed_record_is_named(filled):
    """A record that was deleted is named, and so is the end that was cut off."""
    key, seq = place_of(filled, "settlement")
    change(filled, "DELETE FROM records WHERE key = ?", key)
    assert findings_in(filled) == [("removed", seq, None)]

    key, seq = place_of(filled, "run_ended", run=2)
    change(filled, "DELETE FROM records WHERE key = ?", key)
    assert findings_in(filled)[1:] == [("cut off", seq, None)]


def test_an_end_that_was_cut_off_with_its_count_is_found(filled):
    """Who cuts off the end and corrects the count is found, since a run that ended has the record of its end."""
    key, seq = place_of(filled, "run_ended")
    change(filled, "DELETE FROM records WHERE key = ?", key)
    change(
        filled,
        "UPDATE runs SET count = ?, head = (SELECT head FROM records WHERE key = ?) WHERE number = 1",
        seq,
        key - 1,
    )

    assert ("cut off", seq, "run_ended") in findings_in(filled)


def test_swapped_records_are_named(filled):
    """Two records whose places were swapped are found by their numbers."""
    key, seq = place_of(filled, "settlement")
    change(filled, "UPDATE records SET place = -1 WHERE key = ?", key)
    change(filled, "UPDATE records SET place = place + 1 WHERE key = ?", key - 1)
    change(filled, "UPDATE records SET place = (SELECT place - 1 FROM records WHERE key = ?) WHERE place = -1", key - 1)

    assert {(what, place) for what, place, _ in findings_in(filled)} <= {("reordered", seq), ("reordered", seq - 1)}
    assert findings_in(filled)


@pytest.mark.parametrize("place", [5, 15])
def test_a_record_that_its_run_does_not_show_is_found(filled, place):
    """A record that no run shows, since what tells where its records are says otherwise, is found."""
    change(filled, "INSERT INTO records(key, head, data) SELECT key, head, data FROM records WHERE place = ?", place)
    change(filled, "UPDATE placed SET upto = upto + 1")
    change(filled, "UPDATE records SET key = key + 1 WHERE place = ?", place)

    with Reading(filled) as reading:
        assert [str(one) for one in find_strays(reading)] == [
            "inserted: 2 records belong to no run of the ledger",
        ]


def test_a_receipt_of_another_run_is_found(filled):
    """A receipt that the lists show under another run is missed in its own, and found in the other."""
    key, seq = place_of(filled, "receipt")
    change(filled, f"UPDATE receipts SET run = 2 WHERE {of(key)}")  # noqa: S608

    assert findings_in(filled) == [("removed", seq, "receipt"), ("inserted", seq, None)]
    with Reading(filled) as reading:
        assert [str(one.what) for one in find_strays(reading)] == ["inserted"]


def test_places_that_are_missing_are_found(filled):
    """Records to which their run has no way any more are missed there, and found as some that belong to none."""
    change(filled, "UPDATE places SET count = count - 1 WHERE key = (SELECT max(key) FROM places)")

    assert [what for what, _, _ in findings_in(filled)] == ["cut off"]
    with Reading(filled) as reading:
        assert [str(one.what) for one in find_strays(reading)] == ["inserted"]


def test_an_inserted_record_is_named(filled):
    """A record that was put behind the others is named."""
    key, seq = place_of(filled, "run_ended")
    data = _record.encode("tool", runs_of(filled)[0], seq + 1, 5, {"tool": "rm", "outcome": "completed"})
    change(filled, "INSERT INTO records(key, head, data) VALUES (?, ?, ?)", key + 1, bytes(32), data)

    assert ("inserted", seq + 1, "tool") in findings_in(filled)


@pytest.mark.parametrize("column", _columns.ReceiptColumns._fields)
def test_what_lists_show_is_covered(filled, column):
    """Every column that receipts are listed, filtered or counted by is compared with the records."""
    key, seq = place_of(filled, "receipt")
    change(filled, f"UPDATE receipts SET {column} = CASE WHEN {column} = 1 THEN 2 ELSE 1 END WHERE {of(key)}")  # noqa: S608

    with Reading(filled) as reading:
        found = verify_run(reading, runs_of(filled)[0]).findings

    assert [(str(one.what), one.seq, one.kind) for one in found] == [("edited", seq, "receipt")]
    assert "the ledger's lists show another" in found[0].detail


def test_a_name_that_lists_show_is_covered(filled):
    """A name that was changed where the lists have it is found on every receipt of that name."""
    change(filled, "UPDATE names SET text = 'counted' WHERE text = 'count'")

    assert len(findings_in(filled)) == 6
    assert {what for what, _, _ in findings_in(filled)} == {"edited"}


def test_receipts_that_lists_lack_or_make_up_are_found(filled):
    """A receipt that no list shows is named, and one that a list shows and that was never recorded."""
    key, seq = place_of(filled, "receipt")
    tool, tool_seq = place_of(filled, "tool")
    change(filled, f"UPDATE receipts SET place = (SELECT place FROM records WHERE key = {tool}) WHERE {of(key)}")  # noqa: S608

    assert sorted(findings_in(filled)) == [("inserted", tool_seq, None), ("removed", seq, "receipt")]


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("name", "other", "run_started"),
        ("tenant", "acme", "run_started"),
        ("parent", "x", "run_started"),
        ("status", "failed", "run_ended"),
        ("cost", 7, "run_ended"),
        ("calls", 7, "run_ended"),
        ("input_tokens", 7, "run_ended"),
        ("output_tokens", 7, "run_ended"),
        ("started_at", 5, "run_started"),
        ("ended_at", 5, "run_ended"),
    ],
)
def test_what_the_list_of_runs_shows_is_covered(filled, column, value, kind):
    """What the list of runs shows is compared with the records of its beginning and end."""
    change(filled, f"UPDATE runs SET {column} = ? WHERE number = 1", value)  # noqa: S608

    assert findings_in(filled) == [("edited", place_of(filled, kind)[1], kind)]


def test_an_index_that_shows_something_else_is_found(filled):
    """What lists are looked up by is covered: an index that leaves something out is damage to the file."""
    database = sqlite3.connect(filled)
    database.execute("PRAGMA writable_schema = ON")
    with database:
        query = "UPDATE sqlite_schema SET sql = replace(sql, 'status <> 0', 'status <> 1') WHERE name = ?"
        assert database.execute(query, ("receipts_by_status",)).rowcount == 1
    database.close()
    with Reading(filled) as reading:
        (found,) = find_strays(reading)

    assert str(found).startswith("edited: the file is damaged: row 1 missing from index receipts_by_status")


def test_a_name_that_is_missing_is_told(filled):
    """Statistics of receipts whose names are missing end in an error that says what is missing."""
    change(filled, "DELETE FROM names WHERE text = 'count'")
    with Reading(filled) as reading, pytest.raises(sw.LedgerError, match="its list of names has no number"):
        reading.stats("step")


def test_a_run_that_was_taken_out_is_missed(filled):
    """A run without its row, and one of which nothing is left, are found by their numbers."""
    change(filled, "DELETE FROM runs WHERE number = 1")
    with Reading(filled) as reading:
        found = [str(one) for one in find_strays(reading)]
    assert found[0] == "removed: 1 runs were taken out of the ledger"
    assert [text.partition(" ")[0] for text in found] == ["removed:", "inserted:", "inserted:"]

    change(filled, "DELETE FROM receipts WHERE run = 1")
    change(filled, "DELETE FROM records WHERE key >> 32 = 1")
    with Reading(filled) as reading:
        assert [str(one.what) for one in find_strays(reading)] == ["removed"]


def test_a_stored_signature_that_cannot_be_is_found(filled):
    """What stands where the signature belongs, and is none, is found."""
    change(filled, "UPDATE runs SET signature = 'x' WHERE number = 1")

    assert findings_in(filled) == [("edited", None, None)]


def test_an_unsigned_run_is_not_signed(filled, tmp_path):
    """With a key, a run that nobody has signed is found."""
    _, public = _sign.write_keys(tmp_path / "key")

    assert findings_in(filled, _sign.read_public_key(public)) == [("unsigned", None, None)] * 2


def test_a_receipt_of_a_newer_version_is_left_alone(filled):
    """A receipt with a field that this version does not know fits in its chain, and its row is not compared."""
    key, seq = place_of(filled, "receipt")
    lists = _listed_of(filled, key)
    lists.skip(seq)
    lists.finish()
    assert lists.findings == []


def _listed_of(path, key):
    from stepwarden.ledger._listed import ListedReceipts

    with Reading(path) as reading:
        row = next(reading.columns(runs_of(path)[0]))
        return ListedReceipts(iter([row]), reading.names(), key >> 32 << 32)


@given(receipts())
def test_a_row_can_be_made_of_every_receipt(receipt):
    """Whatever a receipt holds, its row fits into the file's columns, and tells its cost and its tokens."""
    data = _record.encode("receipt", receipt.run_id, 0, 10**18, _record.receipt_fields(receipt, 10**18))

    row = _columns.row_of(_receipt_record.decode_receipt(data), 7, lambda name: None if name is None else len(name))
    columns = _columns.ReceiptColumns._make(row[1:])

    assert row[0] == 7
    assert all(value is None or -(2**63) <= value < 2**63 for value in row)
    assert columns.tokens == min(2**63 - 1, receipt.total.total_tokens)
    assert columns.cost == min(2**63 - 1, int(receipt.total.cost_usd.scaleb(12)))
    assert (columns.pressure is None) == (receipt.budget == sw.Budget())
