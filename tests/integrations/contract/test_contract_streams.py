"""The contract, 4: streams are asked for usage, shown as they would be, and settled however they end."""

import asyncio
import contextlib
import gc

import pytest

import stepwarden as sw
from stepwarden.testing import Cut, Reply
from tests.integrations.contract.face import PRICES, play
from tests.integrations.contract.faces import FACES

LONG = Reply(text="word " * 30, chunk_delay=0.002)
"""Many pieces of text, one after the other."""


def test_the_caller_sees_what_it_would_see_unguarded(server, streaming):
    """Under a limit, the events and the text that arrive are those of an unguarded client; usage is the server's."""
    server.default = Reply(text="a longer reply")

    async def scenario():
        async with streaming.client(server, is_guarded=False) as plain:
            expected = [streaming.text(piece) async for piece in streaming.iterate(await streaming.start(plain))]
        async with streaming.client(server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
                seen = [streaming.text(piece) async for piece in streaming.iterate(await streaming.start(client))]
                assert run.held == sw.Usage()
        return run, expected, seen

    run, expected, seen = play(scenario)
    assert seen == expected
    assert (run.total.calls, run.total.estimated_calls) == (1, 0)
    assert run.total.output_tokens * 2 == server.usage.output_tokens


async def leave_by_break(face, stream, said):
    """Read a piece of text and go away, as most people do; the garbage collector closes what is left."""
    async for piece in face.iterate(stream):
        said.append(face.text(piece))
        if said[-1]:
            break
    del stream, piece
    for _ in range(100):
        gc.collect()
        await asyncio.sleep(0.01)
        if sw.current_run().held == sw.Usage():
            break


async def leave_by_close(face, stream, said):
    """Read a piece of text and close."""
    async for piece in face.iterate(stream):
        said.append(face.text(piece))
        if said[-1]:
            break
    await face.close(stream)


async def leave_by_error(face, stream, said):
    """Fail while reading, in a block that closes."""
    with pytest.raises(LookupError):
        try:
            async for piece in face.iterate(stream):
                said.append(face.text(piece))
                if said[-1]:
                    raise LookupError
        finally:
            await face.close(stream)


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_close, leave_by_error])
@pytest.mark.parametrize("limit", [{"max_usd": 5_000}, {"max_calls": 5}], ids=lambda x: next(iter(x)))
def test_a_stream_that_is_left_is_settled_by_what_arrived(server, streaming, leave, limit):
    """Left early, a stream holds nothing any more; what arrived is counted as estimated, and is never nothing."""
    server.default = LONG

    async def scenario():
        async with streaming.client(server) as client:
            with sw.Run(budget=sw.Budget(**limit), prices=PRICES) as run:
                stream = await streaming.start(client, output=100)
                leaving = leave(streaming, stream, [])
                del stream
                await leaving
                del leaving
                assert run.held == run.uncertain == sw.Usage()
        return run.total

    total = play(scenario)
    assert total.calls == total.estimated_calls == 1
    assert total.input_tokens > 0 < total.output_tokens <= 100
    assert total.cost_usd == total.input_tokens + 2 * total.output_tokens


