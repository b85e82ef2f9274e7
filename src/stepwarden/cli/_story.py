"""What the demo says before and after: what to look for, and how it showed."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwarden import Receipt
from stepwarden.demo import MODEL, DemoOutcome

from ._problem import one_line
from ._screen import show
from ._style import STATUS_STYLES

_OPENING = (
    ("skipped", "find_title may make one call and needs two; its fallback takes the answer's place"),
    ("escalated", "review could cost more than it may: nothing is sent, and its caller decides"),
    ("denied", "use_tool may only read, so it cannot write a file; publish waits for a person"),
    ("shared", "two opinions at the same time, out of one budget; neither call can pass it"),
)
_STYLES = {str(status): style for status, style in STATUS_STYLES.items()}
_STYLES |= {"shared": "cyan", "answer": "bold", "adds up": "bold green", "differs": "bold red"}


def show_opening(console: Console, path: str | None) -> None:
    """Say what the reader is going to see.

    Args:
        console: Where.
        path: The file that was named, or None.
    """
    source = "this project's README" if path is None else one_line(Path(path).name)
    text = Text.assemble(
        *("An agent reads ", (source, "bold"), ", and each of its steps runs inside a contract of its own. "),
        *("Its model, ", (MODEL, "bold"), ", runs in this process: no key, no network. "),
        "The price is made up, so that there are dollars to count. Look for:",
    )
    show(console, text)
    show(console, "")
    _show(console, _OPENING)
    show(console, "")


def show_ending(console: Console, demo: DemoOutcome) -> None:
    """Say how what was promised has shown, out of the receipts.

    Args:
        console: Where.
        demo: What the demo has left.
    """
    receipts = demo.run.receipts
    show(console, "")
    _show(
        console,
        [
            *_refusals(receipts),
            *_shared(receipts),
            ("answer", f"{demo.triage.kind}: {demo.triage.summary}"),
            _count(demo),
        ],
    )


def _show(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    last = ""
    for word, text in lines:
        # The model's own words are scenery: one line of them is enough.
        said = Text(one_line(text), no_wrap=word == "answer", overflow="ellipsis" if word == "answer" else "fold")
        table.add_row(Text("" if word == last else word, _STYLES[word]), said)
        last = word
    show(console, table)


def _refusals(receipts: Sequence[Receipt]) -> Iterator[tuple[str, str]]:
    for receipt in receipts:
        if receipt.error is not None:
            yield str(receipt.status), receipt.error.message
        for tool in receipt.tools:
            if tool.outcome == "denied":
                yield "denied", f"step `{receipt.name}`: {tool.reason}"


def _shared(receipts: Sequence[Receipt]) -> Iterator[tuple[str, str]]:
    for around in receipts:
        limit = around.budget.max_output_tokens
        inside = [receipt for receipt in receipts if receipt.parent_id == around.step_id]
        if limit is not None and inside:
            parts = " + ".join(f"{receipt.total.output_tokens:,}" for receipt in inside)
            text = f"step `{around.name}` spent {parts} of its {limit:,} output tokens"
            clamped = sum(receipt.clamped_calls for receipt in inside)
            yield "shared", f"{text}; {clamped} of its calls got less than asked" if clamped else text


def _count(demo: DemoOutcome) -> tuple[str, str]:
    own = [receipt.own for receipt in demo.run.receipts]
    noted = sum(usage.input_tokens for usage in own), sum(usage.output_tokens for usage in own)
    counted = demo.counted.input_tokens, demo.counted.output_tokens
    word = "adds up" if noted == counted else "differs"
    return word, (
        f"receipts: {noted[0]:,} tokens in, {noted[1]:,} out; "
        f"the model server's own count: {counted[0]:,} in, {counted[1]:,} out"
    )
