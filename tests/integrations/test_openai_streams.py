"""Streams of the OpenAI SDK under the guard: asked for usage, and settled however they end."""

import asyncio
import contextlib
import gc
import json

import openai
import pytest

import stepwarden as sw
from stepwarden.testing import Cut, Garbage, Reply, ToolCall
from stepwarden.testing._loopback import LoopbackServer
from tests.integrations.faces import HELLO, PRICES, ask, connected, done, guarded, pieces, play, read_out

LONG = Reply(text="word " * 40, chunk_delay=0.005)
"""Fifty chunks of text, one after the other."""


@pytest.mark.parametrize(
    ("options", "is_shown"),
    [({}, False), ({"include_usage": False}, False), ({"include_usage": True}, True)],
    ids=["unsaid", "unwanted", "wanted"],
)
def test_the_usage_chunk_is_shown_only_to_who_asked_for_it(server, kind, options, is_shown):
    """Every stream is asked for usage and settled by it; the chunk that only carries it is the caller's own wish."""
    server.default = Reply(text="a longer reply", input_tokens=5, output_tokens=4)
    given = {"stream_options": options} if options else {}

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
                chunks = await read_out(await ask(client, stream=True, **given))
                assert run.held == sw.Usage()
        return run, chunks

    run, chunks = play(scenario)
    assert server.requests[0].body["stream_options"] == {"include_usage": True}
    assert [chunk.usage is not None for chunk in chunks if not chunk.choices] == [True] * is_shown
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "a longer reply"
    assert run.total == sw.Usage(input_tokens=5, output_tokens=4, calls=1, unpriced_calls=1)


async def leave_by_break(stream):
    """Read two chunks and go away, as most people do; the garbage collector closes what is left."""
    async for chunk in pieces(stream):
        if chunk.choices[0].delta.content:
            break
    del stream, chunk
    for _ in range(100):
        gc.collect()
        await asyncio.sleep(0.01)
        if sw.current_run().held == sw.Usage():
            break


async def leave_by_close(stream):
    """Read two chunks and close."""
    async for chunk in pieces(stream):
        if chunk.choices[0].delta.content:
            break
    await done(stream.close())


async def leave_by_error(stream):
    """Fail while reading."""
    with pytest.raises(LookupError):
        if hasattr(stream, "__aenter__"):
            async with stream:
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        raise LookupError
        else:
            with stream:
                for chunk in stream:
                    if chunk.choices[0].delta.content:
                        raise LookupError


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_close, leave_by_error])
@pytest.mark.parametrize(
    "limit", [{"max_tokens": 500}, {"max_usd": 5_000}, {"max_calls": 5}], ids=lambda x: next(iter(x))
)
def test_a_stream_that_is_left_is_settled_at_once_by_what_arrived(server, kind, leave, limit):
    """Left early, a stream holds nothing any more; what arrived is counted as estimated, and is never nothing."""
    server.default = LONG

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(**limit), prices=PRICES) as run, sw.step("s") as step:
                stream = await ask(client, stream=True, max_tokens=100)
                leaving = leave(stream)
                del stream
                await leaving
                del leaving
                held, own = step.held, step.own
        return run, held, own

    run, held, own = play(scenario)
    assert held == run.uncertain == sw.Usage()
    assert own.calls == own.estimated_calls == 1
    assert own.input_tokens > 0 < own.output_tokens <= 50
    assert own.cost_usd == own.input_tokens + 2 * own.output_tokens


@pytest.mark.parametrize("after", [1, 3], ids=["role", "text"])
def test_a_stream_that_is_cut_is_counted_from_what_arrived(server, kind, after):
    """A connection that breaks in the middle settles what had come, of a chunk without text still one token."""
    server.default = Cut(Reply(text="word " * 40), after_chunks=after)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                with pytest.raises(openai.APIError):
                    await read_out(await ask(client, stream=True, max_tokens=100))
                assert run.held == sw.Usage()
        return run

    run = play(scenario)
    assert run.total.estimated_calls == run.total.calls == 1
    assert (run.total.output_tokens == 1) == (after == 1)
    assert run.uncertain == sw.Usage()


