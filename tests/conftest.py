"""What every test gets: no scope left open behind it, and one way to say what it needs."""

import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from hypothesis import settings

# The same examples on every run there, so that a red build can be repeated; new ones on every run here.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=timedelta(seconds=2))
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_finish() -> None:
    """Keep what pytest has collected out of every later collection of garbage, of which tests force thousands."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_scope_leaks() -> Iterator[None]:
    """Fail a test that leaves a scope open in the context of the test runner.

    It looks at the package only where the test has imported it: what never was imported has not leaked.
    """
    yield
    stepwarden = sys.modules.get("stepwarden")
    if stepwarden is not None:
        assert stepwarden.current_run() is None, "the test has left a run open"
        assert stepwarden.current_persona() is None, "the test has left a persona open"
        assert stepwarden.current_step() is None, "the test has left a step open"
        assert sys.modules["stepwarden.core._leaf"].get_leaf() is None, "the test has left a closed scope in force"


@pytest.fixture(scope="session")
def require_service() -> Callable[..., None]:
    """Give the test a function that skips it where something that it needs is missing.

    `require_service("PostgreSQL", program="postgres")` looks for a program,
    `require_service("the OpenAI SDK", module="openai")` for a module. Where `STEPWARDEN_REQUIRE_SERVICES=1` is
    set, a missing service fails the test instead: a continuous build must not pass by skipping.
    """

    def require(name: str, *, program: str | None = None, module: str | None = None) -> None:
        if program is not None and shutil.which(program) is None:
            reason = f"needs {name}: no program `{program}` on PATH"
        elif module is not None and importlib.util.find_spec(module) is None:
            reason = f"needs {name}: no module `{module}`"
        else:
            return
        if os.environ.get("STEPWARDEN_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    return require
