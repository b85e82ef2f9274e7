"""pydantic-ai: models of both SDKs and one of its own, streamed and not, under the guarded model."""

import contextlib
from dataclasses import dataclass

import anthropic
import httpx2
import openai
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.exceptions import AgentRunError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

import stepwarden as sw
from stepwarden.integrations.pydantic_ai import GuardedModel, StepModel
from tests.integrations.contract.face import QUESTION, Face


class Opened:
    """Be a stream that was opened, to be read and closed like those of SDKs."""

    def __init__(self, context, streamed):
        self.context = context
        self.streamed = streamed

    async def close(self):
        """Leave the stream."""
        await self.context.__aexit__(None, None, None)


@dataclass(frozen=True)
class PydanticAIFace(Face):
    """Be one of its models."""

    kind: type = OpenAIChatModel

    sdk = None
    below = prefix = "openai"
    reads_ahead = True
    errors = (AgentRunError, openai.OpenAIError, anthropic.AnthropicError, httpx2.HTTPError, ValueError)

    @contextlib.asynccontextmanager
    async def client(self, server, *, is_guarded=True, is_guarded_below=False, **options):
        """Give what makes a model of a name, or the step's own of no name."""
        of_anthropic = self.kind is AnthropicModel
        address = server if isinstance(server, str) else server.base_url
        sdk = anthropic.AsyncAnthropic if of_anthropic else openai.AsyncOpenAI
        http = anthropic.DefaultAsyncHttpxClient if of_anthropic else openai.DefaultAsyncHttpxClient
        client = sdk(
            base_url=address.removesuffix("/v1") if of_anthropic else address,
            api_key="none",
            http_client=http(verify=False),
            **{"max_retries": 0, **options},
        )
        asked = sw.guard(client) if is_guarded_below else client
        provider = AnthropicProvider(anthropic_client=asked) if of_anthropic else OpenAIProvider(openai_client=asked)

        def make(name):
            return self.kind(name.partition(":")[2] or name, provider=provider)

        def model(name):
            chosen = StepModel(resolve=make) if name is None else make(name)
            return GuardedModel(chosen) if is_guarded else chosen

        async with client:
            yield model

    async def start(self, client, *, model="m", output=20):
        """Send the question."""
        from pydantic_ai.messages import ModelRequest

        asked = [ModelRequest.user_text_prompt(QUESTION)]
        settings = None if output is None else {"max_tokens": output}
        if not self.streams:
            return await model_request(client(model), asked, model_settings=settings)
        context = model_request_stream(client(model), asked, model_settings=settings)
        return Opened(context, await context.__aenter__())

    def pieces(self, stream):
        """Return the events of the stream, and leave it at their end."""

        async def events():
            try:
                async for event in stream.streamed:
                    yield event
            except BaseException as error:
                await stream.context.__aexit__(type(error), error, error.__traceback__)
                raise
            await stream.close()

        return events()

    def text(self, piece):
        """Return the text of a response, or of an event."""
        if not self.streams:
            return "".join(part.content for part in piece.parts if part.part_kind == "text")
        said = getattr(piece, "part", None) or getattr(piece, "delta", None)
        if getattr(piece, "event_kind", "") == "part_start":
            return said.content if said.part_kind == "text" else ""
        return getattr(said, "content_delta", None) or "" if getattr(piece, "event_kind", "") == "part_delta" else ""

    def limit_in(self, body):
        """Return the limit under whichever name."""
        names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        return next((body[name] for name in names if name in body), None)


class ResponsesFace(PydanticAIFace):
    """Its model of OpenAI's Responses API."""

    min_output = 16


class MessagesFace(PydanticAIFace):
    """Its model of Anthropic's messages."""

    below = prefix = "anthropic"
    needs_usage = True


def _faces():
    for streams in (False, True):
        end = "stream" if streams else "whole"
        yield PydanticAIFace(f"pydantic-ai-chat-{end}", is_async=True, streams=streams)
        yield ResponsesFace(f"pydantic-ai-responses-{end}", is_async=True, streams=streams, kind=OpenAIResponsesModel)
        yield MessagesFace(f"pydantic-ai-anthropic-{end}", is_async=True, streams=streams, kind=AnthropicModel)


FACES = tuple(_faces())
"""The faces that keep the contract."""
