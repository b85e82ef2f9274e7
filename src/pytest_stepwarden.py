"""The pytest plugin of stepwarden: fixtures, and a budget for a test.

It lies beside the package, since pytest imports it when it starts, whatever is tested: nothing of stepwarden is loaded
before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stepwarden.core._run import Run
    from stepwarden.testing import ScriptedModel

_MARK = "stepwarden_budget"
_RUN = pytest.StashKey["Run"]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known, also where only known ones are allowed."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}(max_tokens, max_input_tokens, max_output_tokens, max_calls, max_tool_calls, max_usd, max_seconds): "
        "run the test inside a stepwarden.Run with this budget, and fail it if a limit is passed.",
    )


@pytest.fixture
def stepwarden_run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Give the `Run` that the test runs inside, with the budget of its `stepwarden_budget` mark."""
    from stepwarden.testing._test_run import open_run

    with open_run(request.node, _MARK) as run:
        request.node.stash[_RUN] = run
        yield run


@pytest.fixture(autouse=True)
def _stepwarden_budget(request: pytest.FixtureRequest) -> None:
    """Open the run of a test that has a budget, before what its other fixtures do."""
    if request.node.get_closest_marker(_MARK) is not None:
        request.getfixturevalue("stepwarden_run")


@pytest.fixture
def scripted_model() -> Iterator[ScriptedModel]:
    """Give a model server on loopback that says what the test tells it to."""
    from stepwarden.testing import ScriptedModel

    with ScriptedModel() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run a test inside its run, and fail it if that has passed its budget."""
    run = item.stash.get(_RUN, None)
    if run is None:
        return (yield)
    from stepwarden.testing._test_run import attached, check

    with attached(item, run):
        result = yield
    check(run)
    return result
