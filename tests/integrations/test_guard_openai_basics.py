"""The guard around the real OpenAI SDK, against a scripted server that keeps count of what arrives."""

import asyncio
import random
from decimal import Decimal

import openai
import pytest

import stepwarden as sw
from stepwarden.testing import Cut, Drop, Failure, Garbage, Hang, Reply, ScriptedModel

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000}}
"""One dollar for an input token and two for an output token, so that amounts can be read off."""
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def server():
    """Serve scripted replies on loopback."""
    with ScriptedModel() as server:
        yield server


@pytest.fixture
def client(server):
    """Give a guarded client that does not retry."""
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as plain:
        yield sw.guard(plain)


def ask(client, **request):
    """Send one small request."""
    return client.chat.completions.create(**{"model": "m", "messages": HELLO, "max_tokens": 10, **request})


def test_a_refused_call_never_reaches_the_wire(server, client):
    """What its budget leaves no room for is refused with our error, and the server sees nothing."""
    with sw.Run(budget=sw.Budget(max_tokens=5)), pytest.raises(sw.BudgetExceededError, match="no room in max_tokens"):
        ask(client)
    assert server.count == 0


def test_a_reply_is_settled_by_what_it_reports(server, client):
    """Input, output, cached and reasoning tokens come from the reply, and each is priced once."""
    server.enqueue(Reply(input_tokens=7, output_tokens=3, cached_tokens=2, reasoning_tokens=1))
    with sw.Run(prices=PRICES) as run, sw.step("s"):
        ask(client)
    (receipt,) = run.receipts
    assert receipt.own == sw.Usage(
        input_tokens=7, output_tokens=3, cache_read_tokens=2, reasoning_tokens=1, cost_usd=Decimal(13), calls=1
    )
    assert receipt.model == "m"


@pytest.mark.parametrize("named", ["max_tokens", "max_completion_tokens"])
def test_the_granted_limit_arrives_under_the_callers_own_name(server, client, named):
    """A lowered output limit is written into the request under the parameter that the caller used."""
    with sw.Run(budget=sw.Budget(max_output_tokens=4)) as run, sw.step("s"):
        client.chat.completions.create(model="m", messages=HELLO, **{named: 10})
    body = server.requests[-1].body
    assert body[named] == 4
    assert {"max_tokens", "max_completion_tokens"} & set(body) == {named}
    assert run.receipts[0].clamped_calls == 1


def test_a_call_without_a_limit_gets_the_default(server, client):
    """The output assumed for a call that names none is the step's, else the run's, else 1,024; and it is sent."""
    sent = []
    for step, run in ((32, 64), (None, 64), (None, None)):
        with (
            sw.Run(budget=sw.Budget(max_tokens=9_999), default_max_output_tokens=run),
            sw.step("s", default_max_output_tokens=step),
        ):
            client.chat.completions.create(model="m", messages=HELLO)
        sent.append(server.requests[-1].body["max_completion_tokens"])
    assert sent == [32, 64, 1_024]


def test_several_choices_multiply(server, client):
    """`n` choices hold n times the output, and each may have its share of what was granted."""
    with sw.Run(budget=sw.Budget(max_output_tokens=9)):
        ask(client, n=3)
    assert server.requests[-1].body["max_tokens"] == 3


def test_without_a_token_or_dollar_limit_nothing_is_touched(server, client):
    """Where no limit needs it the request arrives as it was made, and is counted all the same."""
    with sw.Run(budget=sw.Budget(max_calls=5)) as run:
        list(ask(client, stream=True))
    assert server.requests[-1].body == {"model": "m", "messages": HELLO, "max_tokens": 10, "stream": True}
    assert (run.total.calls, run.total.estimated_calls) == (1, 1)
    assert run.total.output_tokens > 0


def test_the_providers_prefix_is_stripped(server, client):
    """`openai:m` is sent as `m`, and priced as it too."""
    with sw.Run(budget=sw.Budget(max_usd=1_000), prices=PRICES) as run:
        ask(client, model="openai:m")
    assert server.requests[-1].body["model"] == "m"
    assert run.total.cost_usd > 0


def test_an_unpriced_model_under_a_dollar_limit_is_not_sent(server, client):
    """A USD limit and a model without a price: refused before the call; without the limit, counted as unpriced."""
    with sw.Run(budget=sw.Budget(max_usd=1)), pytest.raises(sw.UnpricedModelError, match="nobody-knows"):
        ask(client, model="nobody-knows")
    assert server.count == 0
    with sw.Run() as run:
        ask(client, model="nobody-knows")
    assert run.total.unpriced_calls == 1


