"""The pytest plugin, as a user's test suite meets it: each test here runs one in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
HEAD = """
import asyncio, contextvars
import pytest
import stepwarden as sw
from stepwarden.testing import assert_receipts, receipt_of
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Give a function that runs a suite with the strictest settings and returns what became of it.

    Of all plugins that are installed here only ours is loaded, and those that are asked for: it is quicker so.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_suite(suite, *options):
        pytester.makepyprojecttoml("[tool.pytest]\nstrict = true\nfilterwarnings = ['error']")
        pytester.makepyfile(test_suite=HEAD + suite)
        return pytester.runpytest_subprocess("-p", "pytest_stepwarden", *options, timeout=100)

    return run_suite


def test_what_pytest_loads_is_small():
    """Neither pytest's start nor a test that asks for nothing of ours loads the package."""
    script = "import sys, pytest, pytest_stepwarden; print([name for name in sys.modules if 'stepwarden.' in name])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_who_installs_the_package_has_the_plugin(pytester):
    """It needs no `-p`; a test that asks for nothing of it runs as it did, and the package is not even loaded."""
    pytester.makepyfile("import sys\n\ndef test_alone():\n    assert 'stepwarden' not in sys.modules")
    result = pytester.runpytest_subprocess("--fixtures", "--markers", timeout=100)
    result.stdout.fnmatch_lines(["@pytest.mark.stepwarden_budget(max_tokens, *"])
    pytester.runpytest_subprocess(timeout=100).assert_outcomes(passed=1)


def test_a_test_runs_inside_its_run(run):
    """A test that asks for a run is inside it: sync, in fixtures that come after it, and as a coroutine on any loop."""
    result = run(
        """
@pytest.fixture
def spent(stepwarden_run):
    sw.record_usage(input_tokens=3)

def test_sync(stepwarden_run, spent):
    assert sw.current_run() is stepwarden_run
    with sw.step("plan"):
        sw.record_usage(input_tokens=4)
    assert receipt_of(stepwarden_run, "plan").own.input_tokens == 4
    assert stepwarden_run.total.input_tokens == 7
    assert stepwarden_run.budget == sw.Budget()
    assert stepwarden_run.name == "test_sync"

@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="module")
async def loop_of_the_module(anyio_backend):
    yield  # keeps one loop, made in the context of whoever came first, for all tests of the module

@pytest.mark.anyio
@pytest.mark.parametrize("number", [1, 2])
async def test_coroutine(loop_of_the_module, stepwarden_run, number):
    assert sw.current_run() is stepwarden_run
    async with sw.step("plan"):
        await asyncio.sleep(0)
    assert_receipts(stepwarden_run, ("plan", "completed"))

@pytest.mark.anyio
@pytest.mark.stepwarden_budget(max_calls=0)
async def test_coroutine_under_budget(loop_of_the_module):
    with pytest.raises(sw.BudgetExceededError):
        await sw.reserve()

def test_afterwards():
    assert sw.current_run() is None
""",
        "-p",
        "anyio.pytest_plugin",
    )
    result.assert_outcomes(passed=5)


def test_a_budget_holds_in_a_marked_test(run):
    """A mark puts the test under its budget; the nearest one applies, and so it does to fixtures of the test."""
    result = run("""
pytestmark = pytest.mark.stepwarden_budget(max_tokens=1_000)

def test_of_the_module():
    assert sw.current_run().budget == sw.Budget(max_tokens=1_000)
    with pytest.raises(sw.BudgetExceededError, match="run `test_of_the_module` has no room in max_tokens"):
        sw.reserve(input_tokens=1_001).acquire()

@pytest.mark.stepwarden_budget(max_usd="0.50", max_seconds=60)
class TestClass:
    def test_of_the_class(self, stepwarden_run):
        assert stepwarden_run.budget == sw.Budget(max_usd="0.50", max_seconds=60)

    @pytest.mark.stepwarden_budget(max_calls=3)
    def test_of_its_own(self, stepwarden_run):
        assert stepwarden_run.budget == sw.Budget(max_calls=3)

@pytest.fixture
def answer():
    sw.record_usage(input_tokens=600)

def test_fixture_counts(answer):
    assert sw.current_run().total.input_tokens == 600

def test_run_inside_counts():
    with sw.Run(budget=sw.Budget(max_tokens=5_000)), pytest.raises(sw.BudgetExceededError, match="test_run_inside"):
        sw.reserve(input_tokens=1_001).acquire()
""")
    result.assert_outcomes(passed=5)


