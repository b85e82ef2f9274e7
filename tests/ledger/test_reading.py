"""Lists, filters, pages and statistics give what was written, each receipt once."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.ledger import Reading, ReceiptFilter, _filtering
from stepwarden.ledger._columns import row_of
from stepwarden.ledger._plain_receipt import PlainReceipt
from stepwarden.ledger._receipt_record import decode_receipt
from stepwarden.ledger._record import encode, receipt_fields
from stepwarden.ledger._scope_record import PlainReceipts
from stepwarden.ledger._stored import find_strays, verify_ledger


class Clock:
    """Move on by a second whenever it is asked."""

    def __init__(self):
        self.now = 0

    def monotonic_ns(self):
        self.now += 1_000_000_000
        return self.now

    def time_ns(self):
        return 1_790_000_000_000_000_000 + self.now


@pytest.fixture
def filled(path):
    """Give a ledger with three runs, in which personas and steps went differently."""
    import time

    sw.configure(clock=Clock())

    @sw.persona(name="cheap")
    def cheap(count):
        for _ in range(count):
            with sw.step("plan", model="small", budget=sw.Budget(max_usd=1)):
                sw.record_usage("small", input_tokens=10, output_tokens=1, cost_usd="0.01")

    @sw.persona(name="dear")
    def dear(count):
        for number in range(count):
            with sw.step("write", budget=sw.Budget(max_calls=1), error_boundary="continue"):
                sw.record_usage("large", input_tokens=100, output_tokens=10, cost_usd=number)
                if number % 2:
                    sw.record_usage("large", input_tokens=1, cost_usd="0.5")

    try:
        with sw.SQLiteLedger(path) as ledger:
            for number in range(3):
                with sw.Run(ledger=ledger, name=f"run {number}"):
                    cheap(4)
                    dear(number)
    finally:
        sw.configure(clock=time)
    with Reading(path) as reading:
        yield reading


def everything(reading, chosen=None, limit=3):
    """Return all rows, a page at a time."""
    rows = []
    while page := reading.receipts(chosen, limit=limit, after=rows[-1].cursor if rows else None):
        assert len(page) <= limit
        rows += page
    return rows


def test_pages_have_no_gap_and_no_double(filled):
    """Page after page gives every receipt once, those that ended last first."""
    rows = everything(filled)
    assert len(rows) == len({row.number for row in rows}) == 3 * (4 + 2) + 3
    ends = [row.receipt.started_at + timedelta(seconds=row.receipt.duration) for row in rows]
    assert ends == sorted(ends, reverse=True)
    assert [row.receipt for row in filled.receipts(limit=100)] == [row.receipt for row in rows]
    assert list(filled.latest(5)) == [row.receipt for row in sorted(rows, key=lambda row: row.number)[-5:]]


FILTERS = {
    "kind": (ReceiptFilter(kind="persona"), lambda one: one.kind == "persona"),
    "persona": (ReceiptFilter(persona="dear"), lambda one: one.persona == "dear"),
    "name": (ReceiptFilter(name="plan"), lambda one: one.name == "plan"),
    "model": (ReceiptFilter(model="large"), lambda one: one.model == "large"),
    "status": (ReceiptFilter(status=sw.Status.SKIPPED), lambda one: one.status == "skipped"),
    "completed": (ReceiptFilter(status=sw.Status.COMPLETED), lambda one: one.status == "completed"),
    "a text as status": (ReceiptFilter(status="completed"), lambda one: one.status == "completed"),
    "least cost": (ReceiptFilter(min_cost_usd=Decimal("0.04")), lambda one: one.total.cost_usd >= Decimal("0.04")),
    "most cost": (ReceiptFilter(max_cost_usd=Decimal("0.01")), lambda one: one.total.cost_usd <= Decimal("0.01")),
    "several": (
        ReceiptFilter(persona="dear", name="write", status=sw.Status.SKIPPED, min_cost_usd=Decimal("0.1")),
        lambda one: one.name == "write" and one.status == "skipped" and one.total.cost_usd >= Decimal("0.1"),
    ),
    "nobody": (ReceiptFilter(persona="nobody"), lambda one: False),
    "no such run": (ReceiptFilter(run="none"), lambda one: False),
}


@pytest.mark.parametrize("few", [0, 2_000])
@pytest.mark.parametrize("what", FILTERS)
def test_a_filter_chooses_what_it_says(filled, monkeypatch, what, few):
    """Each filter gives exactly the receipts that it names, whichever index is taken."""
    monkeypatch.setattr(_filtering, "_FEW", few)
    chosen, wanted = FILTERS[what]
    rows = everything(filled)
    assert [row.number for row in everything(filled, chosen)] == [row.number for row in rows if wanted(row.receipt)]


def test_a_run_is_listed_in_the_order_of_its_records(filled):
    """The receipts of one run come last written first, and no other run's."""
    run = filled.runs()[1]
    rows = everything(filled, ReceiptFilter(run=run.id))
    assert {row.receipt.run_id for row in rows} == {run.id}
    assert [row.seq for row in rows] == sorted((row.seq for row in rows), reverse=True)
    assert len(rows) == run.receipts


