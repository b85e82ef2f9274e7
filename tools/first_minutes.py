"""What a newcomer's first mistakes are answered with: run each one for real, and show the messages as a table.

The page `docs/first-five-minutes.md` has the table; ``python -m tools.first_minutes PYTHON`` writes it anew, where
PYTHON is the interpreter of an environment that has only the base install.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "first-five-minutes.md"
BEGIN, END = "<!-- the table: written by tools/first_minutes.py -->\n", "<!-- the end of the table -->\n"
PROGRAM = "agent.py"
COMMAND = "stepwarden"


@dataclass(frozen=True, slots=True)
class Mistake:
    """Be one thing that newcomers do.

    Args:
        what: What is wrong, in a few words.
        shown: The line that does it, for the table.
        program: The lines of the program, below its import of stepwarden; or the words of a command.
    """

    what: str
    shown: str
    program: Sequence[str]


def _at_once(what: str, line: str) -> Mistake:
    return Mistake(what, line, [line])


def _command(what: str, *words: str) -> Mistake:
    return Mistake(what, f"$ {' '.join(words)}", words)


MISTAKES = (
    Mistake(
        "a boundary that does not exist",
        '@sw.step(error_boundary="retry")',
        ['@sw.step(error_boundary="retry")', "def classify(): ..."],
    ),
    _at_once("a misspelt budget field", "sw.Budget(max_token=500)"),
    _at_once("a misspelt field in settings", 'sw.Budget.from_dict({"max_dollars": 1})'),
    _at_once("an amount that is not one", 'sw.Budget(max_usd="5$")'),
    Mistake(
        "a decorator on the wrong side",
        "@sw.step above @classmethod",
        ["class Agent:", "    @sw.step", "    @classmethod", "    def plan(cls): ..."],
    ),
    Mistake(
        "an event that does not exist",
        '@sw.hooks.on("BeforeStep")',
        ['@sw.hooks.on("BeforeStep")', "def gate(event): ..."],
    ),
    _command("the command line without its extra", COMMAND, "run", "agent:support"),
    _command("the demo without its extra", COMMAND, "demo"),
    _at_once("an SDK that is not installed", 'sw.install("openai")'),
    _at_once("a client that is not one", 'sw.guard("my client")'),
    Mistake(
        "the local model without its extra",
        "LocalModel()",
        ["from stepwarden.testing import LocalModel", "with LocalModel() as model: ..."],
    ),
    Mistake(
        "a step in a bare thread",
        "threading.Thread(target=work).start()",
        [
            "import threading",
            "@sw.step",
            "def classify(): ...",
            "def work():",
            "    classify()",
            'with sw.Run(name="support"):',
            "    threading.Thread(target=work).start()",
        ],
    ),
    Mistake(
        "an exhausted budget",
        "sw.reserve(input_tokens=400)",
        [
            "@sw.step(budget=sw.Budget(max_tokens=500))",
            "def classify():",
            "    sw.record_usage(input_tokens=300)",
            "    with sw.reserve(input_tokens=400): ...",
            "classify()",
        ],
    ),
    Mistake(
        "a denied tool",
        "write_file()",
        [
            '@sw.tool(side_effect="workspace_write")',
            "def write_file(): ...",
            "@sw.step",
            "def draft():",
            "    write_file()",
            '@sw.persona(side_effect_level="read_only")',
            "def support():",
            "    draft()",
            "support()",
        ],
    ),
    Mistake(
        "a model without a price",
        'sw.reserve(model="our-7b", ...)',
        [
            "with sw.Run(budget=sw.Budget(max_usd=1)):",
            '    with sw.reserve(model="our-7b", input_tokens=400): ...',
        ],
    ),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell what a mistake was answered with.

    Args:
        message: The message as it was printed, without the path of its class.
        place: The line of the program that it points at, or None.
    """

    message: str
    place: str | None


def run(mistake: Mistake, python: Path) -> Answer:
    """Make one mistake with the interpreter *python*, and return the answer."""
    with tempfile.TemporaryDirectory() as folder:
        if mistake.program[0] == COMMAND:
            words = [str(python), "-m", COMMAND, *mistake.program[1:]]
        else:
            lines = ["import stepwarden as sw", *mistake.program]
            Path(folder, PROGRAM).write_text("\n".join(lines) + "\n", encoding="utf-8")
            words = [str(python), PROGRAM]
        # Nothing of the caller's own environment, in which the extras may lie about.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        finished = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return _read(finished.stderr)


def _read(printed: str) -> Answer:
    """Find the message and the place in what Python, or our command line, has printed."""
    _, traceback, last = printed.rpartition("Traceback (most recent call last):\n")
    lines = last.strip("\n").splitlines()
    if traceback:
        message = [line for line in lines if not line.startswith(" ")]
        places = re.findall(rf'File ".*{PROGRAM}", line (\d+)', printed)
    else:
        warned = re.match(rf".*{PROGRAM}:(\d+): (.*)", lines[0])
        places = [] if warned is None else [warned[1]]
        message = [line for line in lines if not line.startswith(" ")] if warned is None else [warned[2]]
    text = "; ".join(message)
    return Answer(re.sub(r"^[a-z_.]+\.([A-Z])", r"\1", text), f"{PROGRAM}:{places[-1]}" if places else None)


def row(mistake: Mistake, answer: Answer) -> str:
    """Return the table's row for a mistake in Markdown."""
    where = "" if answer.place is None else f"<br>(points at `{answer.place}`)"
    return f"| {mistake.what} | {_code(mistake.shown)} | {_code(answer.message)}{where} |"


def _code(text: str) -> str:
    text = text.replace("|", r"\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def main(python: str) -> None:
    """Write the page with what is answered now."""
    rows = [
        "| what is wrong | you write | it says |",
        "|---|---|---|",
        *(row(mistake, run(mistake, Path(python))) for mistake in MISTAKES),
    ]
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text("\n".join([head + BEGIN, *rows, "", END + tail]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
