"""Canonical JSON: for each value the only bytes that it can have, so that a hash over them means one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from stepwarden.core.errors import LedgerError

LARGEST = 2**53 - 1
"""Beyond it, either way, JSON readers differ on what an integer is, so it is written as a decimal string."""

# Values are nested at most this deep: a type that is finite is checked while the bytes are parsed.
_Plain = bool | Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)] | str | None
_Nested1 = _Plain | list[_Plain] | dict[str, _Plain]
_Nested2 = _Plain | list[_Nested1] | dict[str, _Nested1]
_Nested3 = _Plain | list[_Nested2] | dict[str, _Nested2]

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, _Nested3]).decode


def canonical(value: Mapping[str, object]) -> bytes:
    r"""Write a mapping as canonical JSON.

    A lone surrogate, which UTF-8 cannot have, is written as its escape in text (``\udc80``, six characters): nothing
    is lost for a name's sake.

    Args:
        value: Strings, integers, booleans, None, and lists and string-keyed mappings of them, at most four deep.

    Returns:
        The bytes.

    Raises:
        LedgerError: If there is anything else in it, such as a float.
    """
    try:
        data = _encode(value)
        if _decode(data) == value:  # what could not be read back as it is must not be stored
            return data
    except (msgspec.MsgspecError, UnicodeEncodeError, TypeError, OverflowError):
        pass  # the slow way tells what is wrong, or puts it right
    data = _encode(_cleaned(value, ""))
    try:
        _decode(data)
    except msgspec.ValidationError as error:
        raise LedgerError(f"values are nested too deep for canonical JSON: {error}") from None
    return data


def parse(data: bytes) -> dict[str, Any]:
    """Read canonical JSON, and refuse bytes that `canonical` would not have written.

    Args:
        data: The bytes of one object.

    Returns:
        Its content.

    Raises:
        LedgerError: If they are anything else.
    """
    try:
        value: dict[str, Any] = _decode(data)
        is_canonical = _encode(value) == data
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LedgerError(f"it is not canonical JSON: {error}") from None
    if not is_canonical:
        raise LedgerError(
            "it is not canonical JSON: keys sorted and each once, no spaces, no needless escapes, nothing around it"
        )
    return value


def whole(number: int) -> int | str:
    """Return an integer as records have it: a decimal string beyond `LARGEST`."""
    return number if -LARGEST <= number <= LARGEST else str(number)


def _cleaned(value: object, path: str) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return whole(value)
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise LedgerError(f"{path or 'an object'} must have strings as keys, not {wrong!r}")
        return {_cleaned(key, path): _cleaned(item, f"{path}.{key}" if path else key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise LedgerError(f"{path} must be a string, an integer, a boolean, None, or a list or mapping, not {value!r}")
