"""One way to write a scenario for both faces of the SDK: what the async one awaits, the sync one has at once."""

import asyncio
import contextlib
import inspect

import openai

import stepwarden as sw

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000, "cache_read": 250_000}}
"""One dollar for an input token, two for an output token and a quarter for a cached one, so that sums can be read."""
HELLO = [{"role": "user", "content": "hello"}]


def play(scenario):
    """Run a scenario to its end."""
    return asyncio.run(scenario())


async def done(value):
    """Return a result, awaited where it must be."""
    return await value if inspect.isawaitable(value) else value


async def ask(client, **request):
    """Send one small request."""
    return await done(client.chat.completions.create(**{"model": "m", "messages": HELLO, "max_tokens": 10, **request}))


async def pieces(stream):
    """Iterate over a stream of either face."""
    if hasattr(stream, "__aiter__"):
        async for piece in stream:
            yield piece
    else:
        for piece in stream:
            yield piece


async def read_out(stream):
    """Read a stream to its end."""
    return [piece async for piece in pieces(stream)]


@contextlib.asynccontextmanager
async def connected(kind, address, **options):
    """Open a plain client that does not retry."""
    http = openai.DefaultAsyncHttpxClient if issubclass(kind, openai.AsyncOpenAI) else openai.DefaultHttpxClient
    # Nothing here is encrypted, and loading certificates takes longer than all else.
    options = {"max_retries": 0, "http_client": options.get("http_client") or http(verify=False), **options}
    client = kind(base_url=address, api_key="none", **options)
    try:
        yield client
    finally:
        await done(client.close())


@contextlib.asynccontextmanager
async def guarded(kind, server, **options):
    """Open a guarded client that does not retry."""
    async with connected(kind, server.base_url, **options) as plain:
        yield sw.guard(plain)