def test_times_bound_the_end(filled):
    """`since` and `until` bound when a receipt ended, both ends included, to the millisecond."""
    rows = everything(filled)
    end = {row.number: row.receipt.started_at + timedelta(seconds=row.receipt.duration) for row in rows}
    middle = end[rows[len(rows) // 2].number]
    later = everything(filled, ReceiptFilter(since=middle))
    earlier = everything(filled, ReceiptFilter(until=middle))
    assert [row.number for row in later] == [row.number for row in rows if end[row.number] >= middle]
    assert [row.number for row in earlier] == [row.number for row in rows if end[row.number] <= middle]
    with pytest.raises(ValueError, match="since must have a time zone"):
        filled.receipts(ReceiptFilter(since=datetime(2026, 1, 1)))  # noqa: DTZ001 - the point
    assert everything(filled, ReceiptFilter(since=datetime(2100, 1, 1, tzinfo=UTC))) == []


@pytest.mark.parametrize("wrong", [{"status": "done"}, {"kind": "run"}, {"min_cost_usd": Decimal(-1)}])
def test_a_filter_that_cannot_be_right_is_named(filled, wrong):
    """An unknown status or kind, or a negative cost, is a ValueError that names it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        filled.receipts(ReceiptFilter(**wrong))


def test_runs_and_their_prefixes(filled):
    """Runs come newest first, a page at a time, and the beginning of an id finds one."""
    first, second, third = filled.runs()
    assert [run.name for run in (first, second, third)] == ["run 2", "run 1", "run 0"]
    assert filled.runs(limit=1, before=first.number) == (second,)
    assert filled.run(first.id) == filled.run(first.id[:12]) == first
    assert (third.total.calls, third.total.cost_usd) == (4, Decimal("0.04"))
    for unknown in ("abc", "zzzzzz", first.id + "0"):
        with pytest.raises(sw.LedgerError, match="there is no run"):
            filled.run(unknown)


def test_a_prefix_of_two_runs_is_refused(filled, monkeypatch):
    """The beginning of more than one id is a LedgerError that asks for more of it."""
    from stepwarden.ledger import _reading

    monkeypatch.setattr(_reading, "_SHORTEST_PREFIX", 0)
    with pytest.raises(sw.LedgerError, match="more than one run"):
        filled.run("")


def test_statistics_by_step(filled):
    """Steps are counted with the runs that they were in, what they cost, and how often and how nearly they ran out."""
    write, plan = filled.stats("step")
    assert (plan.key, plan.activations, plan.runs, plan.ran_out) == ("plan", 12, 3, 0.0)
    assert (plan.cost_usd.p50, plan.cost_usd.p95, plan.cost_usd.total) == (
        Decimal("0.01"), Decimal("0.01"), Decimal("0.12"),
    )  # fmt: skip
    assert (plan.tokens.p50, plan.tokens.total) == (11, 132)
    assert plan.pressure.p95 == 0.01
    assert (write.key, write.activations, write.runs) == ("write", 3, 2)
    assert write.ran_out == pytest.approx(1 / 3)
    assert write.pressure.p95 == 2.0
    assert (write.cost_usd.p50, write.cost_usd.p95) == (0, Decimal("1.5"))


def test_statistics_by_persona_model_and_day(filled):
    """Personas count with all that is under them, models by the last one used, and days by when a step ended."""
    dear, cheap = filled.stats("persona")  # the one that cost most first
    assert (dear.key, cheap.key) == ("dear", "cheap")
    assert (dear.cost_usd.total, dear.tokens.total) == (Decimal("1.5"), 331)
    assert (cheap.cost_usd.p50, cheap.cost_usd.total) == (Decimal("0.04"), Decimal("0.12"))
    assert (cheap.tokens.total, cheap.pressure) == (132, None)
    assert {row.key: row.activations for row in filled.stats("model")} == {"small": 12, "large": 3}
    (day,) = filled.stats("day")
    assert (day.key, day.activations) == ("2026-09-21", 15)
    assert filled.stats("step", ReceiptFilter(persona="nobody")) == ()
    assert {row.key for row in filled.stats("step", ReceiptFilter(persona="dear"))} == {"write"}
    with pytest.raises(ValueError, match="by must be one of"):
        filled.stats("colour")


NAMES = st.text(min_size=1, max_size=8).filter(str.strip)


@given(
    NAMES,
    st.none() | st.text(min_size=1, max_size=6).filter(str.strip),
    st.none() | st.integers(0, 10**20),
    st.none() | st.just(5),
    st.booleans(),
    st.integers(0, 2**53 - 1),
)
def test_a_plain_receipt_is_what_its_receipt_is(name, model, tokens, seconds, in_persona, seq):
    """The short ways to a record of a scope in which nothing happened give, byte for byte, what the receipt gives."""
    budget = sw.Budget(max_tokens=tokens, max_usd=1, max_seconds=seconds)
    captain, work, plain = sw.persona("p %d"), sw.step(name, model=model, budget=budget), []
    with sw.Run(name="100 %d") as run:
        short = PlainReceipts(run.id)
        for _ in range(3):
            if in_persona:
                with captain, work as scope:
                    pass
            else:
                with work as scope:
                    pass
            at_ns = run.tree.anchor_ns + scope.closed_ns
            receipt, expected = short.receipt(scope, at_ns), receipt_fields(scope.receipt, at_ns)
            plain.append(isinstance(receipt, PlainReceipt))
            assert (receipt() if plain[-1] else receipt) == expected
            if plain[-1]:
                data = encode("receipt", run.id, seq, at_ns, expected)
                assert receipt.encode(seq) == data
                _, kind, status, _, _, _, ended_at, cost, tokens_used, *own, pressure, ran_out = row_of(
                    decode_receipt(data), 0, lambda text: text and len(text)
                )
                assert (status, cost, tokens_used, own, ran_out) == (0, 0, 0, [None, None], False)
                assert ended_at == receipt.ended_at
                assert (kind, pressure) == row_of(receipt.form.record, 0, lambda text: text and len(text))[1:12:10]
    # A share of the time that it may take is another one for each.
    assert plain == ([False, True, True] if seconds is None else [False] * 3)


def test_plain_receipts_are_listed_as_they_are(tmp_path):
    """Receipts that were written the short way stand on the lists as their records say."""
    with sw.SQLiteLedger(tmp_path / "plain.db") as ledger:
        work = sw.step("work", model="m", budget=sw.Budget(max_tokens=0, max_calls=5))
        with sw.Run(ledger=ledger) as run, sw.persona("p"):
            for _ in range(600):
                with work:
                    pass
        with ledger.read() as reading:
            assert len(reading.receipts(ReceiptFilter(name="work", persona="p", model="m"), limit=1_000)) == 600
            assert [receipt.total for receipt in run.receipts] == [
                row.receipt.total for row in reading.receipts(limit=601)
            ]
            assert [str(one) for verdict in verify_ledger(reading) for one in verdict.findings] == []
            assert find_strays(reading) == ()
