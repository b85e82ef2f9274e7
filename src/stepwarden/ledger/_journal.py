"""What a run tells its ledger, as records: names, numbers and statuses, never what was asked or answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from stepwarden.core._accounting import actual_cost
from stepwarden.core._amount import unpacked
from stepwarden.core._ledger import Ticket
from stepwarden.core.errors import LedgerError

from ._canonical import whole
from ._entry import Chain, Entry, Outlet
from ._receipt_record import _budget, _usage
from ._record import receipt_fields
from ._scope_record import PlainReceipts, described

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
_MOST_ENDING = 64
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
        self._plain = PlainReceipts(run.id)
        self._opened: dict[int, object] = {}
        self._noted: dict[int, None] = {}
        fields: dict[str, Any] = {"name": run.name}
        if run.parent is not None:
            around = run.parent.run.journal
            if isinstance(around, RunJournal):
                around.open_around(run.parent)  # so that they have receipts if the process dies in this run
            fields |= {"parent": run.parent.id, "parent_run": run.parent.run.id}
        if run.tenant is not None:
            fields["tenant"] = run.tenant
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
        if extra is not None and outcome == "uncertain":
            fields |= amounts(*unpacked(extra.uncertain)[:3], "uncertain_")
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
        if scope.holds:
            scope.hand_over()  # the receipt tells how many
        at_ns = self._tree.anchor_ns + scope.closed_ns
        plain = self._plain.receipt(scope, at_ns)
        if scope.parent is not self._run:
            self.open_around(scope.parent)
        if not self._is_noted(scope.serial):
            receipt = plain or partial(receipt_fields, cast("Receipt", scope.receipt), at_ns)
            self._add("receipt", receipt, at_ns)
        self._opened.pop(scope.serial, None)

    def _is_noted(self, serial: int) -> bool:
        """Tell whether a scope's end was noted before: a signal handler had cut it short, and it is made up for."""
        if serial in self._noted:
            return True
        # Those that are not open any more cannot come again.
        if len(self._noted) > _MOST_ENDING:
            for one in tuple(self._noted):
                if one not in self._tree.open:
                    self._noted.pop(one, None)
        self._noted[serial] = None
        return False

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
        model, amount, _, is_clamped = call
        fields = self._owned(owner)
        fields |= amounts(*unpacked(amount)[:3])
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
        self.open_around(scope)
        return {"step": scope.serial}

    def open_around(self, scope: Scope | None) -> None:
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
        started_ns = (self._tree.anchor_ns + scope.opened_ns) // 1_000 * 1_000
        return {**described(scope), "started_at": str(started_ns)}

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
