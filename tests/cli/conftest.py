"""What the tests of the command line share: a folder with an agent in it, and ways to call the program."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

COLOURING = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""What makes rich take a file for a terminal."""

AGENT = '''
"""An agent for the tests of the command line: it calls no model, and records what a call would have used."""

import asyncio

import stepwarden as sw


@sw.step(model="toy", budget=sw.Budget(max_tokens=100))
def count(tokens: int) -> int:
    sw.record_usage("toy", input_tokens=tokens, output_tokens=1, cost_usd="0.0012")
    return tokens


@sw.persona
def captain(text: str, depth: int = 1) -> dict:
    return {"text": text, "counted": [count(10 * (turn + 1)) for turn in range(depth)]}


@sw.persona
async def coroutine(text: str = "quiet"):
    await asyncio.sleep(0)
    return text


@sw.persona
def generator(fail=False):
    yield "one"
    yield {"two": 2}
    if fail:
        raise ValueError("no three")


@sw.persona
async def async_generator():
    yield "one"
    yield {"two": 2}


@sw.persona
def talks():
    print("thinking aloud")
    return "said"


@sw.persona
def given(**arguments):
    return arguments


@sw.persona
def positional(text, /):
    return text


@sw.persona
def silent():
    return None


@sw.persona
def odd(knot=False):
    odd_one = [range(2), {(1, 2): "a key"}]
    if knot:
        odd_one.append(odd_one)
    return odd_one


@sw.persona
def broken():
    raise KeyError("first line\\nsecond line \\x1b[31m")


@sw.persona
def leaves():
    raise SystemExit(0)


@sw.persona
def interrupted():
    count(10)
    raise KeyboardInterrupt


@sw.persona
def loses_ledger():
    raise sw.LedgerError("the disk is full")


@sw.step(budget=sw.Budget(max_tokens=5), error_boundary="escalate")
def escalates():
    sw.record_usage("toy", input_tokens=10, cost_usd=0)


@sw.persona
async def in_parallel():
    async def one():
        count(100)

    async with asyncio.TaskGroup() as group:
        group.create_task(one())
        group.create_task(one())


@sw.persona
def mixed():
    try:
        count(100)
    except sw.BudgetExceededError as error:
        raise ExceptionGroup("both", [error, ValueError("other")])


@sw.persona
def waits():
    """Hold a reservation until somebody writes a line on stdin."""
    with sw.step("nap", budget=sw.Budget(max_tokens=1_000, max_usd=1)):
        sw.record_usage("toy", input_tokens=100, output_tokens=20, cost_usd="0.25")
        with sw.reserve(input_tokens=30, output_tokens=34, cost_usd="0.5") as hold:
            input()
            hold.settle(input_tokens=30, output_tokens=4, cost_usd="0.5")
    return "awake"


class Ship:
    @sw.persona
    def sail(self, to):
        return to


ship = Ship()


def undecorated():
    raise AssertionError("it must not be called")
'''


@dataclass(frozen=True)
class Result:
    """What a command has left: its exit status and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Go to a folder with the agent in it, as a user would; what it imports is forgotten afterwards."""
    (tmp_path / "agent_under_test.py").write_text(AGENT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    # Wide enough for every column, and no terminal, whatever runs the tests.
    monkeypatch.setenv("COLUMNS", "100")
    for name in (*COLOURING, "STEPWARDEN_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.endswith("_under_test"):
            del sys.modules[name]


@pytest.fixture
def stepwarden(folder, capsys):
    """Give the test the command, in this process."""
    from stepwarden.cli import main

    def run(*argv):
        status = main(argv)
        written = capsys.readouterr()
        return Result(status, written.out, written.err)

    return run


@pytest.fixture
def spawn():
    """Give the test an interpreter of its own: `spawn("-m", "stepwarden", ...)`."""

    def run(*argv, **options):
        environment = {name: value for name, value in os.environ.items() if name not in COLOURING}
        environment["COLUMNS"] = "100"
        done = subprocess.run(
            [sys.executable, *argv], capture_output=True, text=True, env=environment, check=False, **options
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run
