"""The commands and their options, as cyclopts reads them."""

import traceback
from importlib.metadata import version
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from stepwarden import LedgerError

from ._ledger_app import add_ledger_commands
from ._options import Debug, Sign, WrittenLedger
from ._problem import UsageError, complain
from ._whole import Whole

_SUMMARY = "Run LLM agents whose every step has its own contract: model, budget, policy, receipt."

_EXIT_STATUS = """\
Exit status: 0 done; 1 the agent failed, or a check found something; 2 wrong usage or input; 3 a budget or an \
escalation ended it; 4 the ledger failed; 130 interrupted."""

_app = App(
    name="stepwarden",
    help=_SUMMARY,
    help_epilogue=_EXIT_STATUS,
    help_format="markdown",
    version=lambda: f"stepwarden {version('stepwarden')}",
    default_parameter=Parameter(negative=(), show_default=False),
    # Ctrl-C still shows the receipts.
    suppress_keyboard_interrupt=False,
)


def run_app(argv: list[str]) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name.

    Returns:
        The exit status.
    """
    try:
        status = _app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        complain(f"{str(error).removesuffix('.')}; see `stepwarden --help`")
        return 2
    except LedgerError as error:
        if "--debug" in argv:
            traceback.print_exception(error)
        complain(error)
        return 4
    except UsageError as error:
        if "--debug" in argv and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        complain(error)
        return 2
    # Help and the version have printed themselves, and return nothing.
    return 0 if status is None else int(status)


@_app.command(name="run")
def _run(
    target: str,
    /,
    *,
    input_path: Annotated[str | None, Parameter(name="--input", allow_leading_hyphen=True)] = None,
    arg: Annotated[tuple[str, ...], Parameter(name="--arg", allow_leading_hyphen=True)] = (),
    budget_usd: str | None = None,
    budget_tokens: Whole = None,
    ledger: WrittenLedger = None,
    sign: Sign = None,
    json: bool = False,
    debug: Debug = False,
) -> int:
    """Run a persona. Its output goes to stdout; what it did and spent goes to stderr.

    Args:
        target: The persona or step, as `module:name`; the module may be in the current directory.
        input_path: Read the arguments from this file: a `*.json` file holds an object of keyword arguments; any other
            file is text, passed as the only argument; `-` is text from stdin.
        arg: One argument, as `name=value`; a value that is JSON is read as JSON. May be repeated.
        budget_usd: The most that the run may spend, in USD.
        budget_tokens: The most tokens, in and out, that the run may use.
        json: Print a single JSON object with the output, the error and every receipt.
    """
    from ._run_command import run_persona

    return run_persona(
        target,
        input_path=input_path,
        pairs=arg,
        budget_usd=budget_usd,
        budget_tokens=budget_tokens,
        ledger=ledger,
        sign=sign,
        as_json=json,
        debug=debug,
    )


@_app.command(name="demo")
def _demo(
    file: str | None = None,
    /,
    *,
    ledger: WrittenLedger = None,
    sign: Sign = None,
    json: bool = False,
    debug: Debug = False,
) -> int:
    """Watch an agent with nine steps work on a text, using a small model in this process: no key, no network.

    Args:
        file: A text file; by default this project's own README.
        json: Print a single JSON object with the output, the error and every receipt.
    """
    from ._demo_command import show_demo

    return show_demo(file, ledger=ledger, sign=sign, as_json=json, debug=debug)


add_ledger_commands(_app)
