"""`guarded_call`: the contract of a call that is guarded by two functions of its user's."""

import asyncio

import pytest

import stepwarden as sw
from stepwarden.testing import assert_within_budget

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000}}


class RefusedError(Exception):
    """An error with a status, as SDKs have them."""

    def __init__(self, status_code):
        super().__init__(str(status_code))
        self.status_code = status_code


class Provider:
    """Be a client that nobody has heard of: one token a character, in and out."""

    def __init__(self):
        self.calls = []
        self.error = None

    def complete(self, prompt, max_tokens=10, model="m"):
        """Answer with as much as may be said."""
        self.calls.append(max_tokens)
        if self.error is not None:
            raise self.error
        return {"model": model, "read": len(prompt), "text": "x" * max_tokens}

    def stream(self, prompt, max_tokens=10, model="m"):
        """Answer a token at a time."""
        self.calls.append(max_tokens)
        for _ in range(max_tokens):
            if self.error is not None:
                raise self.error
            yield {"model": model, "read": len(prompt), "text": "x"}


def worst(prompt, max_tokens=10, model="m"):
    """Estimate a call."""
    return {"input_tokens": len(prompt), "output_tokens": max_tokens, "model": model}


def used(reply):
    """Read what a reply says, whole or in pieces."""
    pieces = reply if isinstance(reply, list) else [reply]
    said = sum(len(piece["text"]) for piece in pieces)
    return {"input_tokens": pieces[0]["read"], "output_tokens": said, "model": pieces[0]["model"]}


GUARD = sw.guarded_call(estimate=worst, settle=used, output_limit="max_tokens")


def as_function(provider):
    """Call it."""
    return GUARD(provider.complete)


def as_coroutine(provider):
    """Await it."""

    @GUARD
    async def complete(prompt, max_tokens=10, model="m"):
        await asyncio.sleep(0)
        return provider.complete(prompt, max_tokens, model)

    return lambda *args, **kwargs: asyncio.run(complete(*args, **kwargs))


def as_generator(provider):
    """Read it out."""
    stream = GUARD(provider.stream)
    return lambda *args, **kwargs: list(stream(*args, **kwargs))


def as_async_generator(provider):
    """Read it out in a loop."""

    @GUARD
    async def stream(prompt, max_tokens=10, model="m"):
        for piece in provider.stream(prompt, max_tokens, model):
            await asyncio.sleep(0)
            yield piece

    async def read_out(*args, **kwargs):
        return [piece async for piece in stream(*args, **kwargs)]

    return lambda *args, **kwargs: asyncio.run(read_out(*args, **kwargs))


@pytest.fixture(params=[as_function, as_coroutine, as_generator, as_async_generator])
def face(request):
    """Give each kind of function in turn."""
    return request.param


def test_a_call_is_settled_by_what_it_used(face):
    """What the user's function reads from the reply is charged, priced and recorded."""
    provider = Provider()
    with sw.Run(prices=PRICES) as run, sw.step("s"):
        face(provider)("four")
    (receipt,) = run.receipts
    assert receipt.own == sw.Usage(input_tokens=4, output_tokens=10, cost_usd=24, calls=1)
    assert receipt.model == "m"


def test_a_refused_call_is_not_made(face):
    """Without room for the least output the function is never called, and the error arrives unchanged."""
    provider = Provider()
    with sw.Run(budget=sw.Budget(max_tokens=4)), pytest.raises(sw.BudgetExceededError, match="no room in max_tokens"):
        face(provider)("four")
    assert provider.calls == []


def test_the_granted_limit_is_written_into_the_call(face):
    """The limit that was granted replaces the caller's, and without a token or USD limit the call is not touched."""
    provider = Provider()
    call = face(provider)
    for budget in (sw.Budget(max_output_tokens=3), sw.Budget(max_calls=3), None):
        with sw.Run(budget=budget) as run:
            call("four", max_tokens=8)
        assert_within_budget(run)
    with sw.Run(budget=sw.Budget(max_output_tokens=3)):
        call("four", 8)
    with sw.Run(budget=sw.Budget(max_output_tokens=3)):
        call("four")
    assert provider.calls == [3, 8, 8, 3, 3]


@pytest.mark.parametrize(("status", "uncertain"), [(429, 0), (400, 0), (503, 0), (500, 10), (502, 10)])
def test_a_failed_call_means_what_its_status_says(face, status, uncertain):
    """The table of failures holds for any error that carries a status."""
    provider = Provider()
    provider.error = RefusedError(status)
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run, pytest.raises(RefusedError):
        face(provider)("four")
    assert run.uncertain.output_tokens == uncertain
    assert run.total.calls == (uncertain > 0)


