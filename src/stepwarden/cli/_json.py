"""What `--json` writes: one object, whatever the agent returned."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec


def encode(record: object) -> str:
    """Encode a record of ours: dataclasses and named tuples as objects, `Decimal` as a string, times in ISO 8601.

    Args:
        record: Made of plain values, dataclasses, named tuples, and what `plain_output` returned.

    Returns:
        The JSON text, on one line.
    """
    return msgspec.json.encode(_plain(record)).decode()


def plain_output(output: object) -> msgspec.Raw:
    """Encode what an agent gave out; what JSON cannot hold becomes its repr."""
    try:
        return msgspec.Raw(msgspec.json.encode(output, enc_hook=_foreign))
    except (TypeError, ValueError, RecursionError, OverflowError):
        # A key that is no string, a number too large, a lone surrogate, a value that holds itself.
        return msgspec.Raw(msgspec.json.encode(_repr(output)))


def as_text(output: object) -> str:
    """Show what an agent gave out: a string as it is, everything else as JSON on one line."""
    return output if isinstance(output, str) else bytes(plain_output(output)).decode()


def _foreign(value: Any) -> object:
    # Pydantic's models are what agents mostly return, and they know their own JSON.
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) and not isinstance(value, type) else _repr(value)


def _repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken repr must not cost a paid run its receipts
        text = object.__repr__(value)
    return _encodable(text)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Any) -> Any:
    # msgspec would write a named tuple as an array, and a small Decimal with an exponent.
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    match value:
        case Enum():
            plain = value.value
        case str():
            plain = _encodable(value)
        case Decimal():
            plain = f"{value:f}"
        case datetime():
            plain = value.isoformat()
        case Mapping():
            plain = {key: _plain(item) for key, item in value.items()}
        case tuple() | list():
            plain = [_plain(item) for item in value]
        case _:
            plain = value
    return plain
