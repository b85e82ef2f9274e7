"""A record's bytes as they lie in the file: without the run's id, and deflated with what records have in common.

Records are small and alike, so that without the dictionary they would hardly get shorter. Chains, exports and whoever
verifies have the records themselves; that they lie here in fewer bytes is the file's own affair.
"""

from __future__ import annotations

import zlib

_MARK = b"\x01"
"""Tells what is packed, and with which dictionary: no record begins so. Another dictionary gets another mark."""
_RUN = b"\0"
"""Stands for the run's id: a byte that canonical JSON does not have."""
_LARGEST = 64 << 20
"""No record is as long, and a damaged one must not fill the memory."""

# What is used most stands last, where a reference to it is shortest. Never changed: files are read with it.
_DICTIONARY = (
    b'{"at":"1,"kind":"run_ended","own":{"uncertain":{"completed","total":{"kind":"run_started","name":"run",'
    b'"parent_run":""clamped":true,"reasoning_tokens":"unpriced_calls":1"estimated_calls":1"asked_output_tokens":'
    b'"input_cost_usd":"uncertain_cost_usd":"uncertain_output_tokens":"kind":"tool","outcome":"allowed","reason":"tool":'
    b'"denied""clamped_calls":"error":["BudgetExceededError","open_holds":"overshoot":{"warnings":[""function":"late":{'
    b'"stage":"status":"failed"skipped"escalated"cancelled"abandoned""max_input_tokens":"max_output_tokens":'
    b'"max_seconds":"max_tool_calls":"tools":[["","allowed",null]],"anthropic:claude-","gemini-"kind":"usage",'
    b'"outcome":"released"uncertain"{"at":"17,"kind":"scope_opened","name":"","parent":,"persona":"","run":"\0","scope":'
    b'"persona","seq":,"started_at":"17000","step":,"v":1}","cost_usd":"0.0","hold":,"input_tokens":,"kind":"hold",'
    b'"model":"openai:gpt-5-mini","output_tokens":,"run":"\0","seq":{"at":"17","cost_usd":"0.00","hold":,"input_tokens":,"kind":'
    b'"settlement","model":"openai:gpt-5-mini","outcome":"settled","output_tokens":,"run":"\0","seq":{"at":"17","budget":{'
    b'"max_calls":,"max_tokens":0,"max_usd":"0."},"calls":[["gpt-5-mini",,,"0.00","settled"]],"duration_ns":,"kind":'
    b'"receipt","model":"openai:gpt-5-mini","name":"","own":{"cache_read_tokens":,"cache_write_tokens":,"calls":1,'
    b'"cost_usd":"0.00","input_tokens":,"output_tokens":,"tool_calls":1},"parent":"\0","persona":"","run":"\0","seq":,"step":,'
    b'"total":{"calls":,"cost_usd":"0.0","v":1}'
)

# A copy of one that has the dictionary is made faster than another one; a small window makes a copy cheap.
_fresh = zlib.compressobj(6, zlib.DEFLATED, -12, 1, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)


def pack(record: bytes, run: str) -> bytes:
    """Return a record in fewer bytes.

    Args:
        record: The record, in canonical JSON.
        run: The id of its run.

    Returns:
        Bytes from which `unpack` makes the same record.
    """
    packing = _fresh.copy()
    return _MARK + packing.compress(record.replace(run.encode(), _RUN)) + packing.flush()


def unpack(stored: bytes, run: str) -> bytes:
    """Return the record that is stored, packed or not.

    Bytes from which none can be made are returned as they are: whoever reads them finds that they are no record.

    Args:
        stored: The bytes in the file.
        run: The id of the run that they belong to.
    """
    found: object = stored  # a damaged file may have anything there
    if not isinstance(found, bytes) or found[:1] != _MARK:
        return stored
    unpacking = zlib.decompressobj(-12, _DICTIONARY)
    try:
        record = unpacking.decompress(stored[1:], _LARGEST)
    except zlib.error:
        return stored
    return record.replace(_RUN, run.encode()) if unpacking.eof and not unpacking.unused_data else stored
