"""`stepwarden run`: call a persona inside a run of its own."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

import stepwarden as sw

from ._arguments import check_arguments, read_arguments
from ._json import as_text, encode
from ._load import find_persona, importing_from_here
from ._outcome import Outcome
from ._output import Output, say
from ._problem import UsageError
from ._recording import recording
from ._report import show_notes, show_problem, show_receipts
from ._screen import screen, show
from ._watch import watch


def run_persona(
    target: str,
    *,
    input_path: str | None,
    pairs: Sequence[str],
    budget_usd: str | None,
    budget_tokens: int | None,
    ledger: str | None,
    sign: str | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Call a persona and show what it does.

    Args:
        target: The persona, as ``module:name``.
        input_path: The file that its arguments come from, or None.
        pairs: Its arguments as ``name=value``.
        budget_usd: The most that the run may spend, in USD; None for no limit.
        budget_tokens: The most tokens that the run may use; None for no limit.
        ledger: The file of the ledger that it is recorded in, or None for the default.
        sign: The file of the key that its records are signed with, or None.
        as_json: Whether one JSON object on stdout replaces everything else.
        debug: Whether an error comes with its traceback.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no such persona, or it cannot be called like this, or there is no such key.
        LedgerError: If the ledger cannot be opened.
    """
    budget = _read_budget(budget_usd, budget_tokens)
    # What the agent prints itself would stand beside the one JSON object, and make it unreadable.
    with redirect_stdout(sys.stderr) if as_json else nullcontext(), importing_from_here():
        persona = find_persona(target)
        arguments = read_arguments(input_path, pairs)
        check_arguments(target, persona, arguments)
        # Stdout is for what the persona gives out, so that it can be piped; everything about the run is on stderr.
        console = screen(stderr=True)
        output = Output(None if as_json else _say)
        error: BaseException | None = None
        with recording(ledger, sign) as kept:
            run = sw.Run(name=target, budget=budget, ledger=kept.ledger, sign=sign)
            try:
                with run, nullcontext() if as_json else watch(console, run):
                    output.take_from(persona, arguments)
            except BaseException as raised:  # noqa: BLE001 - Ctrl-C and an agent's `sys.exit` leave receipts as well
                error = raised
    outcome = Outcome(run, output.value, error or kept.failure)
    if as_json:
        say(encode(outcome.as_record(ledger=str(kept.path))))
    else:
        try:
            if error is None and output.value is not None:
                _say(output.value)
        finally:  # whoever read stdout may have gone, and the receipts are still due
            show(console, "")
            show_receipts(console, outcome)
            show_notes(console, outcome)
            kept.say_how_to_look(console, run.id)
    if debug or not as_json:
        show_problem(outcome, debug=debug)
    return outcome.exit_status


def _say(item: object) -> None:
    say(as_text(item))


def _read_budget(usd: str | None, tokens: int | None) -> sw.Budget:
    try:
        sw.Budget(max_usd=usd)
    except sw.DefinitionError:
        raise UsageError(f"--budget-usd must be an amount of USD >= 0, such as 2.50, not {usd!r}") from None
    if tokens is not None and tokens < 0:
        raise UsageError(f"--budget-tokens must be a number of tokens >= 0, not {tokens}")
    return sw.Budget(max_usd=usd, max_tokens=tokens)
