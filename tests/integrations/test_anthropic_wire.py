"""How Anthropic's messages are read and priced: golden vectors of usage, thinking, and what each client sends."""

import json
from decimal import Decimal

import anthropic
import httpx2
import pytest

import stepwarden as sw
from stepwarden.integrations._messages import MessagesCall
from stepwarden.integrations._seam import Reported
from stepwarden.testing import Reply
from tests.integrations.contract.face import done, play

HELLO = [{"role": "user", "content": "hello"}]
# Made so that each rate shows in the sum: $1 input, $2 output, $0.25 read, $3 written.
PRICES = {"m": {"input": 1_000_000, "output": 2_000_000, "cache_read": 250_000, "cache_write": 3_000_000}}


@pytest.fixture(params=[anthropic.Anthropic, anthropic.AsyncAnthropic], ids=["sync", "async"])
def kind(request):
    """Give each face of the SDK in turn."""
    return request.param


@pytest.mark.parametrize(
    ("usage", "reported"),
    [
        ({"input_tokens": 5, "output_tokens": 3}, Reported("m", 5, 3)),
        (
            {
                "input_tokens": 5,
                "cache_read_input_tokens": 7,
                "cache_creation_input_tokens": 11,
                "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 4},
                "output_tokens": 3,
                "output_tokens_details": {"thinking_tokens": 2},
            },
            Reported("m", 23, 3, 7, 11, 4, 2),
        ),
        ({"input_tokens": 0, "cache_read_input_tokens": None, "output_tokens": 3}, Reported("m", 0, 3)),
        ({"output_tokens": 3}, Reported("m", None, 3)),
        ({"input_tokens": "5", "output_tokens": -3}, Reported("m")),
        (None, Reported("m")),
    ],
)
def test_a_reply_reports_what_its_usage_says(usage, reported):
    """Cache reads and writes are counted inside the input, and what cannot be read is not known, never 0."""
    body = json.dumps({"model": "m", "content": [], "usage": usage}).encode()
    read = MessagesCall({"model": "m"}).read(body)
    assert read == Reported(**{name: getattr(reported, name) for name in Reported.__slots__} | {"arrived_tokens": 1})


def test_each_kind_of_input_is_priced_once(server, kind):
    """Input, reads and writes have a price of their own each, and the sum is charged."""
    server.default = Reply(input_tokens=10, cached_tokens=4, cache_write_tokens=3, output_tokens=2)

    async def scenario():
        client = sw.guard(kind(base_url=server.origin, api_key="none", max_retries=0))
        with sw.Run(prices=PRICES) as run:
            await done(client.messages.create(model="m", max_tokens=9, messages=HELLO))
        await done(client.close())
        return run.total

    total = play(scenario)
    assert (total.input_tokens, total.cache_read_tokens, total.cache_write_tokens) == (10, 4, 3)
    assert total.cost_usd == 3 * 1 + 4 * Decimal("0.25") + 3 * 3 + 2 * 2


@pytest.mark.parametrize("own", [False, True], ids=["list", "own"])
def test_what_is_cached_for_an_hour_is_priced_as_such(server, kind, own):
    """The price for an hour's cache, of the list or of the user, applies to the part of the writes kept so long."""
    prices = {"claude-haiku-4-5": {"input": 1, "output": 5, "cache_write": "1.25", "cache_write_1h": 2}}
    server.default = Reply(
        usage={
            "input_tokens": 0,
            "cache_creation_input_tokens": 1_000_000,
            "cache_creation": {"ephemeral_1h_input_tokens": 400_000, "ephemeral_5m_input_tokens": 600_000},
            "output_tokens": 0,
        }
    )

    async def scenario():
        client = sw.guard(kind(base_url=server.origin, api_key="none", max_retries=0))
        with sw.Run(prices=prices if own else None) as run:
            await done(client.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO))
        await done(client.close())
        return run.total.cost_usd

    # $1 a million plain input; a write costs 1.25 times as much for five minutes, and twice as much for an hour.
    assert play(scenario) == Decimal("0.6") * Decimal("1.25") + Decimal("0.4") * 2


@pytest.mark.parametrize(
    ("request_", "least"),
    [
        ({}, 1),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, 1_025),
        ({"thinking": {"type": "adaptive"}}, 1),
        ({"thinking": {"type": "disabled"}}, 1),
    ],
)
def test_the_output_limit_leaves_room_to_think(request_, least):
    """The least limit is one more than the thinking budget, which the API demands."""
    assert MessagesCall(request_).min_output == least