@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_stream_is_asked_for_usage_and_shows_it_only_to_who_asked(server, client, wants_usage):
    """A stream is settled by its usage; the chunk that only carries it is shown only if the caller asked."""
    server.default = Reply(text="a longer reply", input_tokens=5, output_tokens=4)
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        chunks = list(ask(client, stream=True, **options))
    assert server.requests[-1].body["stream_options"] == {"include_usage": True}
    assert [chunk for chunk in chunks if not chunk.choices] == (chunks[-1:] if wants_usage else [])
    assert (run.total.input_tokens, run.total.output_tokens, run.total.estimated_calls) == (5, 4, 0)
    assert run.held == sw.Usage()


def leave_early(stream):
    """Read one chunk and close."""
    next(iter(stream))
    stream.close()


def fail_inside(stream):
    """Fail while reading."""
    with pytest.raises(LookupError), stream:
        for _ in stream:
            raise LookupError


@pytest.mark.parametrize("leave", [leave_early, fail_inside])
def test_a_stream_that_is_left_is_counted_from_what_arrived(server, client, leave):
    """Left early, a stream is settled at once, as estimated and never as nothing."""
    server.default = Reply(text="word " * 40, chunk_delay=0.01)
    with sw.Run(budget=sw.Budget(max_tokens=500)) as run, sw.step("s") as step:
        leave(ask(client, stream=True, max_tokens=100))
        assert step.held == sw.Usage()
        assert step.own.estimated_calls == 1
        assert step.own.input_tokens > 0
    assert run.uncertain == sw.Usage()


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 503, 529])
def test_what_was_never_served_sets_nothing_aside(server, client, status):
    """4xx, 503 and 529 release the hold, ten times over."""
    server.default = Failure(status)
    with sw.Run(budget=sw.Budget(max_tokens=60)) as run:
        for _ in range(10):
            with pytest.raises(openai.APIStatusError):
                ask(client)
    assert (run.total, run.uncertain, run.held) == (sw.Usage(), sw.Usage(), sw.Usage())
    assert server.count == 10


@pytest.mark.parametrize(
    "failing", [Failure(500), Failure(502), Drop(), Garbage()], ids=["500", "502", "drop", "garbage"]
)
def test_what_may_have_been_served_stays_uncertain(server, client, failing):
    """Other 5xx, a reset and an unreadable body charge the input as estimated and set the output aside."""
    server.default = failing
    with sw.Run(budget=sw.Budget(max_tokens=60)) as run:
        with pytest.raises((openai.OpenAIError, ValueError)):
            ask(client)
        assert run.remaining.max_tokens == 60 - run.total.input_tokens - 10
    assert (run.uncertain.output_tokens, run.total.calls, run.total.estimated_calls) == (10, 1, 1)


def test_a_timeout_after_sending_is_uncertain(server):
    """A call that nobody answered in time may still be served, so its output stays set aside."""
    server.default = Hang()
    with (
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=0.2) as plain,
        sw.Run(budget=sw.Budget(max_tokens=60)) as run,
        pytest.raises(openai.APITimeoutError),
    ):
        ask(sw.guard(plain))
    assert run.uncertain.output_tokens == 10


def test_a_server_that_was_never_reached_costs_nothing():
    """A closed port means that nothing was sent: the hold is released."""
    with ScriptedModel() as gone:
        address = gone.base_url
    with (
        openai.OpenAI(base_url=address, api_key="none", max_retries=0) as plain,
        sw.Run(budget=sw.Budget(max_tokens=60)) as run,
        pytest.raises(openai.APIConnectionError),
    ):
        ask(sw.guard(plain))
    assert (run.total, run.uncertain) == (sw.Usage(), sw.Usage())


def test_a_stream_that_is_cut_is_counted_from_what_arrived(server, client):
    """A connection that breaks in the middle of a stream settles what had come."""
    server.default = Cut(Reply(text="word " * 40), after_chunks=3)
    with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
        with pytest.raises(openai.APIError):
            list(ask(client, stream=True, max_tokens=100))
        assert run.held == sw.Usage()
    assert run.total.estimated_calls == 1
    assert run.total.output_tokens > 0


def test_every_attempt_of_a_retry_is_reserved(server, client):
    """The SDK's own retries take a hold each: as many as requests arrived."""
    server.enqueue(Failure(429), Failure(500), Reply(input_tokens=3, output_tokens=2))
    with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
        ask(client.with_options(max_retries=2))
    assert server.count == 3
    assert run.total.calls == 2  # the 429 was given back; the 500 may have been served
    assert run.uncertain.output_tokens == 10


