"""`stepwarden run` calls a persona inside a run, gives out what it returns, and shows the receipts."""

import json
import sys
from dataclasses import fields
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

import pytest

import stepwarden as sw

AGENT = "agent_under_test"


def test_what_is_returned_is_all_of_stdout(stepwarden):
    """What the persona returns is on stdout, and everything about the run is on stderr."""
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi")

    assert result.status == 0
    assert json.loads(result.out) == {"text": "hi", "counted": [10]}
    assert "completed step count" in result.err


def test_a_string_is_printed_as_it_is(stepwarden):
    """A returned string is printed without quotes, and one that looks like JSON is not touched."""
    result = stepwarden("run", f"{AGENT}:coroutine", "--arg", 'text="[1,  2]"')

    assert (result.status, result.out) == (0, "[1,  2]\n")


def test_nothing_returned_is_nothing_printed(stepwarden):
    """A persona that returns None leaves stdout empty."""
    assert stepwarden("run", f"{AGENT}:silent").out == ""


@pytest.mark.parametrize("name", ["generator", "async_generator"])
def test_a_generator_gives_out_a_line_for_each_item(stepwarden, name):
    """The items of a generator persona are printed one a line, and its receipt is left."""
    result = stepwarden("run", f"{AGENT}:{name}")

    assert (result.status, result.out) == (0, 'one\n{"two":2}\n')
    assert f"completed persona {name}" in result.err


def test_items_come_before_the_error(stepwarden):
    """What a generator has given out before it fails has been printed."""
    result = stepwarden("run", f"{AGENT}:generator", "--arg", "fail=true")

    assert (result.status, result.out) == (1, 'one\n{"two":2}\n')


def test_a_step_can_be_run_alone(stepwarden):
    """A decorated step is run like a persona."""
    result = stepwarden("run", f"{AGENT}:count", "--arg", "tokens=7")

    assert (result.status, result.out) == (0, "7\n")


def test_a_dotted_name_leads_into_an_object(stepwarden):
    """The persona may be an attribute of an object in the module."""
    result = stepwarden("run", f"{AGENT}:ship.sail", "--arg", "to=sea")

    assert (result.status, result.out) == (0, "sea\n")


def test_values_are_json_where_they_parse(stepwarden):
    """A value of `--arg` that is JSON is read as JSON, and any other is a string."""
    pairs = ["n=3", "yes=true", "no=null", "many=[1, 2]", "text=two words", "zeros=007", "word=NaN", "empty=", "a=b=c"]
    result = stepwarden("run", f"{AGENT}:given", *(part for pair in pairs for part in ("--arg", pair)))

    assert json.loads(result.out) == {
        "n": 3,
        "yes": True,
        "no": None,
        "many": [1, 2],
        "text": "two words",
        "zeros": "007",
        "word": "NaN",
        "empty": "",
        "a": "b=c",
    }


def test_a_json_file_gives_keyword_arguments(stepwarden, folder):
    """`--input` with a JSON file calls the persona with the object in it."""
    (folder / "input.json").write_text('{"text": "from a file", "depth": 2}')

    result = stepwarden("run", f"{AGENT}:captain", "--input", "input.json")

    assert json.loads(result.out) == {"text": "from a file", "counted": [10, 20]}


def test_a_text_file_is_the_only_argument(stepwarden, folder):
    """`--input` with any other file calls the persona with its text, unchanged, by position."""
    (folder / "input.md").write_bytes("\N{SNOWMAN} one\r\n\n".encode())

    result = stepwarden("run", f"{AGENT}:positional", "--input", "input.md", "--json")

    assert json.loads(result.out)["output"] == "\N{SNOWMAN} one\r\n\n"


def test_text_comes_from_stdin(folder, spawn):
    """`--input -` reads the text from stdin; `python -m stepwarden` is the command."""
    result = spawn("-m", "stepwarden", "run", f"{AGENT}:positional", "--input", "-", input="piped", cwd=folder)

    assert (result.status, result.out) == (0, "piped\n")


