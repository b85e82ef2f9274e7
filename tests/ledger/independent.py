"""A verifier of receipt files written from docs/receipt-format.md alone: nothing of stepwarden is imported here."""

import hashlib
import json
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

KINDS = "run_started scope_opened hold settlement usage tool receipt run_ended late".split()


def canonical(data):
    """Read canonical JSON, or raise a ValueError: only one way to write it gives the same bytes again."""

    def refuse(text):
        raise ValueError(f"no such number: {text}")

    value = json.loads(data.decode(), parse_float=refuse, parse_constant=refuse)
    if json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() != data:
        raise ValueError("not canonical")
    if any(abs(int(number)) >= 2**53 for number in integers(value)):
        raise ValueError("an integer that readers differ on")
    return value


def integers(value):
    """Give every integer in a value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from integers(item)
    elif isinstance(value, int):
        yield value


def check(content, public_key=None):
    """Raise if a receipt file's records do not fit together or, with a key in PEM, are not what its holder signed."""
    *lines, nothing = content.split(b"\n")
    assert nothing == b"", "the file ends after a line feed"
    first, *records, last = (canonical(line) for line in lines)
    assert first == {"format": "stepwarden-receipts-1", "run": first["run"]}
    run = first["run"]
    heads = [hashlib.sha256(b"stepwarden-chain-1\n" + run.encode()).digest()]
    for number, (line, read) in enumerate(zip(lines[1:-1], records, strict=True)):
        record = read["record"]
        assert (record["v"], record["run"], record["seq"]) == (1, run, number), f"record {number}"
        assert record["kind"] in KINDS, f"the kind of record {number}"
        assert re.fullmatch("0|-?[1-9][0-9]*", record["at"]), f"the time of record {number}"
        heads.append(hashlib.sha256(heads[-1] + line[84:-1]).digest())
        assert read == {"head": heads[-1].hex(), "record": record}, f"the head after record {number}"
    assert (last["count"], last["head"]) == (len(records), heads[-1].hex()), "how the records end"
    if "signed" in last:
        count, key = last["signed"]["count"], bytes.fromhex(last["signed"]["key"])
        assert heads[count].hex() == last["signed"]["head"], "another head was signed"
        text = f"stepwarden-head-1\n{run}\n{count}\n{heads[count].hex()}\n".encode()
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(last["signed"]["signature"]), text)
    if public_key is not None:
        assert "signed" in last, "nobody has signed it"
        assert (count, key) == (len(records), load_pem_public_key(public_key).public_bytes_raw()), (
            "not signed by the key"
        )


def is_valid(content, public_key=None):
    """Tell whether a receipt file is what it says."""
    try:
        check(content, public_key)
    except (AssertionError, InvalidSignature, LookupError, TypeError, ValueError):
        return False
    return True
