"""The command line as a user meets it: in a process of its own."""

import json
import subprocess
import sys
import textwrap

import pytest

AGENT = textwrap.dedent(
    """
    import stepwarden as sw

    @sw.step(budget=sw.Budget(max_tokens=100))
    def work(tokens):
        sw.record_usage("m", input_tokens=tokens, cost_usd="0.01")
        return "worked"

    @sw.persona
    def captain(tokens: int = 10):
        return work(tokens)

    @sw.persona
    async def reader(text: str):
        return {"words": len(text.split())}

    @sw.persona
    def broken():
        raise LookupError("no such thing")
    """
)


@pytest.fixture
def stepwarden(tmp_path):
    """Run the command in a folder with an agent; give its exit status and output."""
    (tmp_path / "agent.py").write_text(AGENT, encoding="utf-8")

    def run(*words, stdin=None):
        return subprocess.run(
            [sys.executable, "-m", "stepwarden", *words],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_a_persona_runs_and_leaves_its_receipts(stepwarden):
    """A persona's answer goes to stdout, its receipts are shown, and the exit status is 0."""
    done = stepwarden("run", "agent:captain", "--arg", "tokens=20")
    assert done.returncode == 0
    assert "worked" in done.stdout
    shown = done.stdout + done.stderr
    assert "captain" in shown
    assert "completed" in shown


def test_machines_get_one_json_object(stepwarden):
    """With --json stdout is one object with the output, the run and every receipt."""
    done = stepwarden("run", "agent:captain", "--json")
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["output"]) == ("done", "worked")
    assert [(receipt["name"], receipt["status"]) for receipt in answer["receipts"]] == [
        ("work", "completed"),
        ("captain", "completed"),
    ]
    assert answer["run"]["total"]["cost_usd"] == "0.01"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("agent:captain", "--arg", "tokens=500"), 3),
        (("agent:captain", "--arg", "tokens=50", "--budget-tokens", "40"), 3),
        (("agent:captain", "--budget-usd", "0.001"), 3),
        (("agent:broken",), 1),
        (("agent:nobody",), 2),
        (("no_such_module:captain",), 2),
        (("agent:captain", "--arg", "unknown=1"), 2),
        (("agent:captain", "--budget-usd", "-1"), 2),
    ],
)
def test_the_exit_status_tells_the_outcome(stepwarden, words, status):
    """0 is done, 1 a failed agent, 2 wrong usage, 3 an exhausted budget; an error is clear, without a traceback."""
    done = stepwarden("run", *words)
    assert done.returncode == status
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_text_is_the_persona_s_argument(stepwarden, tmp_path):
    """--input gives a persona the text of a file, or of stdin."""
    (tmp_path / "text.txt").write_text("one two three", encoding="utf-8")
    assert '"words": 3' in stepwarden("run", "agent:reader", "--input", "text.txt").stdout.replace('":3', '": 3')
    assert stepwarden("run", "agent:reader", "--input", "missing.txt").returncode == 2


def test_unknown_commands_are_wrong_usage(stepwarden):
    """An unknown command exits with 2, and --version and --help with 0."""
    assert stepwarden("no-such-command").returncode == 2
    assert stepwarden("--version").returncode == 0
    assert stepwarden("run", "--help").returncode == 0
