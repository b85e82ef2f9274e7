"""The OpenAI SDK: its APIs, its two clients, streamed and not, guarded by `guard` or by `install`."""

import contextlib
import itertools
from dataclasses import dataclass

import openai

import stepwarden as sw
from tests.integrations.contract.face import QUESTION, Face, done

MESSAGES = [{"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class OpenAIFace(Face):
    """Be one API of the SDK."""

    sdk = "openai"
    errors = (openai.OpenAIError, ValueError)

    @contextlib.asynccontextmanager
    async def client(self, server, *, is_guarded=True, is_guarded_below=False, **options):
        """Open a client, guarded by one of the two ways."""
        kind = openai.AsyncOpenAI if self.is_async else openai.OpenAI
        http = openai.DefaultAsyncHttpxClient if self.is_async else openai.DefaultHttpxClient
        address = server if isinstance(server, str) else server.base_url
        # Nothing here is encrypted, and loading certificates takes longer than all else.
        client = kind(base_url=address, api_key="none", http_client=http(verify=False), **{"max_retries": 0, **options})
        # A client that is made before `install` is covered, too.
        if is_guarded and self.is_installed:
            sw.install("openai")
        client = sw.guard(client) if is_guarded_below else client
        try:
            yield sw.guard(client) if is_guarded and not self.is_installed else client
        finally:
            if is_guarded and self.is_installed:
                sw.uninstall("openai")
            await done(client.close())

    def given(self, **given):
        """Leave out what is not given."""
        streams = {"stream": True} if self.streams else {}
        return {**streams, **{name: value for name, value in given.items() if value is not None}}


class ChatFace(OpenAIFace):
    """Chat completions."""

    async def start(self, client, *, model="m", output=20):
        """Send the question; the SDK has no way to name no model but an empty one."""
        given = self.given(model=model or "", messages=MESSAGES, max_tokens=output)
        return await done(client.chat.completions.create(**given))

    def text(self, piece):
        """Return what the first choice says."""
        if not piece.choices:
            return ""
        said = piece.choices[0].delta if self.streams else piece.choices[0].message
        return said.content or ""

    def limit_in(self, body):
        """Return the limit under either name."""
        return body.get("max_tokens", body.get("max_completion_tokens"))


class CompletionsFace(OpenAIFace):
    """Legacy completions."""

    async def start(self, client, *, model="m", output=20):
        """Send the question; the SDK has no way to name no model but an empty one."""
        return await done(
            client.completions.create(**self.given(model=model or "", prompt=QUESTION, max_tokens=output))
        )

    def text(self, piece):
        """Return what the first choice says."""
        return piece.choices[0].text if piece.choices else ""

    def limit_in(self, body):
        """Return the limit."""
        return body.get("max_tokens")


class ResponsesFace(OpenAIFace):
    """The Responses API."""

    min_output = 16

    async def start(self, client, *, model="m", output=20):
        """Send the question."""
        return await done(client.responses.create(**self.given(model=model, input=QUESTION, max_output_tokens=output)))

    def text(self, piece):
        """Return the text of a response, or of an event."""
        if not self.streams:
            return piece.output_text
        return piece.delta if piece.type == "response.output_text.delta" else ""

    def limit_in(self, body):
        """Return the limit."""
        return body.get("max_output_tokens")


class EmbeddingsFace(OpenAIFace):
    """Embeddings, which have no output."""

    has_output = is_on_local_model = False

    async def start(self, client, *, model="m", output=None):
        """Send the text; the SDK has no way to name no model but an empty one."""
        return await done(client.embeddings.create(model=model or "", input=QUESTION, encoding_format="float"))

    def text(self, piece):
        """Return something that shows that a vector has come."""
        return "ok" if piece.data[0].embedding else ""

    def limit_in(self, body):
        """Return no limit: there is no output."""


def _faces():
    for is_async, streams in itertools.product((False, True), (False, True)):
        end = f"{'async' if is_async else 'sync'}-{'stream' if streams else 'whole'}"
        for kind, api in ((ChatFace, "chat"), (CompletionsFace, "completions"), (ResponsesFace, "responses")):
            yield kind(f"openai-{api}-{end}", is_async, streams)
        if not streams:
            yield EmbeddingsFace(f"openai-embeddings-{end}", is_async, streams)
        # What is installed is the same code in another place: one API shows it whole.
        yield ChatFace(f"openai-installed-{end}", is_async, streams, is_installed=True)


FACES = tuple(_faces())
