"""What the numbers of a table do not say: errors, refused tools, and whatever should have been zero."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from stepwarden import Receipt, Run, Usage

from ._format import amount, plural
from ._problem import one_line, tell
from ._style import STATUS_STYLES


class Note(NamedTuple):
    """Tell one thing about one scope.

    Args:
        name: The scope's name.
        text: What there is to say.
        style: The colour of the name.
    """

    name: str
    text: str
    style: str


_MAX_NOTES = 40


def notes_table(run: Run) -> Table | None:
    """Make a table of the notes, or None where there are none.

    Args:
        run: The run, which has ended.
    """
    notes = [*notes_of(run.receipts)]
    notes += [Note(run.name, text, "bold") for text in amounts_apart(run.overshoot, run.uncertain)]
    unpriced = run.total.unpriced_calls
    if unpriced:
        notes.append(Note(run.name, f"{plural(unpriced, 'call')} without a price, counted as $0", "bold"))
    return lay_out_notes(notes) if notes else None


def lay_out_notes(notes: Sequence[Note]) -> Table:
    """Make a table of notes."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column(overflow="fold")
    for note in notes[:_MAX_NOTES]:
        table.add_row(Text(one_line(note.name), note.style), Text(one_line(note.text)))
    if len(notes) > _MAX_NOTES:
        table.add_row("", Text(f"and {plural(len(notes) - _MAX_NOTES, 'note')} more; --json has them all", "dim"))
    return table


def notes_of(receipts: Sequence[Receipt]) -> Iterator[Note]:
    """Give what the numbers of receipts do not say, in the order in which they were left."""
    told = set()
    for receipt in receipts:
        style = STATUS_STYLES[receipt.status]
        # An error that leaves several scopes is told once, for the innermost: its receipt comes first.
        if receipt.error is not None and receipt.error not in told:
            told.add(receipt.error)
            yield Note(receipt.name, f"{receipt.status}: {tell(receipt.error)}", style)
        for tool in receipt.tools:
            if tool.outcome != "completed":
                yield Note(receipt.name, f"tool {tool.name} {tool.outcome}: {tool.reason or 'no reason given'}", style)
        for text in _oddities(receipt):
            yield Note(receipt.name, text, style)


def _oddities(receipt: Receipt) -> Iterator[str]:
    if receipt.clamped_calls:
        yield f"{plural(receipt.clamped_calls, 'call')} got a lower output limit than asked for, to fit the budget"
    yield from amounts_apart(receipt.overshoot, receipt.uncertain)
    if receipt.open_holds:
        yield f"{plural(receipt.open_holds, 'call')} still open when it ended"
    if receipt.late != Usage():
        yield f"{amount(receipt.late)} came from work that outlived a step in it"
    yield from receipt.warnings


def amounts_apart(overshoot: Usage, uncertain: Usage) -> Iterator[str]:
    """Tell what was spent over a budget, and what is set aside."""
    if overshoot != Usage():
        yield f"over its budget by {amount(overshoot)}"
    if uncertain != Usage():
        yield f"uncertain: {amount(uncertain)} set aside for calls that were sent and whose cost is not known"
