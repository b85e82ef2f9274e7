"""Images, files and sounds in a request: where they stand in it, and what they come to in tokens.

Sources: Anthropic's guide *PDF support* for the tokens of a page, OpenAI's guide to the costs of audio for ten tokens a
second. Images have rules of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ._image import ImageRule, Size, size_of_image

TOKENS_PER_PAGE = 3_000
"""What Anthropic documents as the most that the text of a page comes to; nobody documents more for a file."""
_BYTES_PER_PAGE = 40_000
_LIKELY_SIZE: Size = (1_024, 1_024)
"""Of an image whose size cannot be seen in the request."""

IMAGES = frozenset({"image", "image_url", "input_image", "computer_screenshot"})
FILES = frozenset({"document", "file", "input_file"})
_SOUND = "input_audio"
_MEDIA = IMAGES | FILES | {_SOUND}
# Ten tokens a second, of wave files of at least 12 kB a second and of others that are a quarter of that.
_BYTES_PER_SOUND_TOKEN = {"wav": 2_000}
_BYTES_PER_OTHER_SOUND_TOKEN = 500

# Where an item may have media in it; what a tool was called with is text, whatever it looks like.
PLACES = ("content", "output", "source")
_DATA = frozenset({
    "source", "image_url", "file", "file_data", "file_id", "file_url", "input_audio", "base64", "data", "url",
})  # fmt: skip
_TEXT_SOURCES = frozenset({"text", "content"})


def without_media(items: Any) -> tuple[Any, list[Mapping[str, Any]]]:
    """Take images, files and sounds out of what is said.

    Args:
        items: Messages, or other items, as the API takes them.

    Returns:
        The items without the data of those, and the parts that they were.
    """
    media: list[Mapping[str, Any]] = []
    return _lean(items, media), media


def _lean(part: Any, media: list[Mapping[str, Any]]) -> Any:
    if isinstance(part, list):
        return [_lean(one, media) for one in part]
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if isinstance(kind, str) and kind in _MEDIA and not is_text(part):
        media.append(part)
        return {key: value for key, value in part.items() if key not in _DATA}
    places = [key for key in PLACES if isinstance(part.get(key), list | dict)]
    return {**part, **{key: _lean(part[key], media) for key in places}} if places else part


def is_text(part: Mapping[str, Any]) -> bool:
    """Tell whether a part that looks like a file has its text in the request."""
    source = part.get("source")
    return isinstance(source, Mapping) and source.get("type") in _TEXT_SOURCES


def likely_media_tokens(part: Mapping[str, Any], model: str, image: ImageRule) -> int:
    """Estimate the tokens of an image, a file or a sound.

    Args:
        part: The part of the request that it is.
        model: The model that reads it.
        image: The provider's rule for images.
    """
    kind = part["type"]
    if kind in IMAGES:
        return image(model, _size(part) or _LIKELY_SIZE, _detail(part), is_most=False)
    data = _data(part)
    if kind == _SOUND:
        form = part.get("input_audio")
        form = form.get("format") if isinstance(form, Mapping) else None
        return math.ceil(len(data) / _BYTES_PER_SOUND_TOKEN.get(str(form), _BYTES_PER_OTHER_SOUND_TOKEN))
    return TOKENS_PER_PAGE * max(1, math.ceil(len(data) / _BYTES_PER_PAGE))


def most_media_tokens(part: Mapping[str, Any], model: str, image: ImageRule) -> int | None:
    """Bound the tokens of an image or a sound; None for a file, of which nobody knows before it is read.

    Args:
        part: The part of the request that it is.
        model: The model that reads it.
        image: The provider's rule for images.
    """
    if part["type"] in IMAGES:
        return image(model, _size(part), _detail(part), is_most=True)
    # No sound has less than a byte for a tenth of a second.
    return len(_data(part)) if part["type"] == _SOUND else None


def _data(part: Mapping[str, Any]) -> str:
    """Return the data of a part, in base 64; empty where it is elsewhere."""
    inner = next((part[key] for key in ("source", "file", "input_audio") if isinstance(part.get(key), Mapping)), part)
    data = inner.get("data") or inner.get("file_data") or inner.get("base64")
    return data if isinstance(data, str) else ""


def _detail(part: Mapping[str, Any]) -> str:
    inner = part.get("image_url")
    detail = inner.get("detail") if isinstance(inner, Mapping) else part.get("detail")
    return detail if isinstance(detail, str) else "auto"


def _size(part: Mapping[str, Any]) -> Size | None:
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    if isinstance(url, str) and url.startswith("data:"):
        return size_of_image(url.partition(";base64,")[2])
    return size_of_image(_data(part))
