"""The Anthropic SDK: messages, by its two clients, streamed and not, beta too, guarded by `guard` or by `install`."""

import contextlib
import itertools
from dataclasses import dataclass

import anthropic
import httpx2

import stepwarden as sw
from tests.integrations.contract.face import QUESTION, Face, done

MESSAGES = [{"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class MessagesFace(Face):
    """Be the messages API."""

    is_beta: bool = False

    sdk = "anthropic"
    # A stream that breaks is told by the errors of the HTTP client below.
    errors = (anthropic.AnthropicError, httpx2.HTTPError, ValueError)
    names_limit = True

    @contextlib.asynccontextmanager
    async def client(self, server, *, is_guarded=True, is_guarded_below=False, **options):
        """Open a client, guarded by one of the two ways."""
        kind = anthropic.AsyncAnthropic if self.is_async else anthropic.Anthropic
        http = anthropic.DefaultAsyncHttpxClient if self.is_async else anthropic.DefaultHttpxClient
        address = server.removesuffix("/v1") if isinstance(server, str) else server.origin
        # Nothing here is encrypted, and loading certificates takes longer than all else.
        client = kind(base_url=address, api_key="none", http_client=http(verify=False), **{"max_retries": 0, **options})
        # A client that is made before `install` is covered, too.
        if is_guarded and self.is_installed:
            sw.install("anthropic")
        client = sw.guard(client) if is_guarded_below else client
        try:
            yield sw.guard(client) if is_guarded and not self.is_installed else client
        finally:
            if is_guarded and self.is_installed:
                sw.uninstall("anthropic")
            await done(client.close())

    async def start(self, client, *, model="m", output=20):
        """Send the question; the SDK has no way to name no model but an empty one, and none to name no limit."""
        messages = client.beta.messages if self.is_beta else client.messages
        streams = {"stream": True} if self.streams else {}
        limit = {"max_tokens": 0, "extra_body": {"max_tokens": None}} if output is None else {"max_tokens": output}
        return await done(messages.create(model=model or "", messages=MESSAGES, **limit, **streams))

    def text(self, piece):
        """Return the text of a message, or of an event."""
        if not self.streams:
            return "".join(block.text for block in piece.content if block.type == "text")
        return getattr(piece.delta, "text", "") if piece.type == "content_block_delta" else ""

    def limit_in(self, body):
        """Return the limit."""
        return body.get("max_tokens")


def _faces():
    for is_async, streams in itertools.product((False, True), (False, True)):
        end = f"{'async' if is_async else 'sync'}-{'stream' if streams else 'whole'}"
        yield MessagesFace(f"anthropic-messages-{end}", is_async, streams)
        yield MessagesFace(f"anthropic-beta-{end}", is_async, streams, is_beta=True)
        yield MessagesFace(f"anthropic-installed-{end}", is_async, streams, is_installed=True)


FACES = tuple(_faces())
"""The faces that keep the contract."""
