"""While a persona runs, what is open and what it has spent is shown on stderr, and the agent never notices."""

import io
import os
import pty
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from rich.console import Console

import stepwarden as sw
from stepwarden.cli._lines import Lines
from stepwarden.cli._live import draw

AGENT = "agent_under_test"
COMMAND = [sys.executable, "-m", "stepwarden", "run"]


def console(**options):
    """Make a console that writes into memory."""
    return Console(file=io.StringIO(), width=options.pop("width", 100), **options)


def rows(run, **options):
    """Draw one look at a run, and return its rows without the padding."""
    screen = console(**options)
    screen.print(draw(run, screen))
    return [" ".join(line.split()) for line in screen.file.getvalue().splitlines()]


def test_an_open_scope_is_a_row_with_its_budget():
    """The live table has a row for each open scope: kind, name, model, tokens and USD of its budget, and what is held."""
    budget = sw.Budget(max_tokens=1_000, max_usd="0.50")
    with sw.Run(name="job", budget=sw.Budget(max_usd=2)) as run, sw.persona("captain"):
        with sw.step("plan", model="toy", budget=budget):
            sw.record_usage(input_tokens=100, output_tokens=20, cost_usd="0.25")
            with sw.reserve(input_tokens=30, output_tokens=34, cost_usd="0.125") as hold:
                head, persona, step, whole = rows(run)
                hold.release()

    assert head == "kind name status model time tokens USD held"
    assert re.fullmatch(r"persona captain open \S+ 120 \$0\.2500 64 \$0\.1250", persona)
    assert re.fullmatch(r"step plan open toy \S+ 120/1,000 \$0\.2500/\$0\.50 64 \$0\.1250", step)
    assert re.fullmatch(r"run job open \S+ 120 \$0\.2500/\$2\.00 64 \$0\.1250", whole)


def test_what_has_finished_last_stays_in_sight():
    """Above the open scopes the live table shows with which status the last ones ended."""
    with sw.Run(name="job") as run:
        for turn in range(9):
            with sw.step(f"turn{turn}"):
                pass
        with sw.step("now"):
            table = rows(run)

    assert [row.split()[1] for row in table] == [
        "name",
        "turn3",
        "turn4",
        "turn5",
        "turn6",
        "turn7",
        "turn8",
        "now",
        "job",
    ]
    assert all("completed" in row for row in table[1:7])


def test_limits_on_one_side_are_shown():
    """A step whose output or input alone is limited shows that number and its limit."""
    with sw.Run() as run, sw.step("in", budget=sw.Budget(max_input_tokens=50)):
        with sw.step("out", budget=sw.Budget(max_output_tokens=96)):
            sw.record_usage(input_tokens=10, output_tokens=20, cost_usd=0)
            table = rows(run)

    assert "10/50 in" in table[1]
    assert "20/96 out" in table[2]


def test_more_scopes_than_lines():
    """More open scopes than the terminal has lines are counted, and the table stays within it."""
    with sw.Run(name="job") as run:
        blocks = [sw.step(f"nested{depth}") for depth in range(30)]
        for block in blocks:
            block.__enter__()
        table = rows(run, height=14)
        for block in reversed(blocks):
            block.__exit__(None, None, None)

    assert len(table) == 13
    assert table[-2] == "and 20 more"
    assert table[-1].startswith("run job open")


def test_a_narrow_terminal_shortens_names_not_numbers():
    """On 70 columns no row is broken in two, and every number is whole."""
    budget = sw.Budget(max_tokens=20_000, max_usd="0.50")
    with sw.Run(name="job") as run, sw.step("a_name_that_is_far_too_long_for_this", model="toy", budget=budget):
        sw.record_usage(input_tokens=12_345, cost_usd="0.1234")
        with sw.reserve(input_tokens=1_000, cost_usd="0.05"):
            table = rows(run, width=70)

    assert len(table) == 3
    assert "\N{HORIZONTAL ELLIPSIS}" in table[1]
    assert "12,345/20,000 $0.1234/$0.50 1,000 $0.0500" in table[1]


