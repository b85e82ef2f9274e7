"""Each file in examples/ runs from beginning to end as a user would run it, on a scripted model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepwarden.testing import ScriptedModel
from tests.examples.obliging import oblige

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_runs(example, tmp_path):
    """An example ends well, warns of nothing, and shows the receipts of what it did."""
    with ScriptedModel(default=oblige) as server:
        # SDKs look for these themselves, so an example needs nothing of its own to be run here.
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": "none",
            "ANTHROPIC_BASE_URL": server.base_url.removesuffix("/v1"),
            "ANTHROPIC_API_KEY": "none",
        }
        ran = subprocess.run(
            [sys.executable, str(example)],
            check=False, timeout=100, env=environment, cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert "completed" in ran.stdout
