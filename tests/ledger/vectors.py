"""Golden receipt files: valid ones, and one for each way to tamper. `python -m tests.ledger.vectors` writes them anew.

They are what other implementations are checked against, so a change to one is a change of the format.
"""

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stepwarden.ledger import _chain, _record, _sign

FOLDER = Path(__file__).parent / "vectors"
RUN = "00112233445566778899"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
START = 1_764_038_714_000_000_000
SPENT = {"calls": 1, "cost_usd": "0.0074", "input_tokens": 492, "output_tokens": 61}
CALL = ["gpt-5-mini", 492, 61, "0.0074", "settled"]

RECORDS = [
    ("run_started", {"name": "run", "budget": {"max_usd": "2.5"}}),
    ("scope_opened", {"scope": "persona", "step": 2, "name": "triage_captain", "started_at": str(START)}),
    ("scope_opened", {"scope": "step", "step": 3, "parent": 2, "name": "classify", "persona": "triage_captain", "started_at": str(START)}),
    ("hold", {"step": 3, "hold": 1, "input_tokens": 500, "output_tokens": 512, "cost_usd": "0.06", "model": "gpt-5-mini"}),
    ("settlement", {"step": 3, "hold": 1, "outcome": "settled", "input_tokens": 492, "output_tokens": 61, "cost_usd": "0.0074", "model": "gpt-5-mini"}),
    ("tool", {"step": 3, "tool": "grep", "outcome": "completed"}),
    ("receipt", {"step": 3, "parent": 2, "persona": "triage_captain", "name": "classify", "status": "skipped", "model": "gpt-5-mini", "own": SPENT, "calls": [CALL], "tools": [["grep", "completed", None]], "started_at": str(START), "duration_ns": 5_400_000_000}),
    ("receipt", {"scope": "persona", "step": 2, "parent": 1, "persona": "triage_captain", "name": "triage_captain", "function": "cafe\u0301", "total": SPENT, "started_at": str(START), "duration_ns": 5_500_000_000}),
    ("run_ended", {"status": "completed", "total": SPENT}),
]  # fmt: skip
EXAMPLE = [
    ("run_started", {"name": "run"}),
    ("receipt", {"step": 2, "parent": 1, "name": "plan", "own": {"calls": 1, "input_tokens": 9}, "calls": [["gpt-5", 9, 0, "0", "settled"]], "duration_ns": 1_500}),
    ("run_ended", {"status": "completed", "total": {"calls": 1, "input_tokens": 9}}),
]  # fmt: skip
LATE = [("late", {"input_tokens": 10, "output_tokens": 2, "total": SPENT})]


def chained(records, run=RUN, begin=0):
    """Return records with the head after each, as they are stored."""
    head = _chain.genesis(run)
    rows = []
    for seq, (kind, fields) in enumerate(records, begin):
        data = _record.encode(kind, run, seq, START + seq, fields)
        head = _chain.extend(head, data)
        rows.append((data, head))
    return rows


def rechained(datas):
    """Return changed records with heads that fit them, as somebody without the key can make them."""
    head = _chain.genesis(RUN)
    rows = []
    for data in datas:
        head = hashlib.sha256(head + data).digest()
        rows.append((data, head))
    return rows


def sign(rows, key=KEY):
    """Return the signature over rows, as the last line has it."""
    head = rows[-1][1]
    signature = key.sign(_sign.signed_text(RUN, len(rows), head)).hex()
    public = key.public_key().public_bytes_raw().hex()
    return {"count": len(rows), "head": head.hex(), "key": public, "signature": signature}


def lines(rows, count=None, head=None, signed=None, first=None):
    """Return the lines of a receipt file."""
    last = {"count": len(rows) if count is None else count, "head": (rows[-1][1] if head is None else head).hex()}
    if signed is not None:
        last["signed"] = signed
    return [
        first or compact({"format": "stepwarden-receipts-1", "run": RUN}),
        *(b'{"head":"%b","record":%b}\n' % (digest.hex().encode(), data) for data, digest in rows),
        compact(last),
    ]