def test_a_stream_that_is_cut_is_counted_from_what_arrived(server, streaming):
    """A connection that breaks in the middle settles what had come."""
    server.default = Cut(LONG, after_chunks=9)

    async def scenario():
        async with streaming.client(server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                with pytest.raises(streaming.errors):
                    await streaming.ask(client, output=100)
                assert run.held == run.uncertain == sw.Usage()
        return run.total

    total = play(scenario)
    assert total.calls == total.estimated_calls == 1
    assert 0 < total.output_tokens < 38


def test_a_stream_without_usage_is_estimated_and_never_nothing(server, streaming):
    """A server that reports no usage has its text counted, with a margin, and marked as estimated."""
    server.default = Reply(text="word " * 30, include_usage=False)

    async def scenario():
        async with streaming.client(server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                with pytest.raises(AttributeError) if streaming.needs_usage else contextlib.nullcontext():
                    await streaming.ask(client, output=200)
        return run.total

    total = play(scenario)
    served = server.usage.output_tokens
    assert served <= total.output_tokens <= 2 * served
    assert (total.calls, total.estimated_calls) == (1, 1)


def test_a_cancelled_reader_settles_its_stream(server, awaited_stream):
    """Cancelled in the middle of a stream, the call is settled by what arrived and nothing stays held."""
    server.default = Reply(text="word " * 200, chunk_delay=0.005)

    async def scenario():
        async with awaited_stream.client(server) as client:
            started = asyncio.Event()

            async def reader():
                async for piece in awaited_stream.iterate(await awaited_stream.start(client, output=300)):
                    if awaited_stream.text(piece):
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
    assert 0 < total.output_tokens < 300


def test_a_stream_closed_unread_is_uncertain(server, streaming):
    """Nobody knows what a stream cost that was closed before anything of it was read."""
    server.default = LONG

    async def scenario():
        async with streaming.client(server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=500)) as run:
                stream = await streaming.start(client)
                await streaming.close(stream)
                assert run.held == sw.Usage()
        return run

    run = play(scenario)
    assert run.total.calls == run.total.estimated_calls == 1
    assert run.uncertain.output_tokens == (0 if streaming.reads_ahead else 20)


def test_a_stream_is_ended_at_max_seconds_and_its_error_carries_the_text(server, ending, clock):
    """When `max_seconds` is over, the stream ends with our error; what was received is settled and on `partial`."""
    server.default = LONG

    async def scenario():
        said = []
        async with ending.client(server) as client:
            with sw.Run(budget=sw.Budget(max_seconds=600)) as run:
                with pytest.raises(sw.BudgetExceededError) as caught:
                    async for piece in ending.iterate(await ending.start(client, output=100)):
                        said.append(ending.text(piece))
                        if "".join(said).startswith("word word"):
                            clock.advance(601)
                assert (run.held, run.uncertain) == (sw.Usage(), sw.Usage())
        return run.total, "".join(said), caught.value

    total, said, error = play(scenario)
    assert (error.limit, error.phase, error.reason) == ("max_seconds", "deadline", "deadline")
    assert said.startswith("word word")
    assert error.partial.startswith(said)
    assert len(error.partial) < 150
    assert (total.calls, total.estimated_calls) == (1, 1)


# One of each kind of client: it takes as long as the limit is.
CANCELLED = [
    face
    for face in FACES
    if face.is_async and face.streams and face.ends_streams and not face.is_installed and "beta" not in face.name
]


@pytest.mark.parametrize("face", CANCELLED, ids=str)
def test_a_scope_whose_own_timeout_cancels_the_reader_keeps_the_text(server, face):
    """A block's time-out cancels what it waits for, in whatever framework; its error carries what had been received."""

    async def scenario():
        said = []
        async with face.client(server) as client:
            # The first call in a run loads what takes a while, as the prices are.
            with sw.Run():
                await face.ask(client)
            server.default = Reply(text="word " * 400, chunk_delay=0.01)
            async with sw.Run() as run:
                with pytest.raises(sw.BudgetExceededError) as caught:
                    async with sw.step("s", budget=sw.Budget(max_seconds=0.7)):
                        async for piece in face.iterate(await face.start(client, output=500)):
                            said.append(face.text(piece))  # noqa: PERF401 - each counts, until it breaks off
        return run, "".join(said), caught.value

    run, said, error = play(scenario)
    assert (error.limit, error.phase, error.reason) == ("max_seconds", "deadline", "deadline")
    assert said.startswith("word word")
    assert error.partial.startswith(said)
    assert (run.total.calls, run.total.estimated_calls) == (1, 1)
    assert (run.held, run.uncertain) == (sw.Usage(), sw.Usage())


@pytest.mark.parametrize("output", [100, 20], ids=["whole", "cut"])
def test_a_stream_that_has_all_arrived_is_not_ended(server, streaming, clock, output):
    """What is complete is given to the caller, though `max_seconds` is over before the last of it is read."""
    server.default = Reply(text="word " * 30)

    async def scenario():
        async with streaming.client(server) as client:
            with sw.Run(budget=sw.Budget(max_seconds=600)) as run:
                stream = await streaming.start(client, output=output)
                said = []
                async for piece in streaming.iterate(stream):
                    said.append(streaming.text(piece))
                    clock.advance(601)
        return run.total.calls, "".join(said)

    calls, said = play(scenario)
    assert calls == 1
    assert said.rstrip() == " ".join(["word"] * (30 if output == 100 else 16))
