"""What the records of a run tell when nobody ended it: who spent what, what was open and what was in flight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from stepwarden.core._budget import BUDGET_FIELDS, Budget, Usage
from stepwarden.core._money import dollars, picodollars
from stepwarden.core._receipt import CallRecord, Receipt, Status, ToolRecord
from stepwarden.core._tally import missed_warning

from ._journal import amounts
from ._receipt_record import _usage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COUNTS = (
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "calls",
    "tool_calls", "unpriced_calls", "estimated_calls",
)  # fmt: skip
_COST = "cost_usd"
_WARNING = "its process ended while it was open"
_COUNTED_TOOLS = frozenset({"completed", "failed"})


@dataclass(slots=True)
class _Place:
    """Be one scope, or the run itself."""

    fields: Mapping[str, Any]
    own: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    uncertain: Counter[str] = field(default_factory=Counter)
    calls: list[CallRecord] = field(default_factory=list)
    tools: list[ToolRecord] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    clamped: int = 0
    in_flight: int = 0
    is_open: bool = False
    parent: int | None = None


class Remains:
    """Put together what a run's records tell, from the first to the last.

    Args:
        run: The run's id.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._root = _Place({})
        self._places: dict[int, _Place] = {}
        self._holds: dict[int, Mapping[str, Any]] = {}
        self._settled: dict[int, Mapping[str, Any]] = {}
        self._last_ns = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the next record."""
        # A clock that jumped back does not make anything end before it began.
        self._last_ns = max(self._last_ns, int(record["at"]))
        match record["kind"]:
            case "run_started":
                self._root.fields = record
            case "scope_opened":
                self._open(record).is_open = True
            case "receipt":
                self._open(record).is_open = False
            case "hold":
                self._holds[record["hold"]] = record
            case "settlement":
                before = self._settled.get(record["hold"])
                if before is None or record["outcome"] != "uncertain":
                    self._settled[record["hold"]] = record
            case "usage":
                self._charge(record, "recorded")
            case "tool":
                self._use_tool(record)

    def add_child(self, first: Mapping[str, Any], last: Mapping[str, Any]) -> None:
        """Count what a run inside it has spent.

        Args:
            first: The record of its start.
            last: Its last record, after it has ended.
        """
        place = self._root
        if first["parent"] != self._run:
            place = self._places.get(int(first["parent"].rpartition(".")[2]), self._root)
        self._add_up(place, "total", _counted(last.get("total", {})))
        self._add_up(place, "uncertain", _counted(last.get("uncertain", {})))

    def settle(self) -> list[dict[str, Any]]:
        """Charge every call, those that were in flight as uncertain; return the settlements of those."""
        missing = []
        for number, hold in self._holds.items():
            if number in self._settled:
                continue
            cost, charged = (_pico(hold.get(name)) for name in (_COST, "input_cost_usd"))
            fields: dict[str, Any] = {"hold": number, "outcome": "uncertain", "estimated_calls": 1}
            fields |= {name: hold[name] for name in ("step", "model") if name in hold}
            fields |= amounts(int(hold.get("input_tokens", 0)), 0, charged)
            fields |= amounts(0, int(hold.get("output_tokens", 0)), cost - charged, "uncertain_")
            missing.append(fields)
            self._settled[number] = fields
            self._place(hold).in_flight += 1
        for number, settlement in self._settled.items():
            outcome = settlement["outcome"]
            if outcome != "released":
                self._charge(settlement, outcome)
            place = self._place(settlement)
            hold = self._holds.get(number, {})
            place.clamped += "asked_output_tokens" in hold
            more = int(settlement.get("input_tokens", 0)) - int(hold.get("input_tokens", 0))
            if more > 0 and outcome == "settled":
                place.missed.append(more)
            if outcome == "uncertain":
                set_aside = {_COST: _pico(settlement.get("uncertain_cost_usd"))}
                set_aside["output_tokens"] = int(settlement.get("uncertain_output_tokens", 0))
                self._add_up(place, "uncertain", Counter(set_aside))
        return missing

    def receipts(self) -> list[Receipt]:
        """Return the receipts of the scopes that were open, inner before outer."""
        ordered = sorted(self._places.items(), reverse=True)
        return [self._receipt(serial, place) for serial, place in ordered if place.is_open]

    @property
    def total(self) -> Usage:
        """What the run has spent."""
        return _as_usage(self._root.total)

    @property
    def uncertain(self) -> Usage:
        """What is set aside for calls whose cost is not known."""
        return _as_usage(self._root.uncertain)

    def end(self) -> dict[str, Any]:
        """Return the fields of the record that ends the run."""
        fields: dict[str, Any] = {"status": str(Status.ABANDONED), "total": _usage(self.total)}
        own = _as_usage(self._root.own)
        if own != self.total:
            fields["own"] = _usage(own)
        if self._root.uncertain.total():
            fields["uncertain"] = _usage(self.uncertain)
        return fields

    def _open(self, record: Mapping[str, Any]) -> _Place:
        place = self._places.get(record["step"])
        if place is None:
            place = self._places[record["step"]] = _Place(record)
            parent = record.get("parent")
            place.parent = parent if isinstance(parent, int) else None
        return place

    def _place(self, record: Mapping[str, Any]) -> _Place:
        return self._places.get(record.get("step", 0), self._root)

    def _around(self, place: _Place) -> Iterator[_Place]:
        """Give a scope and those around it, up to the run."""
        while place is not self._root:
            yield place
            place = self._root if place.parent is None else self._places.get(place.parent, self._root)
        yield self._root

    def _add_up(self, place: _Place, what: str, counts: Counter[str]) -> None:
        for one in self._around(place):
            getattr(one, what).update(counts)

    def _charge(self, record: Mapping[str, Any], outcome: str) -> None:
        place = self._place(record)
        counts = _counted(record)
        counts["calls"] = 1
        place.own.update(counts)
        self._add_up(place, "total", counts)
        place.calls.append(
            CallRecord(
                record.get("model"), counts["input_tokens"], counts["output_tokens"], dollars(counts[_COST]), outcome,
                bool(record.get("clamped")),
            )
        )  # fmt: skip

    def _use_tool(self, record: Mapping[str, Any]) -> None:
        place = self._place(record)
        place.tools.append(ToolRecord(record["tool"], record["outcome"], record.get("reason")))
        if record["outcome"] in _COUNTED_TOOLS:
            place.own["tool_calls"] += 1
            self._add_up(place, "total", Counter(tool_calls=1))

    def _receipt(self, serial: int, place: _Place) -> Receipt:
        fields = place.fields
        started_ns = int(fields["started_at"])
        budget = _budget_of(fields.get("budget", {}))
        total = _as_usage(place.total)
        models = [call.model for call in place.calls if call.model]
        return Receipt(
            kind=fields.get("scope", "step"),
            run_id=self._run,
            step_id=f"{self._run}.{serial}",
            parent_id=self._run if place.parent is None else f"{self._run}.{place.parent}",
            persona=fields.get("persona"),
            name=fields["name"],
            function=fields.get("function", fields["name"]),
            stage=fields.get("stage"),
            status=Status.ABANDONED,
            error=None,
            model=models[-1] if models else fields.get("model"),
            own=_as_usage(place.own),
            total=total,
            budget=budget,
            overshoot=_overshoot(budget, total),
            uncertain=_as_usage(place.uncertain),
            open_holds=place.in_flight,
            clamped_calls=place.clamped,
            started_at=_EPOCH + timedelta(microseconds=started_ns // 1_000),
            duration=max(0, self._last_ns - started_ns) / 1e9,
            calls=tuple(place.calls),
            tools=tuple(place.tools),
            late=Usage(),
            warnings=(_WARNING, *missed_warning(len(place.missed), sum(place.missed), max(place.missed, default=0))),
        )


def _counted(record: Mapping[str, Any]) -> Counter[str]:
    counts = Counter({name: int(record[name]) for name in _COUNTS if name in record})
    counts[_COST] = _pico(record.get(_COST))
    return counts


def _pico(cost: str | None) -> int:
    return 0 if cost is None else picodollars(Decimal(cost), _COST)


def _as_usage(counts: Counter[str]) -> Usage:
    return Usage(**{name: counts[name] for name in _COUNTS}, cost_usd=dollars(counts[_COST]))


def _budget_of(limits: Mapping[str, Any]) -> Budget:
    parse = {"max_usd": Decimal, "max_seconds": float}
    return Budget(**{name: parse.get(name, int)(limits[name]) for name in BUDGET_FIELDS if name in limits})


def _overshoot(budget: Budget, total: Usage) -> Usage:
    def over(limit: int | None, spent: int) -> int:
        return 0 if limit is None else max(0, spent - limit)

    tokens = over(budget.max_tokens, total.total_tokens)
    output = min(max(over(budget.max_output_tokens, total.output_tokens), tokens), total.output_tokens)
    cost = Decimal(0) if budget.max_usd is None else max(Decimal(0), total.cost_usd - budget.max_usd)
    return Usage(
        input_tokens=max(over(budget.max_input_tokens, total.input_tokens), tokens - output),
        output_tokens=output,
        cost_usd=cost,
        calls=over(budget.max_calls, total.calls),
        tool_calls=over(budget.max_tool_calls, total.tool_calls),
    )