def compact(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def with_row(rows, place, data, head=None):
    changed = list(rows)
    changed[place] = (data, rows[place][1] if head is None else head)
    return changed


ROWS = chained(RECORDS)
SIGNED = sign(ROWS)
DATAS = [data for data, _ in ROWS]
CHEAPER = DATAS[6].replace(b'"cost_usd":"0.0074"', b'"cost_usd":"0.0004"')
FORGED = _record.encode("tool", RUN, 5, START + 5, {"step": 3, "tool": "rm", "outcome": "completed"})
FOREIGN = _record.encode("tool", "9" * 20, 5, START + 5, {"step": 3, "tool": "rm", "outcome": "completed"})
WHOLE = lines(ROWS, signed=SIGNED)


def edited(old, new, place=6):
    """Return the file in which one record's bytes were changed, and nothing else."""
    assert old in DATAS[place]
    return lines(with_row(ROWS, place, DATAS[place].replace(old, new, 1)), signed=SIGNED)


def ends(rows):
    """Return how the untouched run ends, beside rows that were changed."""
    return lines(rows, count=len(ROWS), head=ROWS[-1][1], signed=SIGNED)


def is_found(*findings):
    return [list(finding) for finding in findings]


RECEIPT_EDITED = is_found(("edited", 6, "receipt"))

VECTORS = {
    # name: (lines, what is found with the key, what is found without one)
    "valid_signed": (WHOLE, [], []),
    "valid_example": (lines(chained(EXAMPLE), signed=sign(chained(EXAMPLE))), [], []),
    "valid_unsigned": (lines(ROWS), is_found(("unsigned", None, None)), []),
    "valid_late": (lines(chained(RECORDS + LATE), signed=sign(chained(RECORDS + LATE))), [], []),
    "late_after_the_signature": (lines(chained(RECORDS + LATE), signed=SIGNED), is_found(("unsigned", 9, "late")), []),
    "edited_cost": (edited(b'"cost_usd":"0.0074"', b'"cost_usd":"0.0004"'), RECEIPT_EDITED, RECEIPT_EDITED),
    "edited_status": (edited(b"skipped", b"escalated"), RECEIPT_EDITED, RECEIPT_EDITED),
    "edited_time": (edited(b'"at":"1764038714000000006"', b'"at":"1764038714000000007"'), RECEIPT_EDITED, RECEIPT_EDITED),
    "edited_first": (edited(b'"2.5"', b'"9.5"', 0), *[is_found(("edited", 0, "run_started"))] * 2),
    "edited_last": (edited(b"completed", b"cancelled", 8), *[is_found(("edited", 8, "run_ended"))] * 2),
    "edited_run": (edited(b'"run":"0', b'"run":"1'), RECEIPT_EDITED, RECEIPT_EDITED),
    "edited_head": (ends(with_row(ROWS, 6, DATAS[6], bytes(32))), RECEIPT_EDITED, RECEIPT_EDITED),
    "edited_last_line": (lines(ROWS, head=bytes(32), signed=SIGNED), *[is_found(("edited", None, None))] * 2),
    "edited_first_line": ([compact({"format": "stepwarden-receipts-1", "run": "9" * 20}), *WHOLE[1:]], *[is_found(("edited", None, None))] * 2),
    "edited_and_chained_anew": (
        lines(rechained([*DATAS[:6], CHEAPER, *DATAS[7:]]), signed=SIGNED),
        *[is_found(("edited", None, None))] * 2,
    ),
    "edited_and_chained_anew_unsigned": (
        lines(rechained([*DATAS[:6], CHEAPER, *DATAS[7:]])),
        is_found(("unsigned", None, None)),
        [],  # without a signature nothing can show it
    ),
    "reordered_neighbours": (ends([*ROWS[:4], ROWS[5], ROWS[4], *ROWS[6:]]), *[is_found(("reordered", 5, "tool"))] * 2),
    "reordered_far": (ends([ROWS[0], ROWS[7], *ROWS[1:7], ROWS[8]]), *[is_found(("reordered", 7, "receipt"))] * 2),
    "reordered_under_their_heads": (
        ends([*ROWS[:4], (DATAS[5], ROWS[4][1]), (DATAS[4], ROWS[5][1]), *ROWS[6:]]),
        *[is_found(("reordered", 5, "tool"))] * 2,
    ),
    "inserted_double": (
        ends([*ROWS[:5], (FORGED, _chain.extend(ROWS[4][1], FORGED)), *ROWS[5:]]),
        *[is_found(("inserted", 5, "tool"))] * 2,
    ),
    "inserted_foreign": (ends([*ROWS[:5], (FOREIGN, bytes(32)), *ROWS[5:]]), *[is_found(("inserted", 5, "tool"))] * 2),
    "inserted_at_the_end": (ends(chained(RECORDS + LATE)), *[is_found(("inserted", 9, "late"))] * 2),
    "inserted_nonsense": ([*WHOLE[:3], b"hello\n", *WHOLE[3:]], *[is_found(("inserted", 2, None))] * 2),
    "removed_one": (ends([*ROWS[:5], *ROWS[6:]]), *[is_found(("removed", 5, None))] * 2),
    "removed_two": (ends([*ROWS[:4], *ROWS[6:]]), *[is_found(("removed", 4, None), ("removed", 5, None))] * 2),
    "removed_first": (ends(ROWS[1:]), *[is_found(("removed", 0, None))] * 2),
    "removed_and_chained_anew": (
        lines(rechained([*DATAS[:5], *DATAS[6:]]), signed=SIGNED),
        *[is_found(("removed", 5, None))] * 2,
    ),
    "cut_off_records": (ends(ROWS[:7]), *[is_found(("cut off", 7, None))] * 2),
    "cut_off_and_ended_anew": (lines(ROWS[:7], signed=SIGNED), *[is_found(("cut off", 7, None))] * 2),
    "cut_off_last_line": (WHOLE[:-1], is_found(("cut off", 9, None), ("unsigned", None, None)), is_found(("cut off", 9, None))),
    "cut_off_in_a_record": (
        [*WHOLE[:7], WHOLE[7][:150]],
        is_found(("cut off", 6, None), ("unsigned", None, None)),
        is_found(("cut off", 6, None)),
    ),
    "cut_off_in_the_last_line": ([*WHOLE[:-1], WHOLE[-1][:-1]], is_found(("edited", None, None), ("cut off", 9, None), ("unsigned", None, None)), is_found(("edited", None, None), ("cut off", 9, None))),
    "inserted_last_line": ([*WHOLE, WHOLE[-1]], *[is_found(("inserted", None, None))] * 2),
    "cut_off_everything": (WHOLE[:1], is_found(("cut off", 0, None), ("unsigned", None, None)), is_found(("cut off", 0, None))),
    "forged_with_another_key": (lines(ROWS, signed=sign(ROWS, OTHER_KEY)), is_found(("forged", None, None)), []),
    "forged_under_our_key": (
        lines(ROWS, signed={**sign(ROWS, OTHER_KEY), "key": SIGNED["key"]}),
        *[is_found(("forged", None, None))] * 2,
    ),
    "edited_key": (
        lines(ROWS, signed={**SIGNED, "key": sign(ROWS, OTHER_KEY)["key"]}),
        is_found(("edited", None, None)),
        is_found(("forged", None, None)),
    ),
    "json_duplicate_key": (edited(b'"status":"skipped"', b'"status":"skipped","status":"skipped"'), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_nan": (edited(b"5400000000", b"NaN"), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_infinity": (edited(b"5400000000", b"Infinity"), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_float": (edited(b"5400000000", b"5400000000.0"), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_exponent": (edited(b"5400000000", b"54e8"), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_negative_zero": (edited(b"5400000000", b"-0"), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_integer_over_2_53": (edited(b"5400000000", b"9007199254740993"), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_byte_order_mark": ([b"\xef\xbb\xbf" + WHOLE[0], *WHOLE[1:]], "no receipt file", "no receipt file"),
    "json_byte_order_mark_in_a_record": (edited(b'{"at"', b'\xef\xbb\xbf{"at"'), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_trailing_bytes": (edited(b'"v":1}', b'"v":1}{}'), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_trailing_space": (edited(b'"v":1}', b'"v":1} '), RECEIPT_EDITED, RECEIPT_EDITED),
    "json_trailing_line": ([*WHOLE, b"\n"], *[is_found(("inserted", 9, None))] * 2),
    "json_trailing_bytes_of_the_file": ([*WHOLE, b"{}"], *[is_found(("inserted", 9, None))] * 2),
    "json_count_as_a_string": (
        lines(ROWS, signed={**SIGNED, "count": "9"}),
        is_found(("edited", None, None), ("cut off", 9, None), ("unsigned", None, None)),
        is_found(("edited", None, None), ("cut off", 9, None)),
    ),
    "json_line_ends_of_windows": ([line.replace(b"\n", b"\r\n") for line in WHOLE], "no receipt file", "no receipt file"),
    "json_composed_unicode": (edited(b"cafe\xcc\x81", b"caf\xc3\xa9", 7), *[is_found(("edited", 7, "receipt"))] * 2),
    "json_escaped_unicode": (edited(b"\xcc\x81", b"\\u0301", 7), *[is_found(("edited", 7, "receipt"))] * 2),
    "json_lone_surrogate": (edited(b"\xcc\x81", b"\\ud800", 7), *[is_found(("edited", 7, "receipt"))] * 2),
    "json_lone_surrogate_in_bytes": (edited(b"\xcc\x81", b"\xed\xa0\x80", 7), *[is_found(("edited", 7, "receipt"))] * 2),
    "json_unsorted_keys": (edited(b'"seq":6,"started_at":"1764038714000000000"', b'"started_at":"1764038714000000000","seq":6'), RECEIPT_EDITED, RECEIPT_EDITED),
}  # fmt: skip


def write():
    """Write the files, the public key and what is found in each."""
    FOLDER.mkdir(exist_ok=True)
    for name, (content, _, _) in VECTORS.items():
        (FOLDER / f"{name}.jsonl").write_bytes(b"".join(content))
    found = {name: {"with_key": with_key, "without": without} for name, (_, with_key, without) in VECTORS.items()}
    (FOLDER / "found.json").write_text(json.dumps(found, indent=1) + "\n")
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (FOLDER / "key.pub").write_bytes(public)


if __name__ == "__main__":
    write()
