"""The exit status tells the outcome, and what is wrong is one clear line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Result

AGENT = "agent_under_test"
FULL = Path("/dev/full")


def problem_of(result):
    """Return the last line on stderr, which is the problem."""
    return result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "status", "ending", "problem"),
    [
        ("broken", 1, "failed", "broken failed: KeyError: 'first line\\nsecond line \\x1b[31m'"),
        ("leaves", 1, "failed", "leaves failed: SystemExit: 0"),
        ("escalates", 3, "escalated", "step `escalates` escalated: "),
        ("in_parallel", 3, "budget_exceeded", "step `count` exceeded max_tokens budget (101 > 100)"),
        ("mixed", 1, "failed", "mixed failed: ExceptionGroup: both (2 sub-exceptions)"),
        ("loses_ledger", 4, "ledger_failed", "the disk is full"),
        ("interrupted", 130, "cancelled", "interrupted"),
    ],
)
def test_how_it_ended_is_the_exit_status(stepwarden, name, status, ending, problem):
    """Each way to end has its exit status, its one line on stderr, receipts, and its word in the JSON."""
    plain, record = stepwarden("run", f"{AGENT}:{name}"), stepwarden("run", f"{AGENT}:{name}", "--json")

    assert plain.status == record.status == status
    assert problem in problem_of(plain)
    assert plain.err.count("stepwarden: ") == 1
    assert "Traceback" not in plain.err
    assert ending.replace("_", " ") in plain.err
    assert json.loads(record.out)["status"] == ending
    assert record.err == ""
    assert json.loads(record.out)["receipts"]


@pytest.mark.parametrize("option", [("--budget-usd", "0.001"), ("--budget-tokens", "0")])
def test_a_budget_of_the_run_holds(stepwarden, option):
    """The budget given on the command line is the run's, and passing it is status 3."""
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", *option)

    assert result.status == 3
    assert problem_of(result).startswith(f"stepwarden: run `{AGENT}:captain` exceeded max_")


@pytest.mark.parametrize("given", ["1.5", "0x10", "1_000", "1e3", "", "many"])
def test_a_limit_is_never_rounded(stepwarden, given):
    """A limit that is no whole number is refused, and not taken as the nearest one."""
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--budget-tokens", given)

    assert result.status == 2
    assert f"--budget-tokens: it must be a whole number, such as 1000, not {given!r}" in problem_of(result)


def test_a_budget_error_keeps_its_keys(stepwarden):
    """In the JSON a budget error has the keys of `as_dict`, and an escalation is marked as one."""
    exceeded = json.loads(stepwarden("run", f"{AGENT}:count", "--arg", "tokens=200", "--json").out)["error"]
    escalated = json.loads(stepwarden("run", f"{AGENT}:escalates", "--json").out)["error"]

    assert (exceeded["category"], exceeded["limit"], exceeded["limit_value"]) == ("budget_exceeded", "max_tokens", 100)
    assert (escalated["category"], escalated["escalated"]) == ("handoff_escalation", True)


def test_debug_shows_the_traceback(stepwarden):
    """With `--debug` the traceback comes before the one line, with `--json` too."""
    for more in ((), ("--json",)):
        result = stepwarden("run", f"{AGENT}:broken", "--debug", *more)

        assert "Traceback (most recent call last)" in result.err
        assert problem_of(result).startswith("stepwarden: ")


