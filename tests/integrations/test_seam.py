"""An attempt as integrations use it: reserved when entered, settled once, and what any SDK's failure means."""

import asyncio
import contextlib
import http
import socket
import types

import pytest

import stepwarden as sw
from stepwarden.integrations._seam import Attempt, Reported
from tests.integrations.faces import PRICES

USED = Reported(model="m", input_tokens=3, output_tokens=2)


def call(**asked):
    """Describe a call."""
    return Attempt(**{"model": "m", "input_tokens": 10, "output_tokens": 20, **asked})


@pytest.fixture
def run():
    """Open a run that bounds tokens and has prices."""
    with sw.Run(budget=sw.Budget(max_tokens=100, max_usd=200), prices=PRICES) as run:
        yield run


def outcome(run):
    """Tell how the calls of a run came out: counted, uncertain and held."""
    return run.total.calls, run.uncertain.output_tokens, run.held.calls


def test_a_call_is_held_while_it_is_made_and_settled_by_what_it_reports(run):
    """In its block a call is held with its worst case; what it reports is charged in that place, once."""
    with call() as attempt:
        assert (run.held.total_tokens, run.held.cost_usd, attempt.output_limit) == (30, 50, 20)
        attempt.settle(Reported(input_tokens=3, output_tokens=2, cache_read_tokens=2, reasoning_tokens=1))
        attempt.settle(USED)
        attempt.leave()
    assert (run.total.total_tokens, run.total.cost_usd, run.total.cache_read_tokens) == (5, 1 + 0.5 + 4, 2)
    assert outcome(run) == (1, 0, 0)


def test_a_cost_that_the_reply_reports_is_charged(run):
    """Where a reply says what it cost, that is counted and not our price."""
    with call() as attempt:
        attempt.settle(Reported(input_tokens=3, output_tokens=2, cost_usd="1.25"))
    assert run.total.cost_usd == 1.25


def test_a_block_that_settles_nothing_leaves_its_call_uncertain(run):
    """Whoever forgets to settle has the worst case set aside, not nothing."""
    with call():
        pass
    assert outcome(run) == (1, 20, 0)


def test_a_kept_call_is_settled_after_its_block(run):
    """A reply that is read later is settled by whoever reads it."""
    with call() as attempt:
        attempt.keep()
    assert outcome(run) == (0, 0, 1)
    attempt.settle(Reported(arrived_tokens=7))
    assert outcome(run) == (1, 0, 0)
    assert (run.total.input_tokens, run.total.output_tokens, run.total.estimated_calls) == (10, 7, 1)


def test_a_refused_call_does_not_enter_its_block(run):
    """What there is no room for raises before the block, in both kinds of block."""

    async def refused():
        async with call(input_tokens=500):
            pytest.fail("it was made")

    with pytest.raises(sw.BudgetExceededError), call(input_tokens=500):
        pytest.fail("it was made")
    with pytest.raises(sw.BudgetExceededError):
        asyncio.run(refused())
    assert outcome(run) == (0, 0, 0)


@pytest.mark.parametrize("budget", [None, sw.Budget(max_calls=5), sw.Budget(max_seconds=60)])
def test_without_a_token_or_dollar_limit_a_call_is_not_to_be_touched(budget):
    """No output limit is written where nothing in force needs it."""
    with sw.Run(budget=budget), call() as attempt:
        assert attempt.output_limit is None


class ConnectError(OSError):
    """What httpx calls a server that was never reached."""


class StatusError(Exception):
    """An SDK's error with the status where openai, anthropic and litellm put it."""

    def __init__(self, status):
        super().__init__(status)
        self.status_code = status


class CodeError(Exception):
    """An SDK's error with the status where google-genai puts it."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class ResponseError(Exception):
    """An SDK's error with the status on its response, where httpx and requests put it."""

    def __init__(self, status):
        super().__init__(status)
        self.response = types.SimpleNamespace(status_code=status)


