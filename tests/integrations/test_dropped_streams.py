"""Streams that nobody reads on: dropped, they are settled at once, without the garbage collector."""

import asyncio
import gc

import anthropic
import openai
import pytest

import stepwarden as sw
from stepwarden.testing import Reply, ScriptedModel

MESSAGES = [{"role": "user", "content": "hi"}]
LONG = Reply(text="word " * 30, chunk_delay=0.002)
SDKS = {"openai": (openai.OpenAI, openai.AsyncOpenAI), "anthropic": (anthropic.Anthropic, anthropic.AsyncAnthropic)}


@pytest.fixture
def server():
    """Serve replies that take a while."""
    with ScriptedModel(default=LONG) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_collector():
    gc.disable()
    yield
    gc.enable()


def _client(sdk, server, *, is_async=False):
    made = SDKS[sdk][is_async]
    return made(api_key="none", base_url=server.base_url if sdk == "openai" else server.base_url.removesuffix("/v1"))


def _start(client, sdk):
    if sdk == "openai":
        return client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES, stream=True, max_tokens=40)
    return client.messages.create(model="claude-haiku-4-5", messages=MESSAGES, stream=True, max_tokens=40)


@pytest.mark.parametrize("by", ["guard", "install"])
@pytest.mark.parametrize("sdk", SDKS)
def test_a_loop_that_is_left_settles_the_stream_that_it_read(server, sdk, by):
    """Nothing is held after a `break` out of a loop over a stream that has no other name, and the next call has room."""
    client = _client(sdk, server)
    if by == "install":
        sw.install(sdk)
    else:
        client = sw.guard(client)
    try:
        with sw.Run(budget=sw.Budget(max_output_tokens=60)) as run:
            for _ in range(2):
                for piece in _start(client, sdk):
                    del piece
                    break
                assert run.held == sw.Usage()
            assert run.total.calls == run.total.estimated_calls == 2
    finally:
        sw.uninstall(sdk)
        client.close()


@pytest.mark.parametrize("sdk", SDKS)
def test_a_loop_of_a_coroutine_is_no_different(server, sdk):
    """An async stream that is dropped is settled as soon as the loop closes its generator."""

    async def scenario():
        async with sw.guard(_client(sdk, server, is_async=True)) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=60)) as run:
                async for piece in await _start(client, sdk):
                    del piece
                    break
                for _ in range(100):
                    if run.held == sw.Usage():
                        break
                    await asyncio.sleep(0.01)
                assert run.held == sw.Usage()
                assert run.total.calls == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("sdk", SDKS)
def test_a_loop_may_be_gone_on_with(server, sdk):
    """A stream that is kept is not closed by a `break`: the next loop reads on where the first one stopped."""
    with sw.guard(_client(sdk, server)) as client, sw.Run() as run:
        stream = _start(client, sdk)
        for _ in stream:
            break
        assert run.held.calls == 1
        assert sum(1 for _ in stream) > 20
        assert run.held == sw.Usage()
        assert run.total.calls == 1


def test_uninstall_gives_back_what_makes_streams():
    """After `uninstall`, the SDK makes its streams by itself."""
    before = {kind: dict(vars(kind)) for kind in SDKS["openai"]}
    sw.install("openai")
    assert any(dict(vars(kind)) != before[kind] for kind in before)
    sw.uninstall("openai")
    assert {kind: dict(vars(kind)) for kind in before} == before
