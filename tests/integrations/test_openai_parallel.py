"""Parallel callers of a guarded client share one budget: never over it, and it is used up."""

import asyncio
import random
import threading

import openai
import pytest

import stepwarden as sw
from stepwarden.integrations._input import CHAT, Conversation
from stepwarden.testing import Failure, Reply
from tests.integrations.faces import HELLO, PRICES, ask, done, guarded, pieces, play, read_out

INPUT = Conversation({"messages": HELLO}, CHAT).likely()
OUTPUT = 40
WORST = {"max_tokens": INPUT + OUTPUT, "max_output_tokens": OUTPUT, "max_usd": INPUT + 2 * OUTPUT}
LIMITS = [(name, 40 * worst) for name, worst in WORST.items()]


@pytest.fixture
def served(server):
    """Serve replies that use 10 to 100 % of what they may."""
    chance = random.Random(7)
    server.default = lambda request: Reply(
        text="", input_tokens=INPUT, output_tokens=chance.randint(OUTPUT // 10, OUTPUT)
    )
    return server


def spent(run, name):
    """Tell what a run spent of a limit."""
    total = run.total
    return {"max_tokens": total.total_tokens, "max_output_tokens": total.output_tokens, "max_usd": total.cost_usd}[name]


def check(run, name, limit, server):
    """The limit is not passed and at least 95 % used; the server counted the same; nothing stays held."""
    assert limit * 0.95 <= spent(run, name) <= limit
    assert run.total.calls == server.count
    assert (run.total.input_tokens, run.total.output_tokens) == (server.usage.input_tokens, server.usage.output_tokens)
    assert (run.held, run.uncertain, run.total.estimated_calls) == (sw.Usage(), sw.Usage(), 0)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("name", "limit"), LIMITS)
def test_sixty_four_tasks_use_up_a_limit_and_never_pass_it(served, name, limit, streams):
    """64 tasks that call until they are refused spend at least 95 % of the limit, and not a token more than all."""

    async def scenario():
        async with guarded(openai.AsyncOpenAI, served) as client:

            async def caller():
                with sw.step("caller", error_boundary="continue"):
                    while True:
                        reply = await ask(client, max_tokens=OUTPUT, stream=streams)
                        if streams:
                            await read_out(reply)

            async with sw.Run(budget=sw.Budget(**{name: limit}), prices=PRICES) as run:
                results = await asyncio.gather(*(caller() for _ in range(64)), return_exceptions=True)
            assert all(isinstance(result, sw.BudgetExceededError) for result in results)
            assert {result.reason for result in results} == {"no_room"}
        return run

    check(asyncio.run(scenario()), name, limit, served)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("name", "limit"), LIMITS)
def test_thirty_two_threads_use_up_a_limit_and_never_pass_it(served, name, limit, streams):
    """32 threads that call until they are refused spend at least 95 % of the limit, and not a token more than all."""
    refusals = []

    def caller(client):
        try:
            while True:
                reply = client.chat.completions.create(model="m", messages=HELLO, max_tokens=OUTPUT, stream=streams)
                if streams:
                    list(reply)
        except sw.BudgetExceededError as error:
            refusals.append(error.reason)

    with openai.OpenAI(base_url=served.base_url, api_key="none", max_retries=0) as plain:
        client = sw.guard(plain)
        with sw.Run(budget=sw.Budget(**{name: limit}), prices=PRICES) as run:
            threads = [threading.Thread(target=sw.propagate(caller), args=(client,)) for _ in range(32)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert refusals == ["no_room"] * 32
    check(run, name, limit, served)


def test_a_limit_of_calls_is_met_exactly(served):
    """64 tasks under a limit of 50 calls make 50, whatever comes back."""

    async def scenario():
        async with guarded(openai.AsyncOpenAI, served) as client:
            async with sw.Run(budget=sw.Budget(max_calls=50)) as run:
                results = await asyncio.gather(*(ask(client) for _ in range(64)), return_exceptions=True)
        assert sum(isinstance(result, sw.BudgetExceededError) for result in results) == 14
        return run

    assert asyncio.run(scenario()).total.calls == served.count == 50


def test_what_fails_in_parallel_never_lets_a_limit_be_passed(server):
    """With failures of every kind among 64 callers, spent and uncertain together stay within the limit."""
    chance = random.Random(11)

    def reply(request):
        kind = chance.random()
        if kind < 0.1:
            return Failure(429, retry_after=0.01)
        if kind < 0.2:
            return Failure(500, retry_after=0.01)
        return Reply(text="", input_tokens=INPUT, output_tokens=chance.randint(4, OUTPUT))

    server.default = reply
    limit = 60 * WORST["max_tokens"]

    async def scenario():
        async with guarded(openai.AsyncOpenAI, server, max_retries=2) as client:

            async def caller():
                while True:
                    try:
                        await ask(client, max_tokens=OUTPUT)
                    except openai.APIStatusError:
                        continue

            async with sw.Run(budget=sw.Budget(max_tokens=limit)) as run:
                results = await asyncio.gather(*(caller() for _ in range(64)), return_exceptions=True)
            assert all(isinstance(result, sw.BudgetExceededError) for result in results)
        return run

    run = asyncio.run(scenario())
    assert limit * 0.95 <= run.total.total_tokens + run.uncertain.total_tokens <= limit
    assert server.usage.input_tokens + server.usage.output_tokens <= run.total.total_tokens
    assert run.uncertain.output_tokens == run.total.estimated_calls * OUTPUT > 0
    assert run.held == sw.Usage()


def test_a_call_inside_an_open_stream_does_not_wait_for_it(server, kind):
    """Whoever holds a stream open gets what is free now for another call, or is refused; nobody hangs."""
    server.default = Reply(text="word " * 40, chunk_delay=0.005)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=100)) as run:
                stream = await ask(client, stream=True, max_tokens=96)
                await ask(client, max_tokens=50)
                clamped = server.requests[-1].body["max_tokens"]
                with pytest.raises(sw.BudgetExceededError) as caught:
                    async for _ in pieces(stream):
                        await ask(client, max_tokens=50, n=9)
                await done(stream.close())
                assert run.held == sw.Usage()
        return clamped, caught.value

    clamped, error = play(scenario)
    assert clamped == 4
    assert (error.reason, server.count) == ("would_deadlock", 2)
