"""The command line, `stepwarden` or `python -m stepwarden`; it needs the extra `stepwarden[cli]`."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; by default those of this process.

    Returns:
        The exit status: 0 done, 1 the agent failed, 2 wrong usage or input, 3 a `BudgetExceededError` or
        `EscalationError` left the persona, 4 the ledger failed, 130 interrupted.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the program began, so nobody wants to read it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
    if any(importlib.util.find_spec(module) is None for module in ("cyclopts", "rich")):
        what, extra = ("demo", "demo") if words[:1] == ["demo"] else ("command line", "cli")
        print(f'stepwarden: the {what} needs its extra: pip install "stepwarden[{extra}]"', file=sys.stderr)
        return 2
    from ._app import run_app

    try:
        status = run_app(words)
        # A reader that has gone is met here, and not when the interpreter ends.
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stepwarden: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # a full disk, as a rule
            if "--debug" in words:
                traceback.print_exception(error)
            print(f"stepwarden: {error}", file=sys.stderr)
        # What is still buffered would be written once more at the interpreter's end, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
