"""The page on the receipt format is enough: a verifier written from it judges as ours does, and its example is true."""

import hashlib
import re
from pathlib import Path

import pytest

import stepwarden as sw
from stepwarden.ledger import _receipt_record, _record
from tests.ledger.conftest import records_in
from tests.ledger.independent import is_valid
from tests.ledger.vectors import FOLDER, VECTORS

PAGE = (Path(__file__).parents[2] / "docs" / "receipt-format.md").read_text(encoding="utf-8")
EXAMPLE = PAGE[PAGE.index("## A worked example") :]
BLOCKS = [block.encode() for block in re.findall(r"```text\n(.*?)```", EXAMPLE, re.DOTALL)]
PUBLIC_KEY = (FOLDER / "key.pub").read_bytes()


@pytest.mark.parametrize("name", VECTORS)
def test_a_verifier_written_from_the_page_judges_the_same(name):
    """With the key as without it, a file is valid to whoever follows the page exactly where it is valid to us."""
    content = (FOLDER / f"{name}.jsonl").read_bytes()
    _, with_key, without = VECTORS[name]

    assert is_valid(content, PUBLIC_KEY) == (not with_key)
    assert is_valid(content) == (not without)


def test_the_example_is_a_valid_file():
    """The file on the page is a golden one, byte by byte, and verifies with the key on the page."""
    file, _, _, _, key = BLOCKS

    assert file == (FOLDER / "valid_example.jsonl").read_bytes()
    assert key == PUBLIC_KEY
    assert is_valid(file, key)


def test_the_hashes_on_the_page_are_right():
    """The example's beginning, its first record and the head after that are what they must be."""
    file, genesis, record, signed, _ = (block.strip() for block in BLOCKS)
    lines = file.split(b"\n")

    assert hashlib.sha256(b"stepwarden-chain-1\n00112233445566778899").hexdigest().encode() == genesis
    assert lines[1][84:-1] == record
    assert hashlib.sha256(bytes.fromhex(genesis.decode()) + record).hexdigest().encode() in lines[1]
    assert signed.split(b"\n")[3] in lines[3]


def fields_on_the_page(title):
    section = PAGE[PAGE.index(f"## {title}\n") :].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_the_page_names_every_field_of_a_receipt():
    """The tables have the fields that a receipt's record may have, and no others."""
    fields = set(_receipt_record.ReceiptRecord.__struct_fields__)

    assert set(fields_on_the_page("Receipts")) | set(fields_on_the_page("Records")) >= fields
    assert set(fields_on_the_page("Receipts")) <= fields


def test_the_page_names_every_field_of_the_other_records(path):
    """Whatever fields a ledger writes in records that are no receipts, the page has them in the row of their kind."""
    with sw.SQLiteLedger(path) as ledger, sw.Run(ledger=ledger, budget=sw.Budget(max_tokens=1_000)) as outer:
        with sw.Run(budget=sw.Budget(max_calls=9)), sw.persona("captain", model="m"), sw.step("work"):
            with sw.reserve(input_tokens=5, output_tokens=2_000, model="gpt-5-mini") as hold:
                hold.settle(input_tokens=5, output_tokens=1, cache_read_tokens=1, reasoning_tokens=1)
            with sw.reserve(input_tokens=5, output_tokens=7, model="gpt-5-mini"):
                pass
            sw.record_usage("m", input_tokens=1, cost_usd=1, cache_write_tokens=1, estimated=True)
            sw.tool(name="grep", side_effect="none")(lambda: None)()
        outer.journal.ticket().wait()
    rows = dict(
        re.findall(
            r"^\| `(\w+)` \| (.*`step`.*|`name`, `tenant`.*|`hold`, `outcome`.*|`status`, and.*) \|$",
            PAGE,
            re.MULTILINE,
        )
    )
    counts = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("A *usage* has") : PAGE.index("A budget has")]))
    seen = set()
    for record in records_in(path):
        kind = record["kind"]
        if kind != "receipt":
            seen.add(kind)
            named = set(re.findall(r"`(\w+)`", rows[kind])) | (counts if kind in {"usage", "settlement"} else set())
            assert record.keys() - {"at", "kind", "run", "seq", "v"} <= named | {"model", "step", "clamped"}, kind

    assert seen == _record.KINDS - {"receipt", "late"}


def test_the_page_names_every_kind():
    """Every kind of record is on the page."""
    assert all(f"`{kind}`" in PAGE for kind in _record.KINDS)