def test_a_thinking_call_without_room_is_refused(server, kind):
    """Where the budget does not leave more than the model may think, nothing is sent."""

    async def scenario():
        client = sw.guard(kind(base_url=server.origin, api_key="none", max_retries=0))
        thinking = {"type": "enabled", "budget_tokens": 1_024}
        with sw.Run(budget=sw.Budget(max_output_tokens=1_024)), pytest.raises(sw.BudgetExceededError) as caught:
            await done(client.messages.create(model="m", max_tokens=4_096, messages=HELLO, thinking=thinking))
        await done(client.close())
        return caught.value

    assert play(scenario).requested == 1_025
    assert server.count == 0


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/complete", "/v1/sessions"])
def test_what_is_not_covered_is_refused_unless_allowed(server, path):
    """An endpoint that may cost money and is not covered is not sent; named in *allow*, it is, and counts nowhere."""
    with anthropic.Anthropic(base_url=server.origin, api_key="none", max_retries=0) as plain, sw.Run() as run:
        with pytest.raises(sw.PolicyViolationError, match=path) as refused:
            sw.guard(plain).post(path, body={}, cast_to=object)
        assert server.count == 0
        (name,) = [name for name in ("messages/batches", "complete", "sessions") if f"'{name}'" in str(refused.value)]
        with pytest.raises(anthropic.NotFoundError):
            sw.guard(plain, allow=[name]).post(path, body={}, cast_to=object)
        assert (server.count, run.total.calls) == (1, 0)


def test_batches_are_allowed_by_the_name_that_openais_have(server):
    """``allow=["batches"]`` means the batches of whichever SDK is guarded, so that `install` takes it for both."""
    with anthropic.Anthropic(base_url=server.origin, api_key="none", max_retries=0) as plain, sw.Run():
        guarded = sw.guard(plain, allow=["batches"])
        for batches in (guarded.messages.batches, guarded.beta.messages.batches):
            with pytest.raises(anthropic.NotFoundError):
                batches.create(requests=[])
        assert server.count == 2
        with pytest.raises(sw.PolicyViolationError):
            guarded.post("/v1/complete", body={}, cast_to=object)


def test_counting_tokens_goes_by(server, kind):
    """Counting costs nothing, so it is not reserved."""

    async def scenario():
        client = sw.guard(kind(base_url=server.origin, api_key="none", max_retries=0))
        with sw.Run(budget=sw.Budget(max_calls=0)):
            counted = await done(client.messages.count_tokens(model="m", messages=HELLO))
        await done(client.close())
        return counted.input_tokens

    assert play(scenario) == 2


def test_clients_of_other_clouds_are_guarded_before_they_rewrite(server):
    """Bedrock's client moves the model into the path: it is reserved before that, and the limit arrives."""
    seen = []

    def answer(request):
        seen.append((request.url.path, json.loads(request.content)))
        usage = {"input_tokens": 3, "output_tokens": 2}
        return httpx2.Response(200, json={"content": [], "model": "m", "usage": usage})

    client = sw.guard(
        anthropic.AnthropicBedrock(
            api_key="none",
            aws_region="nowhere",
            max_retries=0,
            http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
        )
    )
    with sw.Run(budget=sw.Budget(max_output_tokens=5), prices=PRICES) as run:
        client.messages.create(model="m", max_tokens=100, messages=HELLO)
    ((path, body),) = seen
    assert ("/model/m/invoke" in path, body["max_tokens"]) == (True, 5)
    assert (run.total.input_tokens, run.total.output_tokens, run.total.cost_usd) == (3, 2, 7)


def test_every_attempt_inside_middleware_is_reserved(server):
    """Middleware of the SDK's users stands around the guard, so that what it sends again is reserved again."""

    def twice(request, call_next):
        call_next(request)
        return call_next(request)

    with anthropic.Anthropic(base_url=server.origin, api_key="none", max_retries=0) as plain:
        client = sw.guard(plain).with_middleware(twice)
        with sw.Run() as run:
            client.messages.create(model="m", max_tokens=9, messages=HELLO)
    assert run.total.calls == server.count == 2
