"""A run from the command line is recorded, and can be looked at afterwards: listed, shown, counted."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

import stepwarden as sw

AGENT = "agent_under_test"


@pytest.fixture
def recorded(stepwarden):
    """Record three runs: one with two steps, one whose step ran out, one that failed."""
    stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--arg", "depth=2")
    stepwarden("run", f"{AGENT}:escalates")
    stepwarden("run", f"{AGENT}:broken")
    return stepwarden


def as_json(result):
    assert (result.status, result.err) == (0, "")
    return json.loads(result.out)


def receipts_of(stepwarden, *options):
    return [one["receipt"] for one in as_json(stepwarden("receipts", "--json", *options))["receipts"]]


def names_of(stepwarden, *options):
    return [receipt["name"] for receipt in receipts_of(stepwarden, *options)]


COLOURED = "import os, sys; os.environ['FORCE_COLOR'] = '1'; from stepwarden.cli import main; sys.exit(main())"


@pytest.mark.parametrize("program", [("-m", "stepwarden"), ("-c", COLOURED)])
def test_what_the_encoding_lacks_is_escaped(folder, monkeypatch, spawn, program):
    """Where stdout has nothing but ASCII, lists and trees show escapes instead of failing."""
    with sw.SQLiteLedger("ascii.db") as ledger, sw.Run(ledger=ledger), sw.step("pr\u00fcfen"):
        sw.record_usage("m", input_tokens=1)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")

    for command in ("receipts", "show"):
        result = spawn(*program, command, "--ledger", "ascii.db")
        assert (result.status, result.err) == (0, ""), command
        assert r"pr\xfcfen" in result.out, command


def test_a_run_says_how_to_look_at_it(stepwarden, folder):
    """At its end a run names the command that shows it, and that command shows it."""
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi")
    told = result.err.splitlines()[-1]
    command = told.partition("show it again with: ")[2].split()

    shown = stepwarden(*command[1:])

    assert command[:2] == ["stepwarden", "show"]
    assert (folder / ".stepwarden" / "ledger.db").is_file()
    assert shown.status == 0
    assert shown.out.startswith(f"run {AGENT}:captain {command[2]}")


def test_show_without_a_run_shows_the_last(stepwarden):
    """Without a run, `show` shows the newest one."""
    stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi")
    stepwarden("run", f"{AGENT}:broken")

    assert stepwarden("show").out == stepwarden("show", "last").out
    assert stepwarden("show").out.startswith(f"run {AGENT}:broken ")


def test_another_ledger_is_named_in_the_command(stepwarden, folder):
    """With a ledger of one's own, the command that shows the run names it, quoted where it must be."""
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--ledger", "my books.db")

    assert result.err.splitlines()[-1].endswith(" --ledger 'my books.db'")
    assert not (folder / ".stepwarden").exists()
    assert names_of(stepwarden, "--ledger", "my books.db") == ["captain", "count"]


def test_the_environment_names_a_ledger(stepwarden, folder, monkeypatch):
    """$STEPWARDEN_LEDGER is where runs are recorded and looked for, and the command need not name it."""
    monkeypatch.setenv("STEPWARDEN_LEDGER", str(folder / "env.db"))
    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi")

    assert "--ledger" not in result.err
    assert (folder / "env.db").is_file()
    assert names_of(stepwarden) == ["captain", "count"]


