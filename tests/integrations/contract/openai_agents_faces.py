"""openai-agents: its two models of OpenAI, streamed and not, from a guarded provider."""

import contextlib
from dataclasses import dataclass

import httpx2
import openai
from agents import ModelSettings, ModelTracing, OpenAIProvider
from agents.exceptions import ModelBehaviorError

import stepwarden as sw
from stepwarden.integrations.openai_agents import GuardedProvider
from tests.integrations.contract.face import QUESTION, Face


class Opened:
    """Be a stream of which the first event was read: the SDK's are opened by that."""

    def __init__(self, source, first):
        self.source = source
        self.first = first

    async def close(self):
        """Leave the stream."""
        await self.source.aclose()


@dataclass(frozen=True)
class OpenAIAgentsFace(Face):
    """Be one of its models."""

    uses_responses: bool = False

    sdk = None
    below = prefix = "openai"
    reads_ahead = True
    errors = (openai.OpenAIError, httpx2.HTTPError, ModelBehaviorError, ValueError)

    @contextlib.asynccontextmanager
    async def client(self, server, *, is_guarded=True, is_guarded_below=False, **options):
        """Give the provider, or the guarded one."""
        address = server if isinstance(server, str) else server.base_url
        async with openai.AsyncOpenAI(
            base_url=address,
            api_key="none",
            http_client=openai.DefaultAsyncHttpxClient(verify=False),
            **{"max_retries": 0, **options},
        ) as client:
            asked = sw.guard(client) if is_guarded_below else client
            provider = OpenAIProvider(openai_client=asked, use_responses=self.uses_responses)
            yield GuardedProvider(provider) if is_guarded else provider

    async def start(self, client, *, model="m", output=20):
        """Send the question."""
        asked = client.get_model(model)
        given = {
            "system_instructions": None,
            "input": QUESTION,
            "model_settings": ModelSettings(max_tokens=output),
            "tools": [],
            "output_schema": None,
            "handoffs": [],
            "tracing": ModelTracing.DISABLED,
            "previous_response_id": None,
            "conversation_id": None,
            "prompt": None,
        }
        if not self.streams:
            return await asked.get_response(**given)
        source = aiter(asked.stream_response(**given))
        return Opened(source, await anext(source))

    def pieces(self, stream):
        """Return the events of the stream."""

        async def events():
            yield stream.first
            try:
                async for event in stream.source:
                    yield event
            except ModelBehaviorError as error:
                # The SDK calls a reply that was cut by its limit an error, after all of it was shown.
                if "response.incomplete" not in str(error):
                    raise

        return events()

    def text(self, piece):
        """Return the text of a response, or of an event."""
        if self.streams:
            return piece.delta if piece.type == "response.output_text.delta" else ""
        return "".join(part.text for item in piece.output if item.type == "message" for part in item.content)

    def limit_in(self, body):
        """Return the limit under whichever name."""
        names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        return next((body[name] for name in names if name in body), None)


class ResponsesFace(OpenAIAgentsFace):
    """Its model of the Responses API."""

    min_output = 16


def _faces():
    for streams in (False, True):
        end = "stream" if streams else "whole"
        yield OpenAIAgentsFace(f"openai-agents-chat-{end}", is_async=True, streams=streams)
        yield ResponsesFace(f"openai-agents-responses-{end}", is_async=True, streams=streams, uses_responses=True)


FACES = tuple(_faces())
"""The faces that keep the contract."""
