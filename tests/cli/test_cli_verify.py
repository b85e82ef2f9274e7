"""Keys, receipt files and `stepwarden verify`, as somebody uses them who trusts nobody."""

import json
import sqlite3

import pytest

from stepwarden.ledger._packed import unpack

AGENT = "agent_under_test"


@pytest.fixture
def signed(stepwarden, folder):
    """Make keys, and record a signed run."""
    assert stepwarden("keys", "new", "--out", "key").status == 0
    stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--sign", "key")
    return stepwarden


def tamper(folder, old, new):
    """Change the first record with *old* in it; return its number."""
    database = sqlite3.connect(folder / ".stepwarden" / "ledger.db")
    query = "SELECT key, data, id FROM records JOIN runs ON number = key >> 32 ORDER BY key"
    for key, stored, run in database.execute(query).fetchall():
        data = unpack(stored, run)
        if old in data:
            with database:
                database.execute("UPDATE records SET data = ? WHERE key = ?", (data.replace(old, new), key))
            database.close()
            return key & 0xFFFFFFFF
    raise AssertionError(f"no record has {old}")


def test_a_pair_of_keys_is_made(stepwarden, folder):
    """`keys new` writes both files, names them, and never writes over one."""
    first, second = stepwarden("keys", "new", "--out", "key"), stepwarden("keys", "new", "--out", "key")
    third = stepwarden("keys", "new", "--out", "other", "--json")

    assert first.status == 0
    assert [line.partition(":")[0] for line in first.out.splitlines()] == ["key", "key.pub"]
    assert (second.status, second.out) == (2, "")
    assert second.err == "stepwarden: key already exists, and keys are never overwritten; choose another file\n"
    assert json.loads(third.out) == {"private": "other", "public": "other.pub"}
    assert {path.name for path in folder.glob("*key*")} == {"key", "key.pub"}


def test_a_whole_ledger_is_verified(signed):
    """Without a run every run is verified; without a key only integrity is claimed, in those words."""
    result = signed("verify")
    by_key = signed("verify", "--public-key", "key.pub")

    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("1 run, ")
    assert ": only integrity is claimed" in result.out
    assert (by_key.status, by_key.err) == (0, "")
    assert by_key.out.endswith(": they are intact and complete, as the holder of the key has signed them\n")


def test_an_exported_run_verifies_elsewhere(signed, folder, monkeypatch):
    """A receipt file verifies where there is no ledger, with the public key alone."""
    exported = signed("receipts", "export", "last", "--out", "run.jsonl")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("run.jsonl", "key.pub"):
        (folder / name).rename(elsewhere / name)
    monkeypatch.chdir(elsewhere)

    result = signed("verify", "run.jsonl", "--public-key", "key.pub")

    assert exported.status == 0
    assert exported.out.startswith("run.jsonl: run ")
    assert exported.out.endswith(" records, signed\n")
    assert (result.status, result.err) == (0, "")
    assert "as the holder of the key has signed them" in result.out


def test_an_export_goes_to_stdout_or_to_a_new_file(signed, folder):
    """Without a file the records go to stdout; a file that is there is not written over."""
    (folder / "there").write_text("mine")
    result = signed("receipts", "export", "last", "--out", "there")
    assert (result.status, result.err) == (
        2,
        "stepwarden: there already exists and is not overwritten; choose another file\n",
    )
    assert (folder / "there").read_text() == "mine"

    missing = signed("receipts", "export", "last", "--out", "no/where")
    assert (missing.status, missing.err) == (2, "stepwarden: no/where cannot be written: No such file or directory\n")

    told = json.loads(signed("receipts", "export", "last", "--out", "new", "--json").out)
    assert (told["file"], told["signed"]) == ("new", True)
    assert len((folder / "new").read_bytes().splitlines()) == told["records"] + 2

    assert signed("receipts", "export", "last", "--json").status == 2


def test_an_export_can_be_piped(signed, folder, spawn):
    """What goes to stdout is the file, byte by byte."""
    signed("receipts", "export", "last", "--out", "file")

    piped = spawn("-m", "stepwarden", "receipts", "export", "last", cwd=folder)

    assert piped.out.encode() == (folder / "file").read_bytes()