def test_machines_learn_where_it_was_recorded(stepwarden):
    """With `--json` the answer has the run's id and the ledger, and stderr says nothing."""
    answer = as_json(stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi", "--json"))
    shown = as_json(stepwarden("show", answer["run"]["id"], "--ledger", answer["ledger"], "--json"))

    assert shown["run"]["id"] == answer["run"]["id"]
    assert shown["receipts"] == answer["receipts"]


def test_receipts_are_listed_newest_first(recorded):
    """The list has every receipt, the newest first, on one line each, with its run, its end and what it spent."""
    result = recorded("receipts")
    rows = [" ".join(line.split()) for line in result.out.splitlines()]
    newest = receipts_of(recorded)[0]

    assert result.status == 0
    assert names_of(recorded) == ["broken", "escalates", "captain", "count", "count"]
    assert rows[0] == "ended (UTC) run persona name status model tokens USD budget time"
    assert rows[1].startswith(f"{newest['started_at'][:10]} ")
    assert f" {newest['run_id'][:8]} broken broken failed " in rows[1]
    assert " escalates escalated toy 10 200% " in rows[2]
    assert " captain captain completed 32 $0.0024 " in rows[3]
    assert " captain count completed toy 21 $0.0012 21% " in rows[4]


def test_a_list_is_as_long_as_asked_for(recorded):
    """`--limit` is the most receipts, and where there are more it is said."""
    result = recorded("receipts", "--limit", "2")
    answer = as_json(recorded("receipts", "--limit", "2", "--json"))

    assert len(result.out.splitlines()) == 4
    assert result.out.splitlines()[-1] == "the newest 2 receipts; --limit shows more"
    assert (len(answer["receipts"]), answer["has_more"]) == (2, True)
    assert as_json(recorded("receipts", "--json"))["has_more"] is False


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--persona", "captain"], ["captain", "count", "count"]),
        (["--step", "count"], ["count", "count"]),
        (["--status", "escalated"], ["escalates"]),
        (["--status", "failed", "--persona", "captain"], []),
        (["--model", "toy", "--step", "count"], ["count", "count"]),
        (["--min-usd", "0.002"], ["captain"]),
        (["--max-usd", "0.0012", "--persona", "captain"], ["count", "count"]),
        (["--since", "1h"], ["broken", "escalates", "captain", "count", "count"]),
        (["--until", "2020-01-01"], []),
        (["--run", "last"], ["broken"]),
    ],
    ids=" ".join,
)
def test_receipts_are_chosen(recorded, options, names):
    """Receipts are filtered by persona, step, status, model, cost, time and run, all of which must hold."""
    assert names_of(recorded, *options) == names


