"""Measure the peers beside stepwarden and print Markdown: `python -m benchmarks.peers`.

Each is installed into an environment of its own, outside the repository, which is kept for the next time.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks._measure import markdown_table
from benchmarks.parallel import CALLERS, CALLS_EACH, CAP, COST, RIGHT
from benchmarks.peers import _budgets, _steps

ROOT = Path(__file__).parents[2]
WITHOUT_BUDGET = ("langgraph", "apache-burr")
SHARED = ("openai>=3.54,<4", str(ROOT))
"""What each environment has besides: the SDK that some of them guard, and the floor that they are compared with."""


def main() -> int:
    """Install, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    default = Path(tempfile.gettempdir()) / "stepwarden-peers"
    parser.add_argument("--environments", type=Path, default=default, help="where they are installed")
    options = parser.parse_args()
    packages = {one.package for one in (*_budgets.ALL, *_steps.ALL)}
    pythons = {package: _install(options.environments / package, package) for package in sorted(packages)}
    parallel = [_inside(pythons[one.package], one, "parallel", at) for at, one in enumerate(_budgets.ALL)]
    steps = [_inside(pythons[one.package], one, "steps", at) for at, one in enumerate(_steps.ALL)]

    today = f"{datetime.now(UTC):%Y-%m-%d}"
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, {today}.\n")
    print(
        f"{CALLERS} parallel callers, each making up to {CALLS_EACH} calls of ${COST} under a cap of ${CAP}: "
        f"{RIGHT} calls is right.\n"
    )
    headings = ("library", "version", "threads", "asyncio", "what it documents")
    rows = [
        (one["name"], one["version"], _calls(one["threads"]), _calls(one["tasks"]), one["documents"])
        for one in parallel
    ]
    rows += [(one["name"], one["version"], "", "", "no budget") for one in steps if one["name"] in WITHOUT_BUDGET]
    print(markdown_table(headings, rows), end="\n\n")
    print("One step under a budget, with one call's cost recorded in it, around a body that does nothing.\n")
    headings = ("library", "version", "measured (µs)", "ratio to the floor", "what is done")
    print(markdown_table(headings, [(one["name"], one["version"], *_cost(one), one["what"]) for one in steps]))
    return 0


def _install(environment: Path, package: str) -> Path | None:
    """Install one library; None where that fails."""
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", str(environment)], check=True)
    wanted = SHARED if package == "stepwarden" else (package, *SHARED)
    command = ["uv", "pip", "install", "--quiet", "--python", str(python), "--reinstall-package", "stepwarden"]
    return python if subprocess.run([*command, *wanted], check=False).returncode == 0 else None


def _inside(python: Path | None, line: _budgets.Budgeted | _steps.Step, *arguments: object) -> dict[str, Any]:
    if python is None:
        failed = {"failed": "not installed"}
        texts = {"documents": "", "what": ""}
        return {"name": line.name, "version": "", "threads": failed, "tasks": failed, "measured": failed, **texts}
    # A process for each: what one library imports or patches is not measured with another.
    done = subprocess.run(
        [str(python), "-m", "benchmarks.peers._inside", *map(str, arguments)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _calls(measured: dict[str, Any]) -> str:
    if "failed" in measured:
        return str(measured["failed"])
    return f"{measured['calls']}, ${measured['calls'] * COST:.2f}"


def _cost(line: dict[str, Any]) -> tuple[str, str]:
    measured = line["measured"]
    if "failed" in measured:
        return measured["failed"], ""
    return f"{measured['microseconds']:,.1f}", f"{measured['ratio']:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