def test_an_edited_record_is_named(signed, folder):
    """An edited record is named by its number and its kind, on stdout; stderr has one line, and the status is 1."""
    seq = tamper(folder, b'"cost_usd":"0.0012"', b'"cost_usd":"0.0002"')

    result = signed("verify", "last", "--public-key", "key.pub")
    answer = json.loads(signed("verify", "last", "--json").out)

    assert result.status == 1
    assert result.out.splitlines()[1].startswith(f"  edited: record {seq} (usage): ")
    assert result.err == "stepwarden: .stepwarden/ledger.db: they are not what was recorded\n"
    [run] = answer["runs"]
    assert answer["is_intact"] is run["is_intact"] is False
    assert (run["findings"][0]["what"], run["findings"][0]["seq"], run["findings"][0]["kind"]) == (
        "edited",
        seq,
        "usage",
    )


def test_a_receipt_file_that_was_cut_off_is_found(signed, folder):
    """A file without its last lines is found, and what was there last is named."""
    signed("receipts", "export", "last", "--out", "file")
    lines = (folder / "file").read_bytes().splitlines(keepends=True)
    (folder / "file").write_bytes(b"".join(lines[:-2]))

    result = signed("verify", "file")

    assert result.status == 1
    assert f"cut off: record {len(lines) - 3}: record {len(lines) - 4} (receipt) is the last" in result.out


def test_the_key_decides(signed, folder):
    """A run that another key has signed, or none, is not what the holder of the given key has signed."""
    signed("keys", "new", "--out", "other")
    signed("run", f"{AGENT}:captain", "--arg", "text=hi")

    unsigned = signed("verify", "last", "--public-key", "key.pub")
    forged = signed("verify", "--public-key", "other.pub")

    assert (unsigned.status, forged.status) == (1, 1)
    assert "unsigned: there is no signature over the records" in unsigned.out
    assert "forged: signed with another key, " in forged.out
    assert "are not what the holder of the key has signed" in unsigned.err


def test_a_ledger_can_be_named_as_a_file(signed, folder):
    """A ledger's file instead of a run means every run in it."""
    assert signed("verify", ".stepwarden/ledger.db").out == signed("verify").out


def test_a_run_that_was_taken_out_is_found(signed, folder):
    """A ledger from which a run was deleted does not verify."""
    signed("run", f"{AGENT}:captain", "--arg", "text=hi")
    database = sqlite3.connect(folder / ".stepwarden" / "ledger.db")
    with database:
        for statement in (
            "DELETE FROM receipts WHERE run = 1",
            "DELETE FROM records WHERE key >> 32 = 1",
            "DELETE FROM runs WHERE number = 1",
        ):
            database.execute(statement)
    database.close()

    result = signed("verify")

    assert result.status == 1
    assert "removed: 1 runs were taken out of the ledger" in result.out
    assert json.loads(signed("verify", "--json").out)["findings"][0]["what"] == "removed"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["verify", "nobody"], "there is no run nobody, and no file of that name"),
        (["verify", "agent_under_test.py"], "is no receipt file"),
        (["verify", "--public-key", "nowhere"], "--public-key: the key file nowhere cannot be read"),
        (["verify", "--public-key", "key"], "the public one is in key.pub"),
        (["keys", "new"], "out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_verified_is_wrong_usage(signed, words, told):
    """A run, file or key that is not there is one line on stderr, and status 2."""
    result = signed(*words)

    assert (result.status, result.out) == (2, "")
    assert told in result.err.lower()
    assert len(result.err.splitlines()) == 1


def test_a_missing_receipt_file_is_named_where_there_is_no_ledger(stepwarden):
    """On a machine without a ledger, what is told of a file that is not there is that, and nothing of a ledger."""
    result = stepwarden("verify", "elsewhere.jsonl")

    assert (result.status, result.out) == (2, "")
    assert result.err == "stepwarden: there is no run elsewhere.jsonl, and no file of that name\n"
