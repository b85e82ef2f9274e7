"""Test the integrations at the oldest versions that the extras allow, and see that the other tests had the newest.

The oldest are put into an environment of their own, together with what the tests need, by `uv`.
"""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

EXTRAS = {
    "openai": "openai", "anthropic": "anthropic", "pydantic-ai": "pydantic-ai-slim", "llm": "pydantic-ai-slim",
    "langchain": "langchain", "openai-agents": "openai-agents", "mcp": "mcp",
}  # fmt: skip
"""The extras, and the package whose range each of them has."""
BESIDE = {"langgraph": "langchain"}
"""Packages that have a range of their own in the extra of another one."""
TOOLS = ("hypothesis", "langchain-anthropic", "langchain-openai", "pytest", "pytest-timeout")
"""What the tests need beside them, with the ranges of the group `dev`."""
# Each in a process of its own, at the same time.
SUITES = (
    ("tests/integrations/contract",),
    (
        "tests/integrations/test_anthropic_reach.py",
        "tests/integrations/test_anthropic_wire.py",
        "tests/integrations/test_estimates.py",
        "tests/integrations/test_langchain.py",
        "tests/integrations/test_langgraph_nodes.py",
        "tests/integrations/test_mcp.py",
        "tests/integrations/test_openai_agents.py",
        "tests/integrations/test_openai_failures.py",
        "tests/integrations/test_openai_reach.py",
        "tests/integrations/test_openai_streams.py",
        "tests/integrations/test_pydantic_ai.py",
        "tests/integrations/test_stacked_agents.py",
    ),
)
# What needs more of the machine than of the SDK is shown by the tests at the other end.
LEFT_OUT = ("parallel", "local_model")


def main() -> int:
    """Run both checks.

    Returns:
        The exit status: 0 if both ends hold, 1 if one does not.
    """
    ranges = _ranges()
    return 1 if any([_is_behind(ranges), _fails_at_the_oldest(ranges)]) else 0


def _project() -> dict[str, Any]:
    return tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))


def _ranges() -> dict[str, str]:
    extras = _project()["project"]["optional-dependencies"]
    asked = [*EXTRAS.items(), *((extra, package) for package, extra in BESIDE.items())]
    return {package: package + _range(extras[extra], package) for extra, package in asked}


def _range(requirements: list[str], package: str) -> str:
    requirement = next(one for one in requirements if re.match(rf"{package}(?![-\w])", one))
    return re.sub(r"^[^<>=~!]*", "", requirement)


def _is_behind(ranges: dict[str, str]) -> bool:
    """Tell whether this environment, in which all tests run, has something older than the newest."""
    is_behind = False
    for package, requirement in ranges.items():
        command = ["uv", "pip", "compile", "--quiet", "--no-deps", "--no-header", "--no-annotate", "-"]
        found = subprocess.run(command, input=requirement, capture_output=True, text=True, check=True)
        newest = found.stdout.strip().partition("==")[2]
        here = importlib.metadata.version(package)
        print(f"{requirement}: the newest is {newest}, the tests ran with {here}")
        is_behind |= here != newest
    if is_behind:
        print("the newest was not tested: `uv lock --upgrade` and run the tests again")
    return is_behind


def _fails_at_the_oldest(ranges: dict[str, str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder, "bin", "python"))
        developed = _project()["dependency-groups"]["dev"]
        tools = [tool + _range(developed, tool) for tool in TOOLS]
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct", "--editable",
             f".[{','.join(EXTRAS)}]", *tools],
            check=True,
        )  # fmt: skip
        tell = "import importlib.metadata, sys; [print(one, importlib.metadata.version(one)) for one in sys.argv[1:]]"
        subprocess.run([python, "-c", tell, *ranges], check=True)
        chosen = " and ".join(f"not {word}" for word in LEFT_OUT)
        tests = [python, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-k", chosen]
        runs = [subprocess.Popen([*tests, *suite], stdout=subprocess.PIPE, text=True) for suite in SUITES]
        said = [run.communicate()[0] for run in runs]
        print(*said, sep="\n")
        return any(run.returncode for run in runs)


if __name__ == "__main__":
    sys.exit(main())
