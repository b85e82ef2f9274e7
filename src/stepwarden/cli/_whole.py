"""Whole numbers on the command line: written as digits, and never rounded to what was not asked for."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token


def read_whole(_: Any, tokens: Sequence[Token]) -> int:
    """Read the number that an option is given; cyclopts itself would take 1.5 as 2, and 0x10 as 16.

    Args:
        tokens: What was given; one.

    Returns:
        The number, which may be negative: what it is for decides whether that can be.

    Raises:
        ValueError: If it is no whole number.
    """
    text = tokens[0].value.strip()
    if re.fullmatch("[-+]?[0-9]{1,4000}", text) is None:
        raise ValueError(f"it must be a whole number, such as 1000, not {text!r}")
    return int(text)


Whole = Annotated[int | None, Parameter(converter=read_whole)]
"""The type of such an option that may be left out."""
