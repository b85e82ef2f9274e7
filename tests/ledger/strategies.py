"""Random values for the tests of the ledger: anything that a record may have, and whole receipts."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

import stepwarden as sw

LARGEST = 2**53 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.one_of(st.none(), st.booleans(), st.integers(-LARGEST, LARGEST), texts)
nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=3) | st.dictionaries(
    texts, plain | st.lists(plain, max_size=3), max_size=3
)
counts = st.integers(0, 10**6) | st.integers(0, 2**70)
picodollars = st.integers(0, 10**15) | st.integers(0, 10**30)


def dollars(pico):
    return Decimal(pico).scaleb(-12)


usages = st.builds(
    sw.Usage,
    input_tokens=counts,
    output_tokens=counts,
    cache_read_tokens=counts,
    cache_write_tokens=counts,
    reasoning_tokens=counts,
    cost_usd=picodollars.map(dollars),
    calls=counts,
    tool_calls=counts,
    unpriced_calls=counts,
    estimated_calls=counts,
)
budgets = st.builds(
    sw.Budget,
    max_tokens=st.none() | counts,
    max_input_tokens=st.none() | counts,
    max_output_tokens=st.none() | counts,
    max_calls=st.none() | counts,
    max_tool_calls=st.none() | counts,
    max_usd=st.none() | picodollars.map(dollars),
    max_seconds=st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
)
calls = st.builds(
    sw.CallRecord,
    model=st.none() | texts,
    input_tokens=counts,
    output_tokens=counts,
    cost_usd=picodollars.map(dollars),
    outcome=st.sampled_from(["recorded", "settled", "uncertain"]),
    clamped=st.booleans(),
)
tools = st.builds(sw.ToolRecord, name=texts, outcome=texts, reason=st.none() | texts)
nothing = sw.Usage()


@st.composite
def receipts(draw):
    run = draw(st.text("0123456789abcdef", min_size=20, max_size=20))
    scopes = st.integers(0, 2**60).map(lambda serial: f"{run}.{serial}") | texts
    own = draw(st.just(nothing) | usages)
    return sw.Receipt(
        kind=draw(st.sampled_from(["step", "persona"])),
        run_id=run,
        step_id=draw(scopes),
        parent_id=draw(st.none() | scopes),
        persona=draw(st.none() | texts),
        name=(name := draw(texts)),
        function=draw(st.just(name) | texts),
        stage=draw(st.none() | texts),
        status=draw(st.sampled_from(sw.Status)),
        error=draw(st.none() | st.builds(sw.ReceiptError, texts, texts)),
        model=draw(st.none() | texts),
        own=own,
        total=draw(st.sampled_from([own, nothing]) | usages),
        budget=draw(st.just(sw.Budget()) | budgets),
        overshoot=draw(st.just(nothing) | usages),
        uncertain=draw(st.just(nothing) | usages),
        open_holds=draw(st.integers(0, 5)),
        clamped_calls=draw(st.integers(0, 5)),
        started_at=EPOCH + timedelta(microseconds=draw(st.integers(-(2**40), 2**57))),
        duration=draw(st.integers(0, 2**70)) / 1e9,
        calls=tuple(draw(st.lists(calls, max_size=3))),
        tools=tuple(draw(st.lists(tools, max_size=3))),
        late=draw(st.just(nothing) | usages),
        warnings=tuple(draw(st.lists(texts, max_size=2))),
    )
