"""The plain view of a run: one line when a scope opens, one when it has closed."""

from types import TracebackType
from typing import Self

from rich.console import Console

from stepwarden import Receipt, Run

from ._format import plural, usd
from ._problem import one_line, tell


class Lines:
    """Write a line for each scope that was opened or closed since the last look.

    A scope that is opened and closed between two looks has the second line only.
    """

    def __init__(self, console: Console, run: Run) -> None:
        self._console = console
        self._run = run
        self._started: set[str] = set()
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def look(self) -> None:
        """Read the run once and write what is new."""
        for receipt in self._run.receipts:
            if receipt.step_id not in self._ended:
                self._ended.add(receipt.step_id)
                self._write(_ended(receipt))
        for scope in self._run.open_scopes:
            if scope.id not in self._started and scope.id not in self._ended:
                self._started.add(scope.id)
                self._write(f"started {scope.kind} {one_line(scope.name)}")

    def _write(self, line: str) -> None:
        # `out` neither wraps nor reads markup: what looks at these lines is often another program.
        self._console.out(line, highlight=False)


def _ended(receipt: Receipt) -> str:
    line = f"{receipt.status} {receipt.kind} {one_line(receipt.name)}"
    if receipt.total.calls:
        line += f" {plural(receipt.total.total_tokens, 'token')} {usd(receipt.total.cost_usd)}"
    return line if receipt.error is None else f"{line}: {tell(receipt.error)}"