def test_a_stream_that_is_cut_after_its_usage_is_settled_by_it(server, kind):
    """What has reported its usage is known, whatever becomes of the connection."""
    server.default = Cut(Reply(input_tokens=5, output_tokens=4), after_chunks=999)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run, pytest.raises(openai.APIError):
                await read_out(await ask(client, stream=True))
        return run

    total = play(scenario).total
    assert (total.input_tokens, total.output_tokens, total.estimated_calls) == (5, 4, 0)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(text="word " * 40, include_usage=False),
        Reply(text="", tool_calls=[ToolCall("find", {"what": "a needle"})], include_usage=False),
    ],
    ids=["text", "tool call"],
)
def test_a_server_that_reports_no_usage_is_estimated(server, kind, reply):
    """A stream that ends without usage is counted from its text and its tool calls, and marked as estimated."""
    server.default = reply

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                await read_out(await ask(client, stream=True, max_tokens=200))
        return run.total

    total = play(scenario)
    served = server.usage.output_tokens
    assert served <= total.output_tokens <= 2 * served
    assert (total.calls, total.estimated_calls) == (1, 1)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_an_estimate_does_not_pass_the_limit_that_was_sent(server, kind, streams):
    """Without usage, a reply that fills its limit counts as that limit: an estimate's margin is no overshoot."""
    server.default = Reply(text="word " * 400, include_usage=False)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=30)) as run, sw.step("s", budget=sw.Budget(max_tokens=90)):
                reply = await ask(client, stream=streams, max_tokens=30)
                if streams:
                    await read_out(reply)
        return run

    run = play(scenario)
    assert run.total.output_tokens == 30
    assert run.receipts[0].overshoot == sw.Usage()


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_reply_that_does_not_obey_its_limit_is_counted_in_full(server, kind, streams):
    """Where far more arrives than was asked for, that is no margin: it is counted, and shown as overshoot."""
    said = {"role": "assistant", "content": "word " * 400}
    choice = {"index": 0, "finish_reason": "stop", "message": said, "delta": said}
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    server.default = Garbage(json.dumps(reply).encode())

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run() as run, sw.step("s", budget=sw.Budget(max_output_tokens=10)):
                reply = await ask(client, stream=streams)
                if streams:
                    await read_out(reply)
        return run

    run = play(scenario)
    assert run.receipts[0].overshoot.output_tokens == run.total.output_tokens - 10 > 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": "chatcmpl-',
        b'{"error": {"message": "overloaded"}}',
        b'{"choices": 5}',
        b'{"usage": [], "choices": null}',
    ],
    ids=["torn", "error", "number", "null"],
)
def test_a_stream_that_says_nothing_readable_is_uncertain(server, kind, body):
    """An event that is no chunk of a reply raises nothing of ours, charges the input and sets the output aside."""
    server.default = Garbage(body)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run, sw.step("s"):
                stream = await ask(client, stream=True)
                with contextlib.suppress(openai.APIError, ValueError):
                    await read_out(stream)
                await done(stream.close())
                assert run.held == sw.Usage()
        return run

    run = play(scenario)
    assert (run.total.calls, run.total.output_tokens) == (1, 0)
    assert run.uncertain.output_tokens == 10


def test_a_stream_closed_unread_is_uncertain(server, kind):
    """Nobody knows what a stream cost that was closed before anything of it was read."""
    server.default = LONG

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                stream = await ask(client, stream=True)
                await done(stream.close())
                await done(stream.close())
                assert run.held == sw.Usage()
        return run

    run = play(scenario)
    assert (run.total.calls, run.uncertain.output_tokens) == (1, 10)


def test_bytes_read_past_the_guard_leave_the_call_uncertain(server):
    """Raw bytes are not decoded for the guard, so what was read that way is set aside as unknown."""
    with (
        openai.OpenAI(base_url=server.base_url, api_key="none") as plain,
        sw.Run(budget=sw.Budget(max_tokens=99)) as run,
    ):
        with sw.guard(plain).chat.completions.with_streaming_response.create(
            model="m", messages=HELLO, max_tokens=10
        ) as response:
            assert b"".join(response.http_response.iter_raw())
        assert run.uncertain.output_tokens == 10