def test_a_reply_is_given_back_although_it_passes_a_limit():
    """What was paid for is returned, the excess is overshoot, and the next call is refused."""
    called = sw.guarded_call(
        estimate=lambda: {"input_tokens": 1, "output_tokens": 1},
        settle=lambda reply: {"input_tokens": 1, "output_tokens": 50},
    )(lambda: "paid for")
    with sw.Run(budget=sw.Budget(max_tokens=10)) as run:
        assert called() == "paid for"
        with pytest.raises(sw.BudgetExceededError):
            called()
    assert run.overshoot.total_tokens == 41


def test_a_generator_keeps_what_is_sent_thrown_and_returned():
    """A guarded generator is one still: it is sent values, may handle what is thrown into it, and returns."""

    @GUARD
    def stream(prompt, max_tokens=10, model="m"):
        piece = {"model": model, "read": len(prompt), "text": "x"}
        try:
            sent = yield piece
        except LookupError:
            sent = yield piece
        return sent

    with sw.Run(budget=sw.Budget(max_tokens=90)) as run:
        replies = stream("hello")
        next(replies)
        replies.throw(LookupError())
        with pytest.raises(StopIteration) as ended:
            replies.send("last")
    assert ended.value.value == "last"
    assert (run.total.calls, run.total.estimated_calls, run.total.output_tokens, run.held) == (1, 0, 2, sw.Usage())


def test_a_stream_that_is_left_is_counted_from_what_arrived():
    """Closed early, a stream is settled by what it has yielded, as an estimate."""
    stream = GUARD(Provider().stream)
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        reading = stream("four")
        next(reading)
        next(reading)
        reading.close()
        assert (run.held, run.total.output_tokens, run.total.estimated_calls) == (sw.Usage(), 2, 1)


def test_a_call_whose_use_is_not_known_is_uncertain():
    """Where `settle` returns None the input is charged as estimated, and the rest stays aside."""
    called = sw.guarded_call(estimate=worst, settle=lambda reply: None)(Provider().complete)
    with sw.Run() as run:
        called("four")
        assert (run.total.input_tokens, run.uncertain.output_tokens) == (4, 10)


def test_a_guarded_client_inside_adopts_the_hold():
    """A guarded call inside a guarded call reserves and settles once."""
    inner = GUARD(Provider().complete)
    outer = GUARD(lambda prompt, max_tokens=10, model="m": inner(prompt, max_tokens=max_tokens, model=model))
    with sw.Run(budget=sw.Budget(max_calls=1)) as run:
        outer("four")
    assert (run.total.calls, run.total.output_tokens) == (1, 10)


def test_a_reply_that_does_not_say_is_counted_by_what_arrived():
    """With *arrived_tokens* the call is estimated: its output by that, its input as it was before the call."""
    called = sw.guarded_call(estimate=worst, settle=lambda reply: {"arrived_tokens": 4})(Provider().complete)
    with sw.Run(budget=sw.Budget(max_tokens=900)) as run:
        called("hello")
    assert (run.total.output_tokens, run.total.estimated_calls, run.held, run.uncertain) == (
        4,
        1,
        sw.Usage(),
        sw.Usage(),
    )
    assert run.total.input_tokens > 0


@pytest.mark.parametrize(
    ("estimate", "settle", "message"),
    [
        (lambda: 5, lambda reply: None, "estimate must return a mapping with input_tokens, not 5"),
        (lambda: {"output_tokens": 5}, lambda reply: None, "estimate must return input_tokens"),
        (lambda: {"input_tokens": 5, "max_tokens": 5}, lambda reply: None, "unknown key 'max_tokens'"),
        (lambda: {"input_tokens": 5}, lambda reply: {"input_tokens": 5}, "settle must return output_tokens"),
        (lambda: {"input_tokens": 5}, lambda reply: 5, "settle must return a mapping"),
    ],
)
def test_what_the_users_functions_return_is_checked(estimate, settle, message):
    """A wrong estimate is an error before the call, a wrong settlement one after it, which stays uncertain."""
    called = sw.guarded_call(estimate=estimate, settle=settle)(lambda: "reply")
    with sw.Run() as run:
        with pytest.raises(TypeError, match=message):
            called()
        assert run.held == sw.Usage()


