"""Streams that `max_seconds` ends: what was received is on the error, whichever clock it was that rang."""

import json

import openai
import pytest

import stepwarden as sw
from stepwarden.testing._loopback import LoopbackServer
from tests.integrations.faces import ask, connected, done, play, read_out

SECONDS = 0.8
"""Long enough for a request to be sent on a busy machine."""


async def warm(client):
    """Make one call beforehand: the first one imports what takes a while."""
    await done((await ask(client, stream=True)).close())


@pytest.fixture
def silent():
    """Serve a stream that says "one two" and then nothing any more."""

    async def handle(request, connection):
        connection.start_stream({"content-type": "text/event-stream"})
        for text in ("one ", "two"):
            chunk = {"choices": [{"index": 0, "delta": {"content": text}}], "model": "m", "object": "c"}
            connection.send_chunk(b"data: %s\n\n" % json.dumps(chunk).encode())

    server = LoopbackServer(handle)
    yield f"http://127.0.0.1:{server.port}/v1"
    server.close()


def check(run, error):
    """The error names the limit and carries the text; what arrived is settled as estimated."""
    assert (error.limit, error.phase, error.reason) == ("max_seconds", "deadline", "deadline")
    assert error.partial == "one two"
    assert (run.total.calls, run.total.estimated_calls, run.total.output_tokens) == (1, 1, 3)
    assert run.uncertain == run.held == sw.Usage()


def test_a_stream_that_falls_silent_is_ended(silent, kind):
    """A stream that says nothing any more is ended when the time is over, by the client's own read time-out."""

    async def scenario():
        async with connected(kind, silent) as plain:
            client = sw.guard(plain)
            await warm(client)
            with sw.Run(budget=sw.Budget(max_seconds=SECONDS)) as run, pytest.raises(sw.BudgetExceededError) as caught:
                await read_out(await ask(client, stream=True))
        return run, caught.value

    check(*play(scenario))


@pytest.mark.parametrize("is_step", [False, True], ids=["block", "step"])
def test_a_scope_whose_own_timeout_cancels_the_reader_keeps_the_text(silent, is_step):
    """A coroutine step's time-out cancels what it waits for; its error carries what the stream had received."""

    async def scenario():
        async with connected(openai.AsyncOpenAI, silent) as plain:
            client = sw.guard(plain)
            await warm(client)

            @sw.step(budget=sw.Budget(max_seconds=SECONDS))
            async def summarize():
                return await read_out(await ask(client, stream=True))

            async with sw.Run() as run:
                with pytest.raises(sw.BudgetExceededError) as caught:
                    if is_step:
                        await summarize()
                    else:
                        async with sw.step("block", budget=sw.Budget(max_seconds=SECONDS)):
                            await read_out(await ask(client, stream=True))
            return run, caught.value

    check(*play(scenario))


def test_the_clients_own_time_out_stays_its_own(silent, kind):
    """A client that gives up before `max_seconds` is over raises its own error; what arrived is settled."""

    async def scenario():
        async with connected(kind, silent, timeout=0.2) as plain:
            with sw.Run(budget=sw.Budget(max_seconds=600)) as run, pytest.raises(openai.APITimeoutError):
                await read_out(await ask(sw.guard(plain), stream=True))
        return run

    run = play(scenario)
    assert (run.total.estimated_calls, run.total.output_tokens, run.uncertain) == (1, 3, sw.Usage())
