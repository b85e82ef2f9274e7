"""`guarded_call` around a client that nobody guards, and `llm_call`, which needs none."""

import contextlib
import itertools
from dataclasses import dataclass

import stepwarden as sw
from tests.integrations.contract.face import QUESTION, done
from tests.integrations.contract.openai_faces import MESSAGES, ChatFace
from tests.integrations.contract.pydantic_ai_faces import PydanticAIFace

INPUT = 30
"""The tokens that these users think their question has."""


def worst(*, model, max_tokens=None, **_):
    """Say what a call may cost at most; where no limit is named, the step's default is."""
    return {"model": model, "input_tokens": INPUT, "output_tokens": max_tokens}


def used(reply):
    """Say what a whole reply reports, or what all pieces of a stream do, or what arrived where they do not."""
    pieces = reply if isinstance(reply, list) else [reply]
    usage = next((piece.usage for piece in pieces if piece.usage is not None), None)
    if usage is None:
        said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        return {"arrived_tokens": max(1, len(said) // 3), "model": pieces[0].model}
    read, written = usage.prompt_tokens_details, usage.completion_tokens_details
    return {
        "model": pieces[0].model,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_read_tokens": (read.cached_tokens or 0) if read else 0,
        "reasoning_tokens": (written.reasoning_tokens or 0) if written else 0,
    }


class Opened:
    """Be a stream of which the first piece was read: a generator is opened by that."""

    def __init__(self, source, first):
        self.source = source
        self.first = first

    async def close(self):
        """Leave the stream."""
        await (self.source.aclose() if hasattr(self.source, "aclose") else done(self.source.close()))


@dataclass(frozen=True)
class GuardedCallFace(ChatFace):
    """Be a function of the user's own that asks."""

    sdk = None
    below = prefix = "openai"
    reads_ahead = True
    reserves_attempts = False
    ends_streams = False

    @contextlib.asynccontextmanager
    async def client(self, server, *, is_guarded=True, **options):
        """Give the function that asks, guarded or not."""
        async with super().client(server, is_guarded=False, **options) as plain:
            ask = self.function(plain)
            yield sw.guarded_call(estimate=worst, settle=used, output_limit="max_tokens")(ask) if is_guarded else ask

    def function(self, plain):
        """Return a function of the kind that suits the face."""

        def request(model, given):
            named = model or sw.default_model().partition(":")[2]
            asked = {"stream": True, "stream_options": {"include_usage": True}} if self.streams else {}
            return plain.chat.completions.create(model=named, messages=MESSAGES, **asked, **given)

        if self.streams and self.is_async:

            async def ask(*, model, **given):
                async with await request(model, given) as stream:
                    async for piece in stream:
                        yield piece

        elif self.streams:

            def ask(*, model, **given):
                with request(model, given) as stream:
                    yield from stream

        elif self.is_async:

            async def ask(*, model, **given):
                return await request(model, given)

        else:

            def ask(*, model, **given):
                return request(model, given)

        return ask

    async def start(self, client, *, model="m", output=20):
        """Send the question."""
        asked = client(model=model, **({} if output is None else {"max_tokens": output}))
        if not self.streams:
            return await done(asked)
        return Opened(asked, await anext(asked) if self.is_async else next(asked))

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


class LlmCallFace(PydanticAIFace):
    """`llm_call_async` of a model of pydantic-ai's; there is no way to stream."""

    @contextlib.asynccontextmanager
    async def client(self, server, *, is_guarded=True, **options):
        """Give what asks a model, by `llm_call_async` or as pydantic-ai does."""
        async with super().client(server, is_guarded=False, **options) as make:
            yield (is_guarded, make)

    async def start(self, client, *, model="m", output=20):
        """Send the question."""
        is_guarded, make = client
        if not is_guarded:
            return await super().start(make, model=model, output=output)
        return await sw.llm_call_async(QUESTION, model=make(model), max_tokens=output)

    def text(self, piece):
        """Return the text of the reply."""
        return piece.text


def _faces():
    for is_async, streams in itertools.product((False, True), (False, True)):
        end = f"{'async' if is_async else 'sync'}-{'stream' if streams else 'whole'}"
        yield GuardedCallFace(f"guarded-call-{end}", is_async, streams)
    yield LlmCallFace("llm-call-async-whole", is_async=True, streams=False)


FACES = tuple(_faces())
"""The faces that keep the contract."""