def test_an_interrupted_run_still_shows_its_receipts(stepwarden):
    """After Ctrl-C the receipts of what was done until then are shown."""
    result = stepwarden("run", f"{AGENT}:interrupted")

    assert "cancelled persona interrupted" in result.err
    assert "completed step count 11 tokens $0.0012" in result.err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (AGENT, "does not name a persona; it must be module:persona, and it has personas: captain, "),
        (f"{AGENT}:", "does not name a persona"),
        (f"{AGENT}:nobody", "has no 'nobody'; it has personas: captain, "),
        (f"{AGENT}:ship.sink", "has no 'ship.sink'"),
        (f"{AGENT}:undecorated", "is neither a persona nor a step but an undecorated function; it has personas: "),
        (f"{AGENT}:Ship", "is neither a persona nor a step but a class"),
        (f"{AGENT}:ship", "is neither a persona nor a step but of type Ship"),
        (f"{AGENT}.py:captain", f"names a file; name the module as Python imports it, `{AGENT}:captain`"),
        (f"./{AGENT}:captain", "names a file"),
        ("a module:captain", "must be module:persona, such as agent:captain"),
        (":captain", "must be module:persona, such as agent:captain"),
        ("no_such_module:captain", "no module 'no_such_module' in the current directory"),
        ("json:dumps", "it has no persona and no step"),
    ],
)
def test_what_is_no_persona_is_wrong_usage(stepwarden, target, message):
    """An address that leads to no persona is status 2, and the line says what would be right."""
    result = stepwarden("run", target)

    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert message in result.err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('no key')", "SystemExit: no key"),
        ("def (", "SyntaxError: "),
        ("import stepwarden as sw\nsw.Budget(max_tokens=-1)", "DefinitionError: budget.max_tokens must be an int >= 0"),
    ],
)
def test_a_module_that_cannot_be_imported(stepwarden, folder, source, message):
    """A module that fails while it is imported is status 2 on one line; `--debug` shows where it failed."""
    (folder / "bad_under_test.py").write_text(source)

    result = stepwarden("run", "bad_under_test:captain")
    debugged = stepwarden("run", "bad_under_test:captain", "--debug")

    assert result.status == debugged.status == 2
    assert result.err.startswith("stepwarden: module 'bad_under_test' cannot be imported: ")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert debugged.err.startswith("Traceback")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "captain(text: str, depth: int = 1) -> dict needs --arg text=..."),
        (("--arg", "x=1", "--arg", "y=2"), "has no parameter x, y and needs --arg text=..."),
        (("--arg", "text"), "--arg 'text' must be name=value"),
        (("--arg", "=1"), "--arg '=1' must be name=value"),
        (("--arg", "text=1", "--arg", "text=2"), "--arg text is given twice"),
        (("--arg", "text=1", "--input", "x.txt"), "give either --input or --arg, not both"),
        (("--input", "missing.txt"), "--input: 'missing.txt' cannot be read: No such file or directory"),
        (("--input", "."), "--input: '.' cannot be read: Is a directory"),
        (("--input", "binary"), "--input: 'binary' is not text in UTF-8 (invalid start byte at byte 0)"),
        (("--input", "bad.json"), "--input: 'bad.json' is not JSON ("),
        (("--input", "list.json"), "--input: 'list.json' holds a JSON list, but must hold an object"),
        (("--input", "more.json"), "has no parameter n"),
        (("--arg", "text=1", "--budget-usd", "much"), "--budget-usd must be an amount of USD >= 0, such as 2.50"),
        (("--arg", "text=1", "--budget-usd", "-1"), "--budget-usd must be an amount of USD >= 0"),
        (("--arg", "text=1", "--budget-tokens", "-1"), "--budget-tokens must be a number of tokens >= 0, not -1"),
        (("--arg", "text=1", "--budget-tokens", "few"), "Invalid value for --budget-tokens: it must be a whole number"),
    ],
)
def test_arguments_that_do_not_fit_are_wrong_usage(stepwarden, folder, argv, message):
    """Arguments that cannot be right are status 2 on one line that names them, and nothing is run."""
    (folder / "binary").write_bytes(b"\xff\xfe")
    (folder / "bad.json").write_text('{"text": ')
    (folder / "list.json").write_text("[1]")
    (folder / "more.json").write_text('{"text": "hi", "n": 1}')

    result = stepwarden("run", f"{AGENT}:captain", *argv)

    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert message in result.err


def test_a_positional_parameter_cannot_be_named(stepwarden):
    """What only a position can give is refused by name, with Python's own words."""
    result = stepwarden("run", f"{AGENT}:positional", "--arg", "text=1")

    assert result.status == 2
    assert "positional(text, /) " in result.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("ruin",), 'Unknown command "ruin"'),
        (("run",), "TARGET requires an argument"),
        (("run", "a:b", "c"), "Unused Tokens: ['c']"),
        (("run", "a:b", "--wrong"), "Unknown option: --wrong"),
        (("run", "a:b", "--arg"), "--arg requires an argument"),
        (("run", "a:b", "--no-json"), "Unknown option: --no-json"),
    ],
)
def test_a_command_line_that_cannot_be_read(stepwarden, argv, message):
    """An unknown command, a missing or an unknown option is status 2 on one line that leads to the help."""
    result = stepwarden(*argv)

    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert "see `stepwarden --help`" in result.err