def test_the_script_finds_the_module_in_the_current_directory(folder, spawn):
    """The installed `stepwarden` script imports the persona's module from where the user stands."""
    script = Path(sys.executable).with_name("stepwarden")

    result = spawn(str(script), "run", f"{AGENT}:coroutine", cwd=folder)

    assert (result.status, result.out) == (0, "quiet\n")


def test_a_function_without_a_signature_is_just_called(stepwarden, folder):
    """Where Python cannot tell what a function takes, the call itself decides."""
    (folder / "opaque_under_test.py").write_text('import stepwarden as sw\nlargest = sw.step(name="largest")(max)\n')
    (folder / "input.txt").write_text("abc")

    assert stepwarden("run", "opaque_under_test:largest", "--input", "input.txt").out == "c\n"
    assert stepwarden("run", "opaque_under_test:largest").status == 1


def test_the_import_path_is_put_back(stepwarden):
    """The current directory is importable for the length of the command only."""
    before = list(sys.path)

    stepwarden("run", f"{AGENT}:silent")

    assert sys.path == before


def test_the_receipts_are_a_table(stepwarden):
    """Each receipt is a row with its status, model, calls, tokens, USD and share of its budget; the run is the last."""
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--arg", "depth=2", "--budget-usd", "0.01")
    lines = result.err.splitlines()
    rows = [" ".join(line.split()) for line in lines[lines.index("") + 1 :]]

    assert rows[0] == "kind name status model calls in out USD budget time"
    assert rows[1].startswith("persona captain completed 2 30 2 $0.0024 ")
    assert rows[2].startswith("step count completed toy 1 10 1 $0.0012 11% tokens ")
    assert rows[3].startswith("step count completed toy 1 20 1 $0.0012 21% tokens ")
    assert rows[4].startswith(f"run {AGENT}:captain done 2 30 2 $0.0024 24% USD ")


def test_a_table_fits_a_narrow_terminal(stepwarden, monkeypatch):
    """On 60 columns names are shortened, and no number is."""
    monkeypatch.setenv("COLUMNS", "60")

    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--budget-usd", "0.01")
    table = result.err.split("\n\n")[1].splitlines()

    assert max(len(line) for line in table) <= 60
    assert "\N{HORIZONTAL ELLIPSIS}" in table[-1]
    assert table[-1].split()[-6:-1] == ["1", "10", "1", "$0.0012", "12%"]


def test_what_no_number_says_is_noted(stepwarden):
    """An overshoot and the error that came of it are told below the table, the error once."""
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--budget-tokens", "5")
    notes = result.err.split("\n\n", 2)[2]

    assert notes.count("run `agent_under_test:captain` exceeded max_tokens budget (11 > 5)") == 2
    assert f"{AGENT}:captain  over its budget by 6 tokens" in notes


def test_json_is_one_object_and_nothing_else(stepwarden):
    """With `--json` stdout is one object with output, run and every field of every receipt, and stderr is empty."""
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--budget-usd", "2.50", "--json")
    record = json.loads(result.out)

    assert (result.status, result.err, result.out.count("\n")) == (0, "", 1)
    assert list(record) == ["status", "output", "error", "run", "ledger", "receipts"]
    assert (record["status"], record["error"]) == ("done", None)
    assert record["output"] == {"text": "hi", "counted": [10]}
    assert record["run"]["name"] == f"{AGENT}:captain"
    assert record["run"]["budget"]["max_usd"] == "2.50"
    assert record["run"]["total"]["cost_usd"] == "0.0012"
    assert record["run"]["held"]["calls"] == record["run"]["uncertain"]["calls"] == 0
    assert [receipt["name"] for receipt in record["receipts"]] == ["count", "captain"]
    for receipt in record["receipts"]:
        assert list(receipt) == [field.name for field in fields(sw.Receipt)]
        assert receipt["started_at"].endswith("+00:00")
    assert record["receipts"][0]["calls"] == [
        {
            "model": "toy",
            "input_tokens": 10,
            "output_tokens": 1,
            "cost_usd": "0.0012",
            "outcome": "recorded",
            "clamped": False,
        }
    ]


