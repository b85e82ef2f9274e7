"""What of a request is input, API by API: for what it is likely to come to, and for what it comes to at most.

The most is for byte-level tokenizers (byte-level BPE, as the models of OpenAI have it): each of their tokens is at
least a byte of text, and a request's JSON is longer than what a model reads of it. What a provider adds by itself, such
as the prompt that explains tools, is bounded by a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stepwarden.core.errors import PolicyViolationError

from ._estimate import prompt_tokens, text_tokens, tokens_in
from ._fast_json import size_as_json
from ._image import ImageRule, anthropic_image, openai_image
from ._json import encoded
from ._media import FILES, IMAGES, PLACES, is_text, likely_media_tokens, most_media_tokens, without_media

TOKENS_PER_MESSAGE = 4
TOKENS_PER_REQUEST = 16
OPENAI_ADDS = 512
ANTHROPIC_ADDS = 1_024
"""Tokens that a provider adds to a request at most. Anthropic documents up to 530, for a prompt that explains tools."""

_PLAIN = {"role", "content"}
"""What a message has that is a text and nothing else: there is nothing in it to be looked for."""
_HELD_KINDS = frozenset({"item_reference", "container_upload"})
_SEARCHES = "-search-"
"""What the names of OpenAI's chat models that search before every answer have in common, as in gpt-5-search-api."""


@dataclass(frozen=True, slots=True)
class InputRules:
    """Tell where an API has its input.

    Args:
        items: The field with the messages, or whatever else is a list of what is said.
        others: The other fields that are input.
        image: The rule for its images; None where none is known.
        adds: Tokens that the provider adds at most.
        held: Fields by which a request refers to what the server holds.
        own_tools: The types of tools that are wholly described in the request.
    """

    items: str
    others: tuple[str, ...]
    image: ImageRule | None
    adds: int
    held: tuple[str, ...] = ()
    own_tools: frozenset[str] = frozenset({"function", "custom"})


CHAT = InputRules(
    "messages", ("tools", "functions", "response_format"), openai_image, OPENAI_ADDS, held=("web_search_options",)
)
RESPONSES = InputRules(
    "input", ("instructions", "tools", "text", "prompt"), openai_image, OPENAI_ADDS,
    held=("previous_response_id", "conversation", "prompt"),
)  # fmt: skip
MESSAGES = InputRules(
    "messages", ("system", "tools", "tool_choice", "output_config", "output_format", "mcp_servers"), anthropic_image,
    ANTHROPIC_ADDS, held=("container", "mcp_servers"), own_tools=frozenset({"custom"}),
)  # fmt: skip
ANY = InputRules("messages", ("tools", "calls", "instructions"), None, ANTHROPIC_ADDS)
"""Of a framework's own request, whichever provider it goes to."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Be the input of a request that says something to a model.

    Args:
        request: The request, as it is sent.
        rules: Where its API has its input.
        remembered: Tokens that the server is known to hold of it.
    """

    request: Mapping[str, Any]
    rules: InputRules
    remembered: int = 0

    def likely(self) -> int:
        """Return the tokens that it is likely to have.

        Returns:
            Tokens: one for every three bytes of text, four for each message and 16 for the request; an image of a
            size that cannot be seen counts as one of a megapixel.
        """
        request, rules = self.request, self.rules
        items = request.get(rules.items)
        tokens = self.remembered + TOKENS_PER_REQUEST
        for item in items if isinstance(items, list) else [items]:
            tokens += TOKENS_PER_MESSAGE
            if item.__class__ is dict and item.keys() == _PLAIN and item["content"].__class__ is str:
                tokens += tokens_in(size_as_json(item))
            else:
                tokens += self._likely_item(item)
        for name in rules.others:
            part = request.get(name)
            if part is not None:
                tokens += _likely(part)
        return tokens

    def _likely_item(self, item: Any) -> int:
        lean, media = without_media(item)
        image = self.rules.image or openai_image
        return _likely(lean) + sum(likely_media_tokens(part, self._model, image) for part in media)

    def most(self) -> int:
        """Return the tokens that it has at most: the bytes of its JSON, its images, and what the provider adds.

        Raises:
            PolicyViolationError: If a part of the input is not in the request, or nobody can tell what it comes to.
        """
        request, rules = self.request, self.rules
        for name in self._unbounded():
            raise PolicyViolationError(
                f"estimate='upper_bound': {name}, so nothing in the request bounds its input; it was not sent. Send "
                "all of the input as text or images, or give estimate='likely' or a function of your own"
            )
        items, media = without_media(request.get(rules.items))
        tokens = len(encoded({**request, rules.items: items})) + rules.adds
        for part in media:
            tokens += self._most_media(part)
        return tokens

    def _most_media(self, part: Mapping[str, Any]) -> int:
        tokens = most_media_tokens(part, self._model, self.rules.image or openai_image)
        assert tokens is not None  # noqa: S101 - files were refused above
        return tokens

    @property
    def _model(self) -> str:
        return str(self.request.get("model") or "")

    def _unbounded(self) -> Iterator[str]:
        """Say what of the input is not bounded by the request."""
        request, rules = self.request, self.rules
        for name in rules.held:
            held = request.get(name)
            if held or held == {}:  # an empty object asks for a web search as it is by default
                yield f"`{name}` refers to input that the server holds"
        if rules is CHAT and _SEARCHES in self._model:
            yield f"`model` is {self._model!r}, which searches the web for input of its own"
        tools = request.get("tools")
        for number, tool in enumerate(tools if isinstance(tools, list) else ()):
            kind = tool.get("type") if isinstance(tool, Mapping) else None
            if isinstance(kind, str) and kind not in rules.own_tools:
                yield f"`tools[{number}]` is {kind!r}, a tool of the server that adds input of its own"
        yield from _unbounded_in(request.get(rules.items), rules.items, sees=rules.image is not None)


