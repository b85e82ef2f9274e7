"""The hash chain over a run's records: each head covers every byte before it."""

from __future__ import annotations

from hashlib import sha256

_GENESIS = b"stepwarden-chain-1\n"


def genesis(run: str) -> bytes:
    """Return the head of a run that has no record yet.

    Args:
        run: The run's id, so that no record of one run can stand in another's chain.

    Returns:
        32 bytes.
    """
    return sha256(_GENESIS + run.encode()).digest()


def extend(head: bytes, record: bytes) -> bytes:
    """Return the head after one more record.

    Args:
        head: The head before it, 32 bytes.
        record: The record, as it is stored.

    Returns:
        32 bytes.
    """
    return sha256(head + record).digest()
