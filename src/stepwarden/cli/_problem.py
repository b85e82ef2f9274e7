"""What is told on stderr: one clear line for each problem."""

import sys
from contextlib import suppress

from stepwarden import ReceiptError
from stepwarden.core import errors


class UsageError(Exception):
    """Report wrong usage or input, found before any agent ran."""


def complain(problem: object) -> None:
    """Write one line on stderr.

    Args:
        problem: What to tell; an error tells its message.
    """
    line = f"stepwarden: {one_line(problem)}\n"
    encoding = sys.stderr.encoding or "utf-8"
    with suppress(OSError):  # nobody reads it any more; the exit status still tells
        sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding))


def one_line(text: object) -> str:
    """Put *text* on one line, without what could steer a terminal: it may come from a model."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def describe(error: BaseException) -> str:
    """Name an error by its class and its message, on one line."""
    message = one_line(message_of(error))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def message_of(error: BaseException) -> str:
    """Return the message of an error, which may come from anybody's code."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - an error that cannot be printed must not hide that it happened
        return f"(its message could not be made: {type(broken).__name__})"


def tell(error: ReceiptError) -> str:
    """Tell the error of a receipt on one line: ours by their messages, which say it all, others by class as well."""
    if error.message and isinstance(getattr(errors, error.type, None), type):
        return one_line(error.message)
    return one_line(f"{error.type}: {error.message}" if error.message else error.type)
