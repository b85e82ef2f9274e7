"""LangChain: chat models of both SDKs, sync and async, streamed and not, in guarded copies."""

import asyncio
import contextlib
from dataclasses import dataclass

import anthropic
import httpx2
import openai
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI

import stepwarden as sw
from stepwarden.integrations.langchain import StepModel, guarded
from tests.integrations.contract.face import QUESTION, Face, done


class Opened:
    """Be a stream of which the first piece was read: LangChain's are opened by that."""

    def __init__(self, source, first):
        self.source = source
        self.first = first

    async def close(self):
        """Leave the stream; LangChain's async generators leave those within to the loop, which closes them in its turns."""
        if not hasattr(self.source, "aclose"):
            self.source.close()
            return
        await self.source.aclose()
        for _ in range(1_000):
            if sw.current_run().held == sw.Usage():
                return
            await asyncio.sleep(0)


@dataclass(frozen=True)
class LangChainFace(Face):
    """Be one of its chat models."""

    sdk = None
    below = prefix = "openai"
    reads_ahead = True
    errors = (openai.OpenAIError, anthropic.AnthropicError, httpx2.HTTPError, ValueError)
    options = {}  # noqa: RUF012 - of the class, and not of a face

    @contextlib.asynccontextmanager
    async def client(self, server, *, is_guarded=True, is_guarded_below=False, **options):
        """Give what makes a chat model of a name, or the step's own of no name."""
        address = server if isinstance(server, str) else server.base_url
        http, http_async = openai.DefaultHttpxClient(verify=False), openai.DefaultAsyncHttpxClient(verify=False)

        def make(name):
            given = {"max_retries": 0, **options}
            made = self.make(name.partition(":")[2] or name, address, http, http_async, given)
            return guarded(made) if is_guarded_below else made

        def model(name):
            chosen = StepModel(resolve=make) if name is None else make(name)
            return guarded(chosen) if is_guarded else chosen

        with http:
            async with http_async:
                yield model

    def make(self, name, address, http, http_async, options):
        """Make a chat model."""
        return ChatOpenAI(
            model=name, base_url=address, api_key="none", http_client=http, http_async_client=http_async,
            **self.options, **options,
        )  # fmt: skip

    async def start(self, client, *, model="m", output=20):
        """Send the question."""
        limit = {} if output is None else {"max_tokens": output}
        asked = client(model)
        if not self.streams:
            return await done((asked.ainvoke if self.is_async else asked.invoke)(QUESTION, **limit))
        source = (asked.astream if self.is_async else asked.stream)(QUESTION, **limit)
        return Opened(source, await anext(source) if self.is_async else next(source))

    def pieces(self, stream):
        """Return the pieces of the stream."""

        async def pieces():
            yield stream.first
            async for piece in stream.source:
                yield piece

        def at_once():
            yield stream.first
            yield from stream.source

        return pieces() if self.is_async else at_once()

    def text(self, piece):
        """Return the text of a message, or of a piece of one."""
        return piece.text

    def limit_in(self, body):
        """Return the limit under whichever name."""
        names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        return next((body[name] for name in names if name in body), None)


class ResponsesFace(LangChainFace):
    """Its model of OpenAI's Responses API."""

    min_output = 16
    options = {"use_responses_api": True}  # noqa: RUF012


class AnthropicFace(LangChainFace):
    """Its model of Anthropic's messages."""

    below = prefix = "anthropic"
    names_limit = True

    def make(self, name, address, http, http_async, options):
        """Make a chat model whose clients are connected by ours."""
        model = ChatAnthropic(model=name, base_url=address.removesuffix("/v1"), api_key="none", **options)
        given = {"base_url": address.removesuffix("/v1"), "api_key": "none", **options}
        model.__dict__["_client"] = anthropic.Anthropic(http_client=http, **given)
        model.__dict__["_async_client"] = anthropic.AsyncAnthropic(http_client=http_async, **given)
        return model


def _faces():
    for streams in (False, True):
        end = "stream" if streams else "whole"
        yield LangChainFace(f"langchain-openai-sync-{end}", is_async=False, streams=streams)
        yield LangChainFace(f"langchain-openai-async-{end}", is_async=True, streams=streams)
        yield ResponsesFace(f"langchain-responses-async-{end}", is_async=True, streams=streams)
        yield AnthropicFace(f"langchain-anthropic-sync-{end}", is_async=False, streams=streams)
        yield AnthropicFace(f"langchain-anthropic-async-{end}", is_async=True, streams=streams)


FACES = tuple(_faces())
"""The faces that keep the contract."""