def test_a_closed_stdin_is_one_line(folder, spawn):
    """A process that was started without stdin says that it cannot read it."""
    code = f"import os, sys; os.close(0); from stepwarden.cli import main; sys.exit(main(['run', '{AGENT}:captain', '--input', '-']))"

    result = spawn("-c", code, cwd=folder)

    assert result.status == 2
    assert problem_of(result).startswith("stepwarden: --input: stdin cannot be read: ")


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_a_missing_extra_is_one_line(spawn, missing):
    """Without the packages of the extra the command says which extra to install, and `stepwarden.cli` is importable."""
    code = (
        f"import sys; sys.modules['{missing}'] = None; from stepwarden.cli import main; sys.exit(main(['run', 'a:b']))"
    )

    result = spawn("-c", code)

    assert result.status == 2
    assert result.err == 'stepwarden: the command line needs its extra: pip install "stepwarden[cli]"\n'


def test_importing_the_command_line_loads_neither_library(spawn):
    """`import stepwarden.cli` loads neither cyclopts nor rich."""
    code = "import stepwarden.cli, sys; sys.exit(bool({'cyclopts', 'rich'} & set(sys.modules)))"

    assert spawn("-c", code).status == 0


def test_a_reader_of_stdout_that_goes_costs_no_receipts(folder):
    """Where whoever reads stdout has gone, the run ends with status 1, its receipts are shown, and nothing is dumped."""
    (folder / "endless_under_test.py").write_text(
        "import stepwarden as sw\n@sw.persona\ndef endless():\n    while True: yield 'more'\n"
    )
    command = [sys.executable, "-m", "stepwarden", "run", "endless_under_test:endless"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "more\n"
        process.stdout.close()
        told = process.stderr.read()

    assert process.returncode == 1
    assert "cancelled persona endless" in told
    assert told.splitlines()[-1].startswith("stepwarden: endless_under_test:endless failed: BrokenPipeError")


@pytest.mark.skipif(not FULL.exists(), reason="there is no full device")
@pytest.mark.parametrize("words", ["receipts", "receipts --json", f"run {AGENT}:talks --json", "--help"])
def test_what_cannot_be_written_is_told(stepwarden, folder, words):
    """Where stdout cannot be written, the status is 1 and one line says why: a list is never lost in silence."""
    stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi")
    command = [sys.executable, "-m", "stepwarden", *words.split()]
    with FULL.open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert result.returncode == 1
    assert problem_of(Result(1, "", result.stderr)) == "stepwarden: [Errno 28] No space left on device"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_was_closed_before_is_nobodys(spawn, folder, closed):
    """A program that was begun without stdout or stderr does its work, and writes what is left to write."""
    code = f"import sys; sys.{closed} = None; from stepwarden.cli import main; sys.exit(main(sys.argv[1:]))"

    result = spawn("-c", code, "run", f"{AGENT}:captain", "--arg", "text=hi", cwd=folder)

    assert result.status == 0
    assert bool(result.out) == (closed == "stderr")
    assert bool(result.err) == (closed == "stdout")


def test_an_error_that_cannot_be_printed(stepwarden, folder):
    """An error whose own message fails is still told, by its class."""
    (folder / "mute_under_test.py").write_text(
        "import stepwarden as sw\n"
        "class MuteError(Exception):\n"
        "    def __str__(self): raise RuntimeError\n"
        "@sw.persona\n"
        "def mute(): raise MuteError\n"
    )

    result = stepwarden("run", "mute_under_test:mute")

    assert result.status == 1
    assert "MuteError: (its message could not be made: RuntimeError)" in problem_of(result)


def test_errors_cannot_steer_the_terminal(stepwarden, folder):
    """What comes from a model and stands in an error reaches the terminal without control characters or markup."""
    (folder / "rude_under_test.py").write_text(
        "import stepwarden as sw\n@sw.persona\ndef rude():\n    raise ValueError('a\\nb \\x1b[31m [red]c[/red] \\ud800')\n"
    )

    result = stepwarden("run", "rude_under_test:rude")

    assert "\x1b" not in result.err
    assert "a b [31m [red]c[/red]" in problem_of(result)
    assert json.loads(stepwarden("run", "rude_under_test:rude", "--json").out)["error"]["type"] == "ValueError"