@pytest.mark.parametrize(
    ("used", "error", "message"),
    [
        ({"input_tokens": "5", "output_tokens": 1}, TypeError, "input_tokens must be an int, not '5'"),
        ({"input_tokens": 5, "output_tokens": 1 << 60}, ValueError, "output_tokens must be below"),
        (
            {"input_tokens": 5, "output_tokens": 1, "reasoning_tokens": 0.5},
            TypeError,
            "reasoning_tokens must be an int",
        ),
        ({"input_tokens": 5, "output_tokens": 1, "cost_usd": "dear"}, ValueError, "cost_usd"),
        ({"input_tokens": 5, "output_tokens": 1, "model": 5}, TypeError, "model"),
        (RefusedError(429), RefusedError, "429"),
    ],
)
def test_numbers_that_cannot_be_right_leave_the_call_uncertain(face, monkeypatch, used, error, message):
    """Whatever `settle` raises or returns, the call was made: its hold never stays open, and is never given back."""

    def settle(reply):
        if isinstance(used, Exception):
            raise used
        return used

    monkeypatch.setitem(globals(), "GUARD", sw.guarded_call(estimate=worst, settle=settle))
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        with pytest.raises(error, match=message):
            face(Provider())("four")
        assert (run.held, run.total.input_tokens, run.uncertain.output_tokens) == (sw.Usage(), 4, 10)


@pytest.mark.parametrize(("choices", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError), (1.5, TypeError)])
def test_a_call_asks_for_at_least_one_reply(choices, error):
    """A call for no reply, or for what is no number of them, is an error before it is made."""
    called = sw.guarded_call(
        estimate=lambda: {"input_tokens": 5, "choices": choices}, settle=lambda reply: None, output_limit="limit"
    )(lambda limit=1: pytest.fail("it was made"))
    with sw.Run(budget=sw.Budget(max_tokens=100)), pytest.raises(error, match="choices must be"):
        called()


def test_a_sync_function_that_returns_a_coroutine_is_told_what_to_do():
    """Nothing of the coroutine has run, so the hold is given back, and the error says how to write it."""

    async def request():
        pytest.fail("it was made")

    @GUARD
    def complete(prompt, max_tokens=10):
        return request()

    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        with pytest.raises(TypeError, match=r"`complete` returned a coroutine.*`async def`"):
            complete("four")
        assert (run.held, run.uncertain, run.total) == (sw.Usage(), sw.Usage(), sw.Usage())


def test_it_stands_below_what_makes_a_method_static():
    """Above `@staticmethod` it would take the instance for an argument, so that is an error at once."""
    with pytest.raises(sw.DefinitionError, match="@guarded_call must stand below @staticmethod"):
        GUARD(staticmethod(Provider.complete))


def test_what_is_none_was_not_said():
    """A key that is None counts as left out, in both mappings, as SDKs say what they do not know."""
    called = sw.guarded_call(
        estimate=lambda: {"input_tokens": 5, "output_tokens": 9, "choices": None, "timeout": None},
        settle=lambda reply: {"input_tokens": 5, "output_tokens": 1, "cache_read_tokens": None, "cost_usd": None},
    )(lambda: "reply")
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        called()
    assert run.total == sw.Usage(input_tokens=5, output_tokens=1, calls=1, unpriced_calls=1)


@pytest.mark.parametrize("make", [as_generator, as_async_generator])
def test_a_generator_that_its_arguments_do_not_fit_holds_nothing(monkeypatch, make):
    """Where there is no generator, nothing was sent, and the hold is given back."""
    guard = sw.guarded_call(estimate=lambda *args, **kwargs: {"input_tokens": 4}, settle=used)
    monkeypatch.setitem(globals(), "GUARD", guard)
    with sw.Run(budget=sw.Budget(max_tokens=2_000)) as run:
        with pytest.raises(TypeError, match="unexpected keyword"):
            make(Provider())("four", temperature=1)
        assert (run.held, run.uncertain, run.total) == (sw.Usage(), sw.Usage(), sw.Usage())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"estimate": 5, "settle": used}, r"guarded_call\.estimate must be callable, not 5"),
        ({"estimate": worst, "settle": None}, r"guarded_call\.settle must be callable, not None"),
        ({"estimate": worst, "settle": used, "output_limit": ""}, "output_limit"),
        ({"estimate": worst, "settle": used, "output_limit": "max"}, "takes no argument 'max'; it takes prompt"),
    ],
)
def test_a_bad_declaration_is_refused(given, message):
    """A bad argument of `guarded_call` is a DefinitionError that names it."""
    with pytest.raises(sw.DefinitionError, match=message):
        sw.guarded_call(**given)(Provider().complete)


def test_parallel_callers_never_pass_the_limit(face):
    """64 callers use at least 95 % of a limit, and nothing more."""
    provider = Provider()
    call = face(provider)

    async def caller():
        while True:
            try:
                await asyncio.to_thread(call, "four", 6)
            except sw.BudgetExceededError:
                return

    async def scenario():
        with sw.Run(budget=sw.Budget(max_tokens=1_000)) as run:
            await asyncio.gather(*(caller() for _ in range(64)))
        return run

    run = asyncio.run(scenario())
    assert 950 <= run.total.total_tokens <= 1_000
    assert run.held == sw.Usage()