def test_times_are_read_as_people_write_them(recorded):
    """A time is a date or a time in UTC, one with a zone, or how long ago it was."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d")

    for earlier in ("2024-02-29", "2024-02-29T12:30", "2024-02-29T12:30:00+02:00", "90m", "24h", "7d", "2w"):
        assert len(names_of(recorded, "--since", earlier, "--until", tomorrow)) == 5
    assert names_of(recorded, "--since", tomorrow) == []


def test_a_run_is_shown_as_a_tree(recorded):
    """A run is shown with the tree of its scopes, what each spent itself and in all, and its calls."""
    run = receipts_of(recorded, "--persona", "captain")[0]["run_id"]

    result = recorded("show", run[:6])
    rows = [" ".join(line.split()) for line in result.out.splitlines()]

    assert rows[0] == f"run {AGENT}:captain {run}"
    assert rows[1].startswith("completed, 20")
    assert rows[1].endswith(", not signed")
    assert rows[2] == "spent 2 calls, 32 tokens (30 in, 2 out), $0.0024"
    assert rows[4] == "name status calls own USD total USD budget time"
    assert rows[5].startswith("captain completed 2 32 $0.0024 ")
    assert rows[6].startswith("count completed 1 11 $0.0012 11 $0.0012 11% tokens ")
    assert rows[7] == "· toy recorded 11 $0.0012"
    assert rows[8].startswith("count completed 1 21 $0.0012 21 $0.0012 21% tokens ")


def test_what_went_wrong_is_told_below_the_tree(recorded):
    """What ended a step, and what was spent over its limits, stands below the tree."""
    result = recorded("show", receipts_of(recorded, "--step", "escalates")[0]["run_id"])

    assert "escalates  escalated: step `escalates` exceeded max_tokens budget (10 > 5)" in result.out
    assert "over its budget by 5 tokens" in result.out


def test_a_prompt_is_not_told(recorded):
    """Of an error that is not ours the ledger has the type alone, since its text may quote anything."""
    result = recorded("show", "last")

    assert "broken  failed: KeyError" in result.out
    assert "first line" not in result.out


def test_last_is_the_newest_run_that_is_in_no_other(stepwarden, folder):
    """`last` means the run that the user has started, and what was opened inside it is told of under it."""
    with sw.SQLiteLedger(folder / "nested.db") as ledger, sw.Run(ledger=ledger, name="outer"):
        with sw.Run(name="inner", budget=sw.Budget(max_calls=3)) as inner, sw.step("work"):
            sw.record_usage("m", input_tokens=5, cost_usd=1)

    result = stepwarden("show", "last", "--ledger", "nested.db")
    shown = stepwarden("show", inner.id, "--ledger", "nested.db")

    assert result.out.startswith("run outer ")
    assert f"inside it: run {inner.id[:8]} (inner), completed, 5 tokens, $1.0000" in result.out
    assert "inside run " in shown.out.splitlines()[1]
    assert "limits max_calls 3" in shown.out


def test_a_run_that_goes_on_is_still_open(stepwarden, folder):
    """A run that another process is in is shown as open, with the receipts that it has left so far."""
    with sw.SQLiteLedger(folder / "open.db") as ledger, sw.Run(ledger=ledger, name="long") as run:
        with sw.step("done"):
            pass
        run.journal.ticket().wait()
        result = stepwarden("show", "last", "--ledger", "open.db")

    assert result.out.splitlines()[1].startswith("still open, ")
    assert "done" in result.out


def test_an_uncertain_call_is_told(stepwarden, folder):
    """What is set aside for a call whose cost never became known is told of the step and of the run."""
    with sw.SQLiteLedger(folder / "l.db") as ledger, sw.Run(ledger=ledger, name="risky"), sw.step("call"):
        with sw.reserve(input_tokens=5, output_tokens=7, cost_usd="0.5", model="m"):
            pass

    lines = stepwarden("show", "last", "--ledger", "l.db").out.splitlines()

    assert [line.split()[0] for line in lines if "uncertain: 7 tokens" in line] == ["call", "risky"]
    assert any("· m" in line and "uncertain" in line for line in lines)


def test_only_the_newest_receipts_are_shown(recorded):
    """A long run is shown by its newest receipts, and how many were left out is said."""
    run = receipts_of(recorded, "--persona", "captain")[0]["run_id"]

    result = recorded("show", run, "--limit", "1")

    assert "(2 earlier receipts left out; --limit shows more)" in result.out
    assert as_json(recorded("show", run, "--limit", "1", "--json"))["left_out"] == 2


def test_statistics_are_told_by_persona_step_model_and_day(recorded):
    """There is a table for each, with how many there were, the share that ran out, and what half and most of them spent."""
    answer = as_json(recorded("stats", "--json"))
    result = recorded("stats")
    [day] = answer["day"]

    assert [table.split()[0] for table in result.out.split("\n\n")] == ["persona", "step", "model", "day"]
    assert {row["key"]: row["activations"] for row in answer["persona"]} == {"captain": 1, "broken": 1}
    assert {row["key"]: row["ran_out"] for row in answer["step"]} == {"count": 0.0, "escalates": 1.0}
    assert day["key"] == f"{datetime.now(UTC):%Y-%m-%d}"
    [count] = as_json(recorded("stats", "--by", "step", "--step", "count", "--json"))["step"]
    assert (count["cost_usd"], count["tokens"]) == (
        {"p50": "0.0012", "p95": "0.0012", "total": "0.0024"},
        {"p50": 11, "p95": 21, "total": 32},
    )


def test_budgets_that_do_not_fit_are_named(stepwarden, folder):
    """A step that often runs out has a tight budget, one that never comes near its limits a loose one."""
    with sw.SQLiteLedger(folder / "l.db", durability="process") as ledger, sw.Run(ledger=ledger):
        for _ in range(20):
            with sw.step("poor", budget=sw.Budget(max_calls=0), error_boundary="continue"):
                sw.record_usage("m", input_tokens=1, cost_usd=0)
            with sw.step("rich", budget=sw.Budget(max_calls=50)):
                sw.record_usage("m", input_tokens=1, cost_usd=0)
            with sw.step("fitting", budget=sw.Budget(max_calls=1)):
                sw.record_usage("m", input_tokens=1, cost_usd=0)

    result = stepwarden("stats", "--by", "step", "--ledger", "l.db")
    rows = {line.split()[0]: line.split()[-1] for line in result.out.splitlines() if line}

    assert (rows["poor"], rows["rich"], rows["fitting"]) == ("tight", "loose", "100%")
    assert "tight: at least 5% ran out" in result.out


@pytest.mark.parametrize("command", ["receipts", "stats", "show"])
def test_a_narrow_terminal_is_enough(recorded, monkeypatch, command):
    """On 80 columns no line is longer, and no number is cut."""
    monkeypatch.setenv("COLUMNS", "80")

    result = recorded(command, *(["last"] if command == "show" else []))

    assert result.status == 0
    assert max(len(line) for line in result.out.splitlines()) <= 80
    assert "$0" in result.out


@pytest.mark.parametrize(
    "command", [["receipts"], ["show", "last"], ["stats"], ["verify"], ["recover"], ["receipts", "export", "last"]]
)
def test_without_a_ledger_there_is_nothing_to_look_at(stepwarden, folder, command):
    """Where no ledger is, a command that looks says so, makes none, and ends with status 2."""
    result = stepwarden(*command)

    assert (result.status, result.out) == (2, "")
    assert (
        result.err
        == "stepwarden: there is no ledger at .stepwarden/ledger.db; `stepwarden run` creates one, and --ledger names another\n"
    )
    assert not (folder / ".stepwarden").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["show", "nobody"], "there is no run nobody"),
        (["receipts", "--run", "nobody"], "there is no run nobody"),
        (["receipts", "--status", "fine"], "--status must be one of completed, failed"),
        (["receipts", "--since", "soon"], "--since must be a time such as"),
        (["receipts", "--until", "2026-13-01"], "--until must be a time such as"),
        (["receipts", "--min-usd", "-1"], "--min-usd must be an amount of USD >= 0"),
        (["receipts", "--max-usd", "much"], "--max-usd must be an amount of USD >= 0"),
        (["receipts", "--limit", "0"], "--limit must be a number of receipts >= 1"),
        (["show", "last", "--limit", "0"], "--limit must be a number of receipts >= 1"),
        (["stats", "--by", "mood"], "mood"),
        (["receipts", "--ledger", ""], "--ledger must be the path of a ledger's file"),
        (["receipts", "--ledger", "postgresql://x/y"], "databases are not supported"),
        (
            ["run", f"{AGENT}:captain", "--arg", "text=hi", "--sign", "nowhere"],
            "--sign: the key file nowhere cannot be read",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_wrong_usage(recorded, words, told):
    """A question that cannot be answered is one line on stderr, and status 2."""
    result = recorded(*words)

    assert (result.status, result.out) == (2, "")
    assert told in result.err
    assert len(result.err.splitlines()) == 1


def test_a_file_that_is_no_ledger_is_a_failed_ledger(stepwarden, folder):
    """A ledger that cannot be read or written is one line on stderr, and status 4, before the agent begins."""
    (folder / "l.db").write_bytes(b"SQLite format 3\x00 and then nothing of the kind" * 20)

    for words in (
        ["receipts"],
        ["show", "last"],
        ["stats"],
        ["verify"],
        ["recover"],
        ["run", f"{AGENT}:captain", "--arg", "text=hi"],
    ):
        result = stepwarden(*words, "--ledger", "l.db")
        assert (result.status, result.out) == (4, "")
        assert len(result.err.splitlines()) == 1
        assert "l.db" in result.err


def test_who_died_is_accounted_for(stepwarden, folder):
    """A run whose process was killed is told of by `recover`, once, and shown as abandoned."""
    program = (
        "import os, stepwarden as sw\n"
        "with sw.SQLiteLedger('l.db') as ledger, sw.Run(ledger=ledger, name='victim'), sw.step('work'):\n"
        "    with sw.reserve(input_tokens=5, output_tokens=7, cost_usd='0.5', model='m'):\n"
        "        os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=False, env={**os.environ})

    first, second = stepwarden("recover", "--ledger", "l.db"), stepwarden("recover", "--ledger", "l.db")
    shown = stepwarden("show", "last", "--ledger", "l.db")

    assert (first.status, second.status) == (0, 0)
    assert "(victim) is now abandoned: spent " in first.out
    assert "1 call in flight" in first.out
    assert second.out == "no run was left open by a process that has died\n"
    assert shown.out.splitlines()[1].startswith("abandoned, ")
    assert as_json(stepwarden("recover", "--ledger", "l.db", "--json"))["recovered"] == []


def test_the_next_run_tells_of_who_died(stepwarden, folder):
    """Whoever opens the ledger next accounts for the dead, and says so on stderr."""
    program = (
        "import os, stepwarden as sw\n"
        "ledger = sw.SQLiteLedger('.stepwarden/ledger.db')\n"
        "with sw.Run(ledger=ledger, name='victim') as run:\n"
        "    run.journal.ticket().wait()\n"
        "    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=False, env={**os.environ})

    result = stepwarden("run", f"{AGENT}:captain", "--arg", "text=hi")

    assert result.status == 0
    assert result.err.startswith("stepwarden: run ")
    assert "(victim) is now abandoned" in result.err
