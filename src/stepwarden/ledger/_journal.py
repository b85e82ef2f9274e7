"""What a run tells its ledger, as records: names, numbers and statuses, never what was asked or answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from stepwarden.core._accounting import actual_cost
from stepwarden.core._ledger import Ticket
from stepwarden.core.errors import LedgerError

from ._canonical import whole
from ._entry import Chain, Entry, Outlet
from ._receipt_record import _budget, _usage
from ._record import receipt_fields

if TYPE_CHECKING:
    from stepwarden.core._hold import Hold
    from stepwarden.core._receipt import Receipt, ToolRecord
    from stepwarden.core._run import Run
    from stepwarden.core._scope import Scope
    from stepwarden.core._tally import CallEntry, Extra

_EXTRAS = {
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
    "unpriced": "unpriced_calls",
    "estimated": "estimated_calls",
}
_CLOSINGS = frozenset({"receipt", "run_ended"})
_PICO = 10**12


class RunJournal:
    """Tell a ledger what happens in one run.

    A scope is written down when something in or under it first is, so that a step which only runs and ends costs
    one record, its receipt; and so that all that had begun has a receipt even if its process dies.

    Args:
        run: The run, which has just been opened.
        outlet: Where the records go.
        chain: The run's chain.
    """

    def __init__(self, run: Run, outlet: Outlet, chain: Chain) -> None:
        self._outlet = outlet
        self._chain = chain
        self._run = run
        self._tree = run.tree
        self._numbers = count(1)
        self._opened: dict[int, object] = {}
        fields: dict[str, Any] = {"name": run.name}
        if run.parent is not None:
            fields |= {"parent": run.parent.id, "parent_run": run.parent.run.id}
        if run.limits is not None:
            fields["budget"] = _budget(run.budget)
        self._add("run_started", fields)

    def held(self, hold: Hold) -> None:
        """Note that a call is about to be sent."""
        if getattr(hold, "number", None) is None:
            self._write_hold(hold)

    def settled(self, hold: Hold, owner: Scope, outcome: str, call: CallEntry | None, extra: Extra | None) -> None:
        """Note what became of a hold, and what *owner* was charged for it."""
        self.held(hold)
        fields: dict[str, Any] = {"hold": hold.number, "outcome": outcome}
        if call is not None:
            fields |= self._charged(owner, call, extra)
        if outcome == "uncertain":
            fields |= amounts(0, hold.output_tokens, hold.uncertain_cost, "uncertain_")
        self._add("settlement", fields)

    def used(self, owner: Scope, call: CallEntry, extra: Extra | None) -> None:
        """Note a call that was recorded after the fact."""
        self._add("usage", self._charged(owner, call, extra))

    def called(self, owner: Scope, tool: ToolRecord) -> None:
        """Note the outcome of a tool call."""
        fields = self._owned(owner)
        fields |= {"tool": tool.name, "outcome": tool.outcome}
        if tool.reason is not None:
            fields["reason"] = tool.reason
        self._add("tool", fields)

    def closed(self, scope: Scope) -> None:
        """Note that a step, a persona or the run itself has closed."""
        if scope is self._run:
            fields: dict[str, Any] = {"status": str(scope.status), "total": _usage(scope.total)}
            if scope.own != scope.total:
                fields["own"] = _usage(scope.own)
            if scope.uncertain.total_tokens or scope.uncertain.cost_usd:
                fields["uncertain"] = _usage(scope.uncertain)
            self._add("run_ended", fields)
            return
        if scope.detail is not None and scope.detail.frozen is not None:
            return  # told before: its end was made up for, since a signal handler had cut it short
        if scope.holds:
            scope.hand_over()  # the receipt tells how many
        receipt = cast("Receipt", scope.receipt)
        self._open_around(scope.parent)
        at_ns = self._tree.anchor_ns + scope.closed_ns
        self._add("receipt", _Deferred(receipt, at_ns), at_ns)
        # What comes after is late, and no longer on the receipt.
        scope.make_detail().frozen = receipt
        self._opened.pop(scope.serial, None)

    def ticket(self) -> Ticket:
        """Return what waits for all that was noted so far."""
        return self._outlet

    def _write_hold(self, hold: Hold) -> None:
        hold.number = next(self._numbers)
        fields = self._owned(cast("Scope", hold.scope))
        fields["hold"] = hold.number
        fields |= amounts(hold.input_tokens, hold.output_tokens, hold.cost)
        if hold.model:
            fields["model"] = str(hold.model)
        if hold.fixed_cost is None:
            # What is charged for it if nobody ever learns what it cost.
            charged = actual_cost(hold.rates, hold.input_tokens, 0) or 0
            fields |= amounts(0, 0, min(charged, hold.cost), "input_")
        if hold.is_clamped:
            fields["asked_output_tokens"] = whole(hold.asked_output)
        self._add("hold", fields)

    def _charged(self, owner: Scope, call: CallEntry, extra: Extra | None) -> dict[str, Any]:
        model, tokens_in, tokens_out, cost, _, is_clamped = call
        fields = self._owned(owner)
        fields |= amounts(tokens_in, tokens_out, cost)
        if model:
            fields["model"] = str(model)
        if is_clamped:
            fields["clamped"] = True
        if extra is not None:
            counts = {name: getattr(extra, slot) for slot, name in _EXTRAS.items()}
            fields |= {name: whole(number) for name, number in counts.items() if number}
        return fields

    def _owned(self, scope: Scope) -> dict[str, Any]:
        """Return the field that names a scope of this run; none for the run itself."""
        if scope.run is not self._run or scope is self._run:
            return {}
        self._open_around(scope)
        return {"step": scope.serial}

    def _open_around(self, scope: Scope | None) -> None:
        """Write down the scopes of this run around something that are open and not written yet, outermost first."""
        mine = object()
        missing: list[Scope] = []
        while scope is not None and scope.run is self._run and scope is not self._run:
            if scope.serial in self._opened or scope.status is not None:
                break
            missing.append(scope)
            scope = scope.parent
        for one in reversed(missing):
            # Another thread may be at it, too.
            if self._opened.setdefault(one.serial, mine) is mine:
                self._add("scope_opened", self._describe(one))

    def _describe(self, scope: Scope) -> dict[str, Any]:
        fields: dict[str, Any] = {"scope": scope.kind, "step": scope.serial, "name": scope.name}
        parent = scope.parent
        if parent is not None and parent is not self._run:
            fields["parent"] = parent.serial
        started_ns = (self._tree.anchor_ns + scope.opened_ns) // 1_000 * 1_000
        fields["started_at"] = str(started_ns)
        optional = {"persona": scope.persona, "stage": scope.stage, "model": scope.plan.model}
        if scope.function != scope.name:
            optional["function"] = scope.function
        fields |= {name: value for name, value in optional.items() if value is not None}
        if scope.limits is not None:
            fields["budget"] = _budget(scope.budget)
        return fields

    def _add(
        self, kind: str, fields: dict[str, Any] | Callable[[], Mapping[str, Any]], at_ns: int | None = None
    ) -> None:
        run = self._run
        if run.status is not None and not callable(fields):
            fields.setdefault("total", _usage(run.total))
        if at_ns is None:
            at_ns = self._tree.anchor_ns + self._tree.clock()
        is_taken = self._outlet.append(Entry(self._chain, kind, at_ns, fields))
        if not is_taken and run.status is not None and kind not in _CLOSINGS:
            # Before the run's end, whoever leaves something in it waits, and hears of it then.
            raise LedgerError(f"the ledger of run `{run.name}` is closed, and what came late is not recorded there")


class _Deferred:
    """Make a receipt's fields when they are written, in the writer's thread."""

    __slots__ = ("_at_ns", "_receipt")

    def __init__(self, receipt: Receipt, at_ns: int) -> None:
        self._receipt = receipt
        self._at_ns = at_ns

    def __call__(self) -> Mapping[str, Any]:
        return receipt_fields(self._receipt, self._at_ns)


def amounts(tokens_in: int, tokens_out: int, cost: int, prefix: str = "") -> dict[str, Any]:
    """Return an amount as the fields of a record, without what is 0; *cost* is picodollars."""
    fields: dict[str, Any] = {}
    if tokens_in:
        fields[f"{prefix}input_tokens"] = whole(tokens_in)
    if tokens_out:
        fields[f"{prefix}output_tokens"] = whole(tokens_out)
    if cost:
        fields[f"{prefix}cost_usd"] = _plain_usd(cost)
    return fields


def _plain_usd(pico: int) -> str:
    sign = "-" if pico < 0 else ""
    dollars, rest = divmod(abs(pico), _PICO)
    return f"{sign}{dollars}.{rest:012d}".rstrip("0").rstrip(".")
