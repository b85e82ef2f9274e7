"""What a persona is called with: `--arg name=value`, or what is in a file."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ._problem import UsageError, one_line

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Hold what a persona is called with."""

    positional: tuple[Any, ...] = ()
    by_name: dict[str, Any] = field(default_factory=dict)


def read_arguments(path: str | None, pairs: Sequence[str]) -> Arguments:
    """Read what the command line gives.

    Args:
        path: A file: JSON if its name ends in ``.json``, else text; ``-`` is text from stdin; None for none.
        pairs: ``name=value`` each; a value that is JSON is read as JSON.

    Returns:
        The arguments.

    Raises:
        UsageError: If they cannot be read, or there are both a file and pairs.
    """
    if path is None:
        return Arguments(by_name=_read_pairs(pairs))
    if pairs:
        raise UsageError("give either --input or --arg, not both")
    if path.endswith(".json"):
        return Arguments(by_name=_read_object(path))
    return Arguments(positional=(_read_text(path),))


def check_arguments(target: str, function: Callable[..., Any], arguments: Arguments) -> None:
    """Refuse arguments that *function* does not take, before anything runs.

    Raises:
        UsageError: If they do not fit; the message names every one that is unknown or missing.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # no signature can be found, so the call itself decides
        return
    try:
        signature.bind(*arguments.positional, **arguments.by_name)
    except TypeError as error:
        raise UsageError(f"{target}{signature} {_misfit(signature, arguments) or error}") from error


def _misfit(signature: inspect.Signature, arguments: Arguments) -> str:
    parameters = signature.parameters.values()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    known = [parameter.name for parameter in parameters if parameter.kind in _BY_NAME]
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind in _BY_NAME
    ][len(arguments.positional) :]
    unknown = [] if takes_any else [name for name in arguments.by_name if name not in known]
    missing = [name for name in required if name not in arguments.by_name]
    problems = []
    if unknown:
        problems.append(f"has no parameter {', '.join(unknown)}")
    if missing:
        problems.append(f"needs {', '.join(f'--arg {name}=...' for name in missing)}")
    return " and ".join(problems)


def _read_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    by_name: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--arg {pair!r} must be name=value, such as --arg depth=3")
        if name in by_name:
            raise UsageError(f"--arg {name} is given twice")
        try:
            by_name[name] = msgspec.json.decode(text)
        except ValueError:
            by_name[name] = text
    return by_name


def _read_object(path: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(_read_bytes(path))
    except ValueError as error:
        raise UsageError(f"--input: {path!r} is not JSON ({one_line(error)})") from error
    if not isinstance(value, dict):
        raise UsageError(
            f"--input: {path!r} holds a JSON {type(value).__name__}, but must hold an object whose keys are parameters"
        )
    return value


def _read_text(path: str) -> str:
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        what = "stdin" if path == "-" else repr(path)
        raise UsageError(f"--input: {what} is not text in UTF-8 ({error.reason} at byte {error.start})") from error


def _read_bytes(path: str) -> bytes:
    try:
        if path != "-":
            return Path(path).read_bytes()
        # Not `sys.stdin`, which is None where the process was started without one.
        with open(0, "rb", closefd=False) as stdin:
            return stdin.read()
    except OSError as error:
        what = "stdin" if path == "-" else repr(path)
        raise UsageError(f"--input: {what} cannot be read: {error.strerror or error}") from error