class ClientError(Exception):
    """An SDK's error with the status where botocore puts it."""

    def __init__(self, status):
        super().__init__(status)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": "ThrottlingException"}}


def caused(error, cause):
    """Wrap an error as SDKs do."""
    error.__cause__ = cause
    return error


def refusal(phase):
    """Make one of our refusals, or of our overruns."""
    with contextlib.suppress(LookupError), sw.Run(budget=sw.Budget(max_calls=0)):
        try:
            sw.record_usage() if phase == "record" else sw.reserve().acquire()
        except sw.BudgetExceededError as error:
            return error


CERTAINLY_NOT = [
    ConnectError(),
    caused(RuntimeError("Connection error."), ConnectError()),
    caused(RuntimeError(), caused(OSError(), socket.gaierror())),
    ConnectionRefusedError(),
    *(kind(status) for kind in (StatusError, CodeError, ResponseError, ClientError) for status in (400, 429, 503, 529)),
    StatusError(http.HTTPStatus.TOO_MANY_REQUESTS),
    caused(StatusError(404), TimeoutError()),
    sw.PolicyViolationError("refused"),
    sw.WouldBlockError("refused"),
    sw.ReserveTimeoutError("refused", waited=1, scope_kind="run", scope_name="r", limit="max_calls"),
    refusal("reserve"),
    ExceptionGroup("both", [StatusError(429), ConnectError()]),
]
PERHAPS = [
    TimeoutError(),
    ConnectionResetError(),
    ValueError("unreadable"),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    *(kind(status) for kind in (StatusError, CodeError, ResponseError, ClientError) for status in (500, 502, 504)),
    caused(StatusError(501), ConnectError()),
    CodeError("insufficient_quota"),
    CodeError(7),
    ResponseError(200),
    refusal("record"),
    ExceptionGroup("both", [StatusError(429), TimeoutError()]),
]


@pytest.mark.parametrize("error", CERTAINLY_NOT, ids=repr)
def test_an_error_that_says_it_was_not_served_costs_nothing(run, error):
    """Never connected, refused by the server (any 4xx, 503, 529) or by us: the hold goes back whole."""
    with pytest.raises(type(error)), call():
        raise error
    assert (outcome(run), run.total) == ((0, 0, 0), sw.Usage())


@pytest.mark.parametrize("error", PERHAPS, ids=repr)
def test_an_error_after_which_nobody_knows_is_uncertain(run, error):
    """Time-outs, cancellation, resets, other 5xx and what nobody can read: input charged, the rest set aside."""
    with pytest.raises(type(error)), call():
        raise error
    assert outcome(run) == (1, 20, 0)


@pytest.mark.parametrize(("status", "expected"), [(429, (0, 0, 0)), (529, (0, 0, 0)), (500, (1, 20, 0))])
def test_a_status_is_settled_like_the_error_that_carries_it(run, status, expected):
    """`refused_with` gives back or sets aside by the same table, and leaves a success alone."""
    with call() as attempt:
        assert not attempt.refused_with(200)
        assert run.held.calls == 1
        assert attempt.refused_with(status)
    assert outcome(run) == expected


def test_the_time_that_is_left_is_the_least_on_the_chain(clock):
    """A call may take what is left of the shortest `max_seconds` around; when it is over, the error carries the text."""
    with sw.Run(budget=sw.Budget(max_seconds=10)), sw.step("s", budget=sw.Budget(max_seconds=4)):
        with call() as attempt:
            clock.advance(3)
            assert attempt.time_left() == 1
            assert attempt.overdue("said so far") is None
            clock.advance(1.5)
            assert attempt.time_left() == 0
            error = attempt.overdue("said so far")
            attempt.settle(USED)
    assert (error.limit, error.phase, error.scope_name, error.partial) == (
        "max_seconds",
        "deadline",
        "s",
        "said so far",
    )