def test_what_is_read_in_one_go_is_filtered_and_settled_too(server):
    """`read()`, `iter_lines()` and `iter_text()` of a streamed response show and settle what iterating does."""
    server.default = Reply(input_tokens=5, output_tokens=4)
    with (
        openai.OpenAI(base_url=server.base_url, api_key="none") as plain,
        sw.Run(budget=sw.Budget(max_tokens=999)) as run,
    ):
        said = []
        for read in (
            lambda response: response.read().decode(),
            lambda response: "".join(response.iter_text()),
            lambda response: "\n".join(response.iter_lines()),
            lambda response: b"".join(response.iter_bytes()).decode(),
        ):
            with sw.guard(plain).chat.completions.with_streaming_response.create(
                model="m", messages=HELLO, max_tokens=10, stream=True
            ) as response:
                said.append(read(response))
    assert all("[DONE]" in text and "prompt_tokens" not in text for text in said)
    assert run.total == sw.Usage(input_tokens=20, output_tokens=16, calls=4, unpriced_calls=4)


def test_a_cancelled_reader_settles_its_stream(server):
    """Cancelled in the middle of a stream, the call is settled by what arrived and nothing stays held."""
    server.default = Reply(text="word " * 200, chunk_delay=0.005)

    async def scenario():
        async with guarded(openai.AsyncOpenAI, server) as client:
            started = asyncio.Event()

            async def reader():
                async with await ask(client, stream=True, max_tokens=300) as stream:
                    async for chunk in stream:
                        if chunk.choices[0].delta.content:
                            started.set()

            async with sw.Run(budget=sw.Budget(max_tokens=900)) as run:
                task = asyncio.create_task(reader())
                await started.wait()
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                return run.held, run.uncertain, run.total

    held, uncertain, total = play(scenario)
    assert held == uncertain == sw.Usage()
    assert (total.calls, total.estimated_calls) == (1, 1)
    assert total.input_tokens > 0 < total.output_tokens < 300


def test_a_stream_that_outlives_its_step_is_charged_around_it(server, kind):
    """Read on after its step has ended, a stream goes to the run, marked late; the step's receipt stays."""
    server.default = Reply(input_tokens=5, output_tokens=4)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                with sw.step("s"):
                    stream = await ask(client, stream=True)
                assert run.held.output_tokens == 10
                await read_out(stream)
                assert run.held == sw.Usage()
        return run

    run = play(scenario)
    (receipt,) = run.receipts
    assert (receipt.own, receipt.open_holds) == (sw.Usage(), 1)
    assert (run.own.total_tokens, run.total.total_tokens) == (9, 9)


def test_a_stream_that_outlives_its_run_replaces_what_was_uncertain(server, kind):
    """At the run's end an unread stream is uncertain; read out later, its real numbers take that place."""
    server.default = Reply(input_tokens=5, output_tokens=4)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                stream = await ask(client, stream=True)
            assert run.uncertain.output_tokens == 10
            await read_out(stream)
        return run

    run = play(scenario)
    assert run.uncertain == sw.Usage()
    assert run.total == sw.Usage(input_tokens=5, output_tokens=4, calls=1, unpriced_calls=1)


def test_a_stream_of_several_choices_is_settled_once(server, kind):
    """The usage of a stream with `n` choices is that of them all."""
    server.default = Reply(text="some words", input_tokens=5, output_tokens=4)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                await read_out(await ask(client, stream=True, n=3))
        return run

    run = play(scenario)
    assert run.total == sw.Usage(input_tokens=5, output_tokens=12, calls=1, unpriced_calls=1)


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "Text/Event-Stream"])
def test_a_stream_by_any_other_name_is_a_stream(kind, content_type):
    """A server that calls its events something else, or nothing, is read as the SDK reads it."""
    reply = {"choices": [{"index": 0, "delta": {"content": "a"}}], "model": "m"}
    usage = {"choices": [], "model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 4}}
    events = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in (reply, usage)) + b"data: [DONE]\n\n"

    async def handle(request, connection):
        connection.start_stream({} if content_type is None else {"content-type": content_type})
        connection.send_chunk(events, last=True)

    server = LoopbackServer(handle)

    async def scenario():
        async with connected(kind, f"http://127.0.0.1:{server.port}/v1") as plain:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                chunks = await read_out(await ask(sw.guard(plain), stream=True))
        return run, chunks

    try:
        run, chunks = play(scenario)
    finally:
        server.close()
    assert len(chunks) == 1
    assert run.total == sw.Usage(input_tokens=5, output_tokens=4, calls=1, unpriced_calls=1)