def test_a_refusal_on_a_retry_arrives_unchanged(server, client):
    """When the second attempt finds no room, the caller gets our error, and nothing more is sent."""
    server.default = Failure(500)
    with sw.Run(budget=sw.Budget(max_calls=1)), pytest.raises(sw.BudgetExceededError) as caught:
        ask(client.with_options(max_retries=5))
    assert caught.value.limit == "max_calls"
    assert server.count == 1


def test_a_reply_is_given_back_although_it_passes_a_limit(server, client):
    """A reply that cost more than was reserved is returned, the excess is on the receipt, the next call refused."""
    server.enqueue(Reply(text="paid for", usage={"prompt_tokens": 90, "completion_tokens": 30, "total_tokens": 120}))
    with sw.Run(budget=sw.Budget(max_tokens=100)) as run, sw.step("s", budget=sw.Budget(max_tokens=100)):
        assert ask(client).choices[0].message.content == "paid for"
        with pytest.raises(sw.BudgetExceededError):
            ask(client)
    assert run.receipts[0].overshoot.total_tokens == 20
    assert server.count == 1


def test_sixty_four_tasks_never_pass_the_limit(server):
    """64 parallel callers under one dollar limit stay inside it and use at least 95 % of it."""
    chance = random.Random(5)
    server.default = lambda request: Reply(input_tokens=10, output_tokens=chance.randint(4, 40))

    async def scenario():
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as plain:
            client = sw.guard(plain)

            async def caller():
                while True:
                    try:
                        await client.chat.completions.create(model="m", messages=HELLO, max_tokens=40)
                    except sw.BudgetExceededError:
                        return

            async with sw.Run(budget=sw.Budget(max_usd=4_000), prices=PRICES) as run:
                await asyncio.gather(*(caller() for _ in range(64)))
            return run

    run = asyncio.run(scenario())
    assert 3_800 <= run.total.cost_usd <= 4_000
    assert run.total.calls == server.count
    assert (run.held, run.uncertain) == (sw.Usage(), sw.Usage())


def test_an_async_stream_is_settled_when_its_task_is_cancelled(server):
    """Cancelled in the middle of a stream, the call is settled by what arrived and nothing stays held."""
    server.default = Reply(text="word " * 200, chunk_delay=0.01)

    async def scenario():
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as plain:
            client = sw.guard(plain)
            started = asyncio.Event()

            async def reader():
                async with await ask(client, stream=True, max_tokens=300) as stream:
                    async for _ in stream:
                        started.set()

            async with sw.Run(budget=sw.Budget(max_tokens=900)) as run:
                task = asyncio.create_task(reader())
                await started.wait()
                task.cancel()
                await asyncio.wait([task])
                return run.held, run.total

    held, total = asyncio.run(scenario())
    assert held == sw.Usage()
    assert total.estimated_calls == 1
    assert total.total_tokens > 0


def test_the_client_given_stays_as_it_was(server):
    """`guard` leaves the client that it was given unguarded, and guarding twice reserves once."""
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as plain:
        guarded = sw.guard(sw.guard(plain))
        assert type(guarded) is openai.OpenAI
        with sw.Run() as run:
            ask(plain)
            assert run.total.calls == 0
            ask(guarded)
            assert run.total.calls == 1


def test_what_is_not_covered_is_refused(server, client):
    """An endpoint that costs money and is not guarded is refused, and nothing is sent."""
    with sw.Run(), pytest.raises(sw.PolicyViolationError, match="embeddings"):
        client.embeddings.create(model="m", input="hello")
    assert server.count == 0


def test_raw_and_parsed_replies_are_guarded_too(server, client):
    """`with_raw_response`, `with_streaming_response` and the `stream` helper go the same way."""
    with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
        raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=10)
        assert raw.parse().choices
        with client.chat.completions.with_streaming_response.create(
            model="m", messages=HELLO, max_tokens=10
        ) as response:
            assert response.parse().choices
        with client.chat.completions.stream(model="m", messages=HELLO, max_tokens=10) as stream:
            assert stream.get_final_completion().choices
    assert run.total.calls == server.count == 3
    assert (run.total.estimated_calls, run.held) == (0, sw.Usage())


def test_outside_every_scope_a_call_goes_through(server, client):
    """With no run anywhere the guard lets a call by as it is."""
    assert ask(client).choices
    assert server.requests[-1].body == {"model": "m", "messages": HELLO, "max_tokens": 10}


def test_other_things_cannot_be_guarded():
    """`guard` of anything else is a TypeError that says what it takes."""
    with pytest.raises(TypeError, match=r"openai\.OpenAI"):
        sw.guard(object())
