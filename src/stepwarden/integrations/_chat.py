"""OpenAI's completions on the wire, those of chats and the legacy ones: requests, and what replies report."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ._estimate import Asked, tokens_in
from ._events import EventReader
from ._fast_json import parsed
from ._input import CHAT, Conversation, Prompts
from ._json import TOO_MANY, count, encoded, least_limit, model_of, size_of, text_of, times, with_model
from ._other import OtherTokens
from ._seam import Reported

PREFIXES = ("openai:", "openai-chat:", "openai-responses:")
"""As we name OpenAI's models, and as pydantic-ai does, which a step's model may also be for."""
_ASSUMED_BY_THE_API = 16
"""The output of a legacy completion that names no limit."""

_Count = Annotated[int, msgspec.Meta(ge=0, lt=TOO_MANY)]


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None
    audio_tokens: _Count | None = None


class _Counts(msgspec.Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Completion(msgspec.Struct, gc=False):
    """Be a whole reply that says what it used, as nearly every one does; nothing else of it is looked at."""

    choices: list[msgspec.Raw]
    usage: _Counts
    model: str | None = None


_completion = msgspec.json.Decoder(_Completion).decode
_NO_INPUT_DETAILS, _NO_OUTPUT_DETAILS = _InputDetails(), _OutputDetails()


class ChatCall:
    """Be one chat completion request.

    Args:
        request: The request's JSON.
    """

    min_output = 1
    limit_names: tuple[str, ...] = ("max_completion_tokens", "max_tokens")

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = self._named = request
        model = request.get("model")
        if model.__class__ is str and model and not model.startswith(PREFIXES):
            self.model: str | None = model
        else:
            self.model = model_of(request)
            self._named = with_model(request, self.model, PREFIXES)
        self.is_stream = bool(request.get("stream"))
        options = request.get("stream_options")
        self._shows_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._asks_usage = False

    @property
    def choices(self) -> int:
        """How many replies it asks for."""
        replies = self._request.get("n")
        return 1 if replies is None else times(replies)

    @property
    def output_limit(self) -> int | None:
        """The most output for each choice, in tokens; None where it names none."""
        request = self._request
        limit = request.get("max_completion_tokens")
        if limit.__class__ is int and 0 <= limit < TOO_MANY and "max_tokens" not in request:
            return limit
        return least_limit(request, *self.limit_names)

    @property
    def asked(self) -> Asked:
        """What it has as input."""
        return Conversation(self._named, CHAT)

    def body(self, output_limit: int | None) -> bytes | None:
        """Return the request's body with this limit for each choice, or None where nothing in it changes."""
        request = self._named
        if output_limit is None:
            return None if request is self._request else encoded(request)
        if (
            request is self._request
            and request.get(self.limit_names[0]) == output_limit
            and not self.is_stream
            and "max_tokens" not in request
        ):
            return None
        named = [name for name in self.limit_names if request.get(name) is not None] or self.limit_names[:1]
        changes: dict[str, Any] = {name: output_limit for name in named if request.get(name) != output_limit}
        if self.is_stream and not self._shows_usage:
            self._asks_usage = True
            changes["stream_options"] = {**(request.get("stream_options") or {}), "include_usage": True}
        if not changes and request is self._request:
            return None
        return encoded({**request, **changes})

    def read(self, body: bytes) -> Reported:
        """Read a whole reply; raise a ValueError where it is none."""
        try:
            known = _completion(body.decode())
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _read_whole(body)
        usage = known.usage
        details = usage.prompt_tokens_details or _NO_INPUT_DETAILS
        made = usage.completion_tokens_details or _NO_OUTPUT_DETAILS
        other = None
        if details.audio_tokens or made.audio_tokens or details.image_tokens:
            other = OtherTokens(details.audio_tokens or 0, made.audio_tokens or 0, details.image_tokens or 0)
        return Reported(
            model=known.model or None,
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cache_read_tokens=details.cached_tokens or 0,
            cache_write_tokens=details.cache_write_tokens or 0,
            reasoning_tokens=made.reasoning_tokens or 0,
            arrived_tokens=1,  # not counted, since what was made is known
            other=other,
        )

    def stream(self) -> ChatStream:
        """Return what reads a streamed reply."""
        return ChatStream(hides_usage=self._asks_usage)


class CompletionCall(ChatCall):
    """Be one legacy completion request: each of its prompts is completed *n* times, the best of so many."""

    limit_names = ("max_tokens",)

    @property
    def output_limit(self) -> int:
        """The most output for each choice, in tokens; where it names none, what the API itself then takes."""
        named = least_limit(self._request, *self.limit_names)
        return _ASSUMED_BY_THE_API if named is None else named

    @property
    def choices(self) -> int:
        """How many replies are made for it, shown or not."""
        prompt = self._request.get("prompt")
        # A text is one prompt, and so is a list of token numbers; any other list is of several.
        is_list = isinstance(prompt, list) and not all(isinstance(one, int) for one in prompt)
        prompts = len(prompt or ()) if is_list else 1
        return prompts * max(times(self._request.get("n")), times(self._request.get("best_of")))

    @property
    def asked(self) -> Asked:
        """What it has as input."""
        return Prompts(self._named, ("prompt", "suffix"))