def test_json_collects_the_items_of_a_generator(stepwarden):
    """With `--json` the items are a list under `output`, those before an error as well."""
    record = json.loads(stepwarden("run", f"{AGENT}:generator", "--arg", "fail=true", "--json").out)

    assert record["output"] == ["one", {"two": 2}]
    assert record["error"] == {"type": "ValueError", "message": "no three"}


def test_output_that_json_cannot_hold_becomes_its_repr(stepwarden):
    """A value in the output that JSON does not have is written as its repr, and so is an output that holds itself."""
    assert json.loads(stepwarden("run", f"{AGENT}:odd").out) == ["range(0, 2)", {"(1, 2)": "a key"}]

    record = json.loads(stepwarden("run", f"{AGENT}:odd", "--arg", "knot=true", "--json").out)
    assert record["output"] == "[range(0, 2), {(1, 2): 'a key'}, [...]]"


def test_a_model_of_pydantic_is_its_json(stepwarden, folder, require_service):
    """A returned pydantic model is written as its own JSON."""
    require_service("pydantic", module="pydantic")
    (folder / "typed_under_test.py").write_text(
        "import pydantic, stepwarden as sw\n"
        "class Answer(pydantic.BaseModel):\n"
        "    text: str\n"
        "@sw.persona\n"
        "def typed(): return Answer(text='yes')\n"
    )

    assert json.loads(stepwarden("run", "typed_under_test:typed").out) == {"text": "yes"}


def test_small_amounts_have_no_exponent(stepwarden):
    """A `Decimal` is written in full, however small it is."""
    from stepwarden.cli._json import encode

    assert encode(sw.Usage(cost_usd=Decimal("0.000000000001"))).count('"0.000000000001"') == 1


def test_amounts_for_people_are_never_rounded_to_nothing():
    """USD are shown to four decimals, smaller amounts to two digits, and nothing as nothing."""
    from stepwarden.cli._format import usd

    assert [usd(Decimal(text)) for text in ("0", "1234.5", "0.05", "0.001234", "0.00004567")] == [
        "$0",
        "$1,234.5000",
        "$0.0500",
        "$0.0012",
        "$0.000046",
    ]


def test_times_for_people():
    """A time has the unit that suits its length."""
    from stepwarden.cli._format import clock

    assert [clock(seconds) for seconds in (0.0001, 0.0124, 0.99999, 3.44, 75, 7_385)] == [
        "<1ms",
        "12ms",
        "1.0s",
        "3.4s",
        "1m15s",
        "2h03m",
    ]


def test_a_long_log_is_cut_and_says_so(stepwarden, folder):
    """Of very many receipts the table shows the newest, and how many there were before them."""
    (folder / "many_under_test.py").write_text(
        "import stepwarden as sw\n"
        "@sw.persona\n"
        "def many():\n"
        "    for turn in range(300):\n"
        "        with sw.step('turn'): pass\n"
    )

    result = stepwarden("run", "many_under_test:many")
    table = result.err[result.err.index("\n\n") :].splitlines()

    assert "(101 earlier ones)" in table[3]
    assert sum("completed" in line for line in table) == 200


def test_the_version_is_the_package_s(stepwarden):
    """`--version` prints the version that is installed."""
    assert stepwarden("--version").out == f"stepwarden {version('stepwarden')}\n"


@pytest.mark.parametrize("argv", [("--help",), (), ("run", "--help"), ("demo", "--help")])
def test_help_says_what_the_exit_status_means(stepwarden, argv):
    """Help is on stdout with status 0, and names the exit statuses."""
    result = stepwarden(*argv)

    assert (result.status, result.err) == (0, "")
    assert "3 a budget or an escalation ended it" in " ".join(result.out.split())


def test_what_the_agent_prints_leaves_the_json_alone(stepwarden):
    """With --json stdout has the one JSON object: what the agent prints itself goes to stderr, without it to stdout."""
    record = stepwarden("run", f"{AGENT}:talks", "--json")
    plain = stepwarden("run", f"{AGENT}:talks")

    assert json.loads(record.out)["output"] == "said"
    assert record.err == "thinking aloud\n"
    assert plain.out == "thinking aloud\nsaid\n"