def test_a_test_that_passes_its_budget_fails(run):
    """A limit that is passed fails the test, raised or caught or told of by nobody, and says who spent it."""
    result = run("""
@pytest.mark.stepwarden_budget(max_tokens=100)
def test_raised():
    sw.record_usage(input_tokens=101)

@pytest.mark.stepwarden_budget(max_tokens=100)
def test_caught():
    with sw.step("plan"), pytest.raises(sw.BudgetExceededError):
        sw.record_usage(input_tokens=130, cost_usd="0.05")

@pytest.mark.stepwarden_budget(max_seconds=0)
def test_took_too_long():
    pass

@pytest.mark.stepwarden_budget(max_tokens=100)
def test_failed_first():
    with pytest.raises(sw.BudgetExceededError):
        sw.record_usage(input_tokens=101)
    assert 1 == 2

@pytest.mark.stepwarden_budget(max_tokens=100)
def test_within():
    sw.record_usage(input_tokens=100)
""")
    result.assert_outcomes(failed=4, passed=1)
    result.stdout.fnmatch_lines([
        "*stepwarden.core.errors.BudgetExceededError: run `test_raised` exceeded max_tokens budget (101 > 100)",
        "*_ test_caught _*",
        "run `test_caught` exceeded max_tokens budget (130 > 100)",
        "  step plan (completed): 1 calls, 0 tool calls, 130 tokens in, 0 out, $0.05",
        "run `test_took_too_long` exceeded max_seconds budget (*s > 0s)",
        "*assert 1 == 2*",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("During handling of the above exception*")


def test_a_wrong_mark_is_an_error_that_says_what_is_right(run):
    """A mark that cannot be right stops its test before it begins, with the field, the value and what would be right."""
    marks = ["(max_token=100)", "(max_usd=-1)", "(100)", ""]
    result = run(
        "".join(f"@pytest.mark.stepwarden_budget{mark}\ndef test_{at}(): pass\n" for at, mark in enumerate(marks))
    )
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([
        "@pytest.mark.stepwarden_budget: budget has no field 'max_token'; did you mean 'max_tokens'? Known: *",
        "@pytest.mark.stepwarden_budget: budget.max_usd must be a finite amount *, not -1",
        "stepwarden_budget takes its limits by name, as @pytest.mark.stepwarden_budget(max_tokens=1_000), and not 100",
        "stepwarden_budget limits nothing; give it a limit, as @pytest.mark.stepwarden_budget(max_tokens=1_000)",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("During handling of the above exception*")


def test_what_fixtures_give_ends_with_the_test(run):
    """Each test has a model server of its own, which is closed; and a step that a test left open is an error."""
    result = run("""
import openai
from stepwarden.testing import Reply

@pytest.mark.stepwarden_budget(max_output_tokens=50)
@pytest.mark.parametrize("number", [1, 2])
def test_agent(scripted_model, stepwarden_run, number):
    scripted_model.enqueue(Reply("bug", input_tokens=10, output_tokens=1))
    with openai.OpenAI(base_url=scripted_model.base_url, api_key="none") as client:
        sw.guard(client).chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])
    assert scripted_model.count == 1
    assert scripted_model.requests[0].body["max_completion_tokens"] == 50
    assert stepwarden_run.total.total_tokens == 11

def test_leaves(stepwarden_run):
    sw.step("plan").__enter__()
""")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        ["*ScopeOrderError: run `test_leaves` was left while step `plan` inside it was still open"]
    )


def test_the_page_on_testing_is_a_suite_that_passes(run):
    """The blocks of the page, one after the other, are a test suite, and each of its tests passes."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    result = run("".join(blocks))
    result.assert_outcomes(passed="".join(blocks).count("\ndef test_"))
