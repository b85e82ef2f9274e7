"""The page on the command line shows what its commands print."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
PROGRAM = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```console\n\$ stepwarden ([^\n]*)\n```\n\n```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give the reader's folder, with the page's program in a file: later commands look at what earlier ones did."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "agent.py").write_text("\n".join(PROGRAM), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_command_prints_what_is_shown(command, shown, folder):
    """Each command prints what stands below it, but for times and ids."""
    words = [sys.executable, "-m", "stepwarden", *shlex.split(command)]
    environment = {name: value for name, value in os.environ.items() if name != "STEPWARDEN_LEDGER"}
    wide = environment | {"COLUMNS": "120"}
    run = subprocess.run(words, cwd=folder, env=wide, capture_output=True, text=True, check=False)

    # What else is shown live depends on the moment: the page begins with dots.
    printed = f"live\n{run.stderr}{run.stdout}"
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(shown, printed, options), printed
    assert run.returncode == (3 if "budget exceeded" in shown else 0)


def test_commands_are_found():
    """The page has commands with their output."""
    assert len(COMMANDS) == 11