def test_plain_lines_tell_of_opening_and_closing():
    """Without a terminal each scope has a line when it opens, and one with its status and spending when it has closed."""
    screen = console(width=20)
    with sw.Run() as run:
        lines = Lines(screen, run)
        with sw.step("classify"):
            lines.look()
            lines.look()
            sw.record_usage(input_tokens=100, output_tokens=20, cost_usd="0.0012")
        with pytest.raises(ZeroDivisionError), sw.step("divide"):
            raise ZeroDivisionError("by zero")
        lines.look()

    assert screen.file.getvalue().splitlines() == [
        "started step classify",
        "completed step classify 120 tokens $0.0012",
        "failed step divide: ZeroDivisionError: by zero",
    ]


@contextmanager
def on_a_terminal(folder, *argv, stdout=subprocess.PIPE):
    """Start the command with a pseudo-terminal as its stderr; yield the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "LINES": "30", "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    with subprocess.Popen(
        [*COMMAND, *argv],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()


def read_until(terminal, text, seconds=60):
    """Read a terminal until *text* has come, or to its end where *text* is None; return what was read."""
    read = b""
    deadline = time.monotonic() + seconds
    while text is None or text not in read:
        assert time.monotonic() < deadline, read
        try:
            read += os.read(terminal, 4096)
        except OSError:  # what Linux says where nobody is at the other end any more
            assert text is None, read
            break
    return read


def test_a_terminal_has_a_live_table(folder):
    """On a terminal the open steps are drawn with what they spent and hold, and stdout stays clean."""
    with on_a_terminal(folder, f"{AGENT}:waits") as (process, terminal):
        live = read_until(terminal, b"$0.5000")
        process.stdin.write(b"go on\n")
        process.stdin.close()
        after = read_until(terminal, None)
        out = process.stdout.read()
        os.close(terminal)

    assert (process.returncode, out) == (0, b"awake\n")
    assert b"nap" in live
    assert b"120/1,000" in live
    assert b"$0.2500/$1.00" in live
    assert b"started step" not in live
    assert b"\x1b[32mcompleted\x1b[0m" in after  # in the table of receipts, in green
    assert after.count(b"\x1b[?25h") == 1  # the cursor is back


def test_what_is_printed_meanwhile_stands_above_the_live_table(folder):
    """Where stdout is the same terminal, what the agent prints is on it whole, and its output as well."""
    (folder / "chatty_under_test.py").write_text(
        "import stepwarden as sw\n@sw.persona\ndef chatty():\n    print('printed')\n    input()\n    return 'returned'\n"
    )
    with on_a_terminal(folder, "chatty_under_test:chatty", stdout=None) as (process, terminal):
        live = read_until(terminal, b"printed")
        process.stdin.write(b"go on\n")
        process.stdin.close()
        after = read_until(terminal, None)
        os.close(terminal)

    assert process.wait() == 0
    assert b"printed" in live
    assert (live + after).count(b"printed") == 1
    assert b"returned\r\n" in after


def test_a_terminal_that_goes_away_does_not_stop_the_agent(folder):
    """The agent runs to its end and its output is given out, even if the terminal of the live view is gone."""
    with on_a_terminal(folder, f"{AGENT}:waits") as (process, terminal):
        read_until(terminal, b"$0.5000")
        os.close(terminal)
        out, _ = process.communicate(b"go on\n", timeout=60)

    assert (process.returncode, out) == (0, b"awake\n")


def test_json_shows_nothing_on_a_terminal(folder):
    """With `--json` there is no live view, on a terminal neither."""
    with on_a_terminal(folder, f"{AGENT}:captain", "--arg", "text=hi", "--json") as (process, terminal):
        shown = read_until(terminal, None)
        os.close(terminal)
        out = process.stdout.read()

    assert shown == b""
    assert out.startswith(b'{"status":"done"')