class ChatStream:
    """Read a stream of completion chunks, and hide the one that is there only because the guard asked.

    Args:
        hides_usage: Whether a chunk that only carries usage is hidden.
    """

    def __init__(self, *, hides_usage: bool) -> None:
        self._hides_usage = hides_usage
        self._events = EventReader(self._take)
        self._last: dict[str, Any] = {}
        self._usage: Any = None
        self._is_ended = False
        self._said: list[str] = []
        self._size = 0
        # Most servers send a chunk a token; at least a token was made where any chunk came.
        self._chunks = 0
        self._is_reply = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes off the wire; return those of whole events that the caller is shown."""
        return self._events.feed(data)

    def end(self) -> bytes:
        """Return what is left to be shown: an event without an end."""
        return self._events.end()

    def reported(self) -> Reported | None:
        """Return what the reply has said so far; without usage, what arrived: at least a token a chunk of text.

        Returns:
            What it said; None where no chunk of a completion has arrived, so that nobody knows what it cost.
        """
        if not self._is_reply:
            return None
        return _reported({**self._last, "usage": self._usage}, max(1, self._chunks, tokens_in(self._size)))

    @property
    def text(self) -> str:
        """The text received so far; of several choices the first."""
        return "".join(self._said)

    @property
    def is_complete(self) -> bool:
        """Whether the end was said, or the usage of all of it."""
        return self._events.is_done or self._is_ended

    def _take(self, chunk: dict[str, Any]) -> bool:
        choices = chunk.get("choices")
        if isinstance(chunk.get("model"), str):
            self._last = {"model": chunk["model"]}
        if isinstance(choices, list):
            self._is_reply = True
            said = sum(size_of(_texts(choice, "delta")) for choice in choices)
            self._said += [_content(choice) for choice in choices]
            self._size += said
            self._chunks += said > 0
        if not isinstance(chunk.get("usage"), dict):
            return True
        self._usage = chunk["usage"]
        # Some servers say with each chunk what was used so far.
        self._is_ended = not isinstance(choices, list) or all(map(_is_finished, choices))
        return bool(choices) or not self._hides_usage


def _is_finished(choice: Any) -> bool:
    return isinstance(choice, dict) and bool(choice.get("finish_reason"))


def _content(choice: Any) -> str:
    """Return the text that a chunk adds to the first choice."""
    if not isinstance(choice, dict) or choice.get("index"):
        return ""
    delta = choice.get("delta")
    content = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return text_of(content) or ""


def _texts(choice: Any, key: str) -> list[Any]:
    """Return everything of a choice that was made of output tokens."""
    if not isinstance(choice, dict):
        return []
    said = choice.get(key)
    if not isinstance(said, dict):
        return [choice.get("text")]
    texts = [said.get("content"), said.get("refusal"), said.get("reasoning_content")]
    calls = said.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            texts += [function.get("name"), function.get("arguments")]
    return texts


def _read_whole(body: bytes) -> Reported:
    reply = parsed(body)
    if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
        raise ValueError("no completion")  # noqa: TRY004 - what a reply that cannot be read is, here
    # Each choice is a text of its own, with a margin of its own.
    arrived = sum(tokens_in(size_of(_texts(choice, "message"))) for choice in reply["choices"])
    return _reported(reply, max(1, arrived))


def _reported(reply: dict[str, Any], arrived: int) -> Reported:
    usage = reply.get("usage")
    other = OtherTokens(
        audio_input=count(usage, "prompt_tokens_details", "audio_tokens") or 0,
        audio_output=count(usage, "completion_tokens_details", "audio_tokens") or 0,
        image_input=count(usage, "prompt_tokens_details", "image_tokens") or 0,
    )
    # OpenAI counts what the cache had part in inside the input, and reasoning inside the output, as we do.
    return Reported(
        model=text_of(reply.get("model")),
        input_tokens=count(usage, "prompt_tokens"),
        output_tokens=count(usage, "completion_tokens"),
        cache_read_tokens=count(usage, "prompt_tokens_details", "cached_tokens") or 0,
        cache_write_tokens=count(usage, "prompt_tokens_details", "cache_write_tokens") or 0,
        reasoning_tokens=count(usage, "completion_tokens_details", "reasoning_tokens") or 0,
        arrived_tokens=arrived,
        other=other if other.is_any else None,
    )
