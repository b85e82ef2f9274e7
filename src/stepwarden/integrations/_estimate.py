"""How much input a request is likely to be, before anybody has counted it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

BYTES_PER_TOKEN = 3
"""English text has about four bytes a token; three leaves a margin, and fits text in other scripts."""
TOKENS_PER_MESSAGE = 4
TOKENS_PER_REQUEST = 16
TOKENS_PER_IMAGE = 1_100
"""What an image of about a megapixel costs; its bytes say nothing about its tokens."""

_IMAGES = frozenset({"image", "image_url", "input_image"})


def likely_tokens(messages: object, *rest: object) -> int:
    """Estimate the input tokens of a request: likely enough, but no upper bound.

    Args:
        messages: The messages, as the API takes them.
        rest: What else counts as input, such as tools and a response format.

    Returns:
        Tokens: one for every three bytes of text, four for each message and 16 for the request; 1,100 an image.
    """
    tokens = TOKENS_PER_REQUEST
    for message in messages if isinstance(messages, list) else [messages]:
        tokens += TOKENS_PER_MESSAGE + _likely(message)
    return tokens + sum(_likely(part) for part in rest if part is not None)


def _likely(part: Any) -> int:
    if isinstance(part, Mapping) and isinstance(part.get("content"), list):
        rest = {key: value for key, value in part.items() if key != "content"}
        return sum(_likely(piece) for piece in part["content"]) + _likely(rest)
    if isinstance(part, Mapping) and part.get("type") in _IMAGES:
        return TOKENS_PER_IMAGE
    return text_tokens(part if isinstance(part, str) else json.dumps(part, ensure_ascii=False, separators=(",", ":")))


def prompt_tokens(prompt: object) -> int:
    """Estimate the tokens of what is completed or embedded: a text, token numbers, or a list of either."""
    if isinstance(prompt, int):
        return 1
    if isinstance(prompt, list):
        return sum(prompt_tokens(one) for one in prompt)
    return text_tokens(prompt) if isinstance(prompt, str) else 0


def text_tokens(text: str) -> int:
    """Estimate the tokens of a text."""
    return tokens_in(len(text.encode("utf-8", "surrogatepass")))


def tokens_in(size: int) -> int:
    """Estimate the tokens in so many bytes of text."""
    return math.ceil(size / BYTES_PER_TOKEN)
