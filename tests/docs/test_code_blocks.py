"""What README and docs show is real: Python blocks run, commands exist, links lead somewhere.

The ```python blocks of one page run in order and share their names. A ```text block right below one is what it
prints, where `...` stands for anything. Setup that a reader need not see stands in
`<!-- invisible-code-block: python ... -->`. A block that cannot run here is preceded by
`<!-- skip: next "the reason" -->`; without a reason it fails. `OpenAI()` in an example talks to a scripted model.
"""

import contextlib
import doctest
import gc
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest import SkipTest

import pytest
from sybil import Example, Sybil
from sybil.evaluators.skip import Skipper
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from stepwarden.testing import ScriptedModel

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
OUR_PROGRAM = "stepwarden"


def check_commands(example: Example) -> str | None:
    """Say which command of a ```console block does not exist, if any; the lines without `$` are output."""
    for line in example.parsed.splitlines():
        if line.startswith("$ "):
            for command in line[2:].split("&&"):
                if problem := command_problem(command):
                    return problem
    return None


def command_problem(command: str) -> str | None:
    """Say what is wrong with *command*, one simple shell command: no such program, or no such subcommand of ours."""
    words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if not words:
        return None
    if OUR_PROGRAM in words and words[0] in {OUR_PROGRAM, "uv"}:
        words = words[words.index(OUR_PROGRAM) :]
        subcommand = [word for word in words[1:2] if not word.startswith("-")]
        help_run = subprocess.run(
            [sys.executable, "-m", OUR_PROGRAM, *subcommand, "--help"], capture_output=True, check=False
        )
        return f"`{' '.join([OUR_PROGRAM, *subcommand])}` is no command of ours" if help_run.returncode else None
    return None if shutil.which(words[0]) else f"there is no program `{words[0]}`"


RIGHT_BELOW_PYTHON = re.compile(r"^```python\n(?:(?!^```).*\n)*```\s*\Z", re.MULTILINE)
PRINTED = "what the last block has printed"


def check_output(example: Example) -> str | None:
    """Say how what a ```text block shows differs from what the ```python block right above it has printed, if it does."""
    if not RIGHT_BELOW_PYTHON.search(example.document.text[: example.region.start]):
        return None
    shown, printed = example.parsed, example.namespace.get(PRINTED, "")
    if doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS):
        return None
    return f"the page shows:\n{shown}\nbut the block above it prints:\n{printed}"


SYBIL = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("console", check_commands),
        CodeBlockParser("text", check_output),
        SkipParser(),
    ],
    path=str(ROOT),
)


def page_id(page: Path) -> str:
    """Name *page* as a reader would."""
    return str(page.relative_to(ROOT))


@pytest.fixture
def _model_on_loopback(monkeypatch):
    """Let `OpenAI()` in an example reach a scripted model: the SDK looks for both settings in the environment."""
    with ScriptedModel() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield


@pytest.mark.usefixtures("_model_on_loopback")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # an example need not show how a client is closed
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_code_blocks_run(page, monkeypatch, tmp_path):
    """Every Python block runs after those above it, and every command that a page shows exists."""
    monkeypatch.chdir(tmp_path)  # what an example writes does not land in the checkout
    # A page is a module, as the reader's file would be: dataclasses and type hints look for theirs.
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    document = SYBIL.parse(page)
    document.namespace = module.__dict__
    for example in document.examples():
        if isinstance(example.region.evaluator, Skipper):
            action, reason = example.parsed
            if action != "end" and not reason:
                pytest.fail(f"{page_id(page)}:{example.line}: a skip needs its reason")
        try:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                example.evaluate()
        except SkipTest:
            continue
        if document.text.startswith("```python", example.region.start):
            document.namespace[PRINTED] = printed.getvalue()
    module.__dict__.clear()
    gc.collect()  # what the page left open goes here, not in the middle of another test


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_block_evades_the_check(page):
    """Code stands in ```python blocks and commands in ```console blocks, the kinds that are checked."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^\s*`{3,}\s*(py|python3|pycon|sh|bash|shell|zsh)\b", text, re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    """Every relative link names a file of the project, and every `#anchor` a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page_id(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page_id(page)} links to {target}"


def anchors(file: Path) -> set[str]:
    """List the anchors that the headings of *file* make: lower case, no punctuation, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "command",
    [
        "pip install uv && uv run --extra demo stepwarden demo",
        "pip install uv && uv run --all-extras pytest",
    ],
    ids=["demo", "tests"],
)
def test_readme_names_the_two_commands(command):
    """A newcomer needs two commands, each a line of its own to be copied word for word."""
    lines = [line.strip().removeprefix("$ ") for line in README.read_text(encoding="utf-8").splitlines()]
    assert command in lines