def _likely(part: Any) -> int:
    if isinstance(part, str):
        return text_tokens(part)
    if isinstance(part, dict) and isinstance(part.get("content"), list):
        rest = {key: value for key, value in part.items() if key != "content"}
        return sum(_likely(piece) for piece in part["content"]) + _likely(rest)
    return tokens_in(size_as_json(part))


def _unbounded_in(part: Any, path: str, *, sees: bool) -> Iterator[str]:
    if isinstance(part, list):
        for number, one in enumerate(part):
            yield from _unbounded_in(one, f"{path}[{number}]", sees=sees)
        return
    if not isinstance(part, Mapping):
        return
    kind, audio = part.get("type"), part.get("audio")
    for name in ("", ".file", ".source"):
        inner = part.get(name[1:]) if name else part
        if isinstance(inner, Mapping) and inner.get("file_id"):
            yield f"`{path}{name}.file_id` refers to input that the server holds"
    if isinstance(audio, Mapping) and audio.get("id"):
        yield f"`{path}.audio.id` refers to input that the server holds"
    if kind in _HELD_KINDS or (kind == "reasoning" and not part.get("encrypted_content")):
        yield f"`{path}` is a {kind}, which refers to input that the server holds"
    if kind in FILES and not is_text(part):
        yield f"`{path}` is a file, and its number of tokens is unknown until it is read"
    if kind in IMAGES and not sees:
        yield f"`{path}` is an image, and the rule by which its provider counts it is unknown"
    for place in PLACES:
        yield from _unbounded_in(part.get(place), f"{path}.{place}", sees=sees)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Be the input of a request that has texts or token numbers and nothing else.

    Args:
        request: The request, as it is sent.
        fields: The fields with its input.
    """

    request: Mapping[str, Any]
    fields: tuple[str, ...]

    def likely(self) -> int:
        """Return the tokens that it is likely to have; of token numbers they are known."""
        return sum(prompt_tokens(self.request.get(name)) for name in self.fields)

    def most(self) -> int:
        """Return the tokens that it has at most: the bytes of its JSON, and what the provider adds."""
        return len(encoded(self.request)) + OPENAI_ADDS
