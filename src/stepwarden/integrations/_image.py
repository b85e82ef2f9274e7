"""Images: how large they say they are, and what they come to in tokens by each provider's own rule.

Sources: OpenAI's guide *Images and vision*, section *Calculating costs*; Anthropic's guide *Vision*.
"""

from __future__ import annotations

import base64
import math
import re
from typing import Protocol

Size = tuple[int, int]
"""Width and height in pixels."""


class ImageRule(Protocol):
    """Be a provider's rule for images."""

    def __call__(self, model: str, size: Size | None, detail: str, *, is_most: bool) -> int:
        """Return the tokens of an image.

        Args:
            model: The model that sees it.
            size: Its size, or None where that is not known.
            detail: The detail that is asked for.
            is_most: Whether the most is wanted, and not what is likely.
        """


_TILE, _BOX, _SHORT = 512, 2_048, 768
_PATCH = 32
_MOST_PATCHES, _MOST_TOKENS_PER_PATCH = 10_000, 2.46
_TILED: dict[str, tuple[int, int]] = {
    "gpt-4o-mini": (2_833, 5_667),
    "gpt-4o": (85, 170),
    "chatgpt-4o": (85, 170),
    "gpt-4.1": (85, 170),
    "gpt-4.5": (85, 170),
    "gpt-4-turbo": (85, 170),
    "gpt-5": (70, 140),
    "o1": (75, 150),
    "o3": (75, 150),
    "computer-use-preview": (65, 129),
}
"""OpenAI's models that see tiles of 512 pixels: the tokens of an image, and of each tile in it."""
_PATCHED: dict[str, tuple[int, float]] = {
    "gpt-4.1-mini": (1_536, 1.62),
    "gpt-4.1-nano": (1_536, 2.46),
    "gpt-5-mini": (1_536, 1.62),
    "gpt-5-nano": (1_536, 2.46),
    "gpt-5.4-mini": (1_536, 1.62),
    "gpt-5.4-nano": (1_536, 2.46),
    "o4-mini": (1_536, 1.72),
}
"""OpenAI's models that see patches of 32 pixels: the most patches of an image, and the tokens of each."""
_FAMILIES = sorted({*_TILED, *_PATCHED}, key=len, reverse=True)
_LOW_PATCHES = 256  # of 512 by 512 pixels


def openai_image(model: str, size: Size | None, detail: str, *, is_most: bool) -> int:
    """Count an image by OpenAI's rule: tiles or patches, by model.

    A model that is not known sees patches: likely one token for each and 2,500 at most, never more than 10,000 of the
    dearest.
    """
    name = model.removeprefix("ft:")
    family = next((known for known in _FAMILIES if name == known or name.startswith((f"{known}-", f"{known}:"))), None)
    if family in _TILED:
        base, each = _TILED[family]
        return base if detail == "low" else base + each * _tiles(size or (_BOX, _SHORT), is_enlarged=is_most)
    most, each_patch = _PATCHED.get(family or "", (_MOST_PATCHES, _MOST_TOKENS_PER_PATCH) if is_most else (2_500, 1.0))
    if detail == "low":
        most = min(most, _LOW_PATCHES)
    patches = most if size is None else _patches(size, _PATCH)
    return math.ceil(min(patches, most) * each_patch)


def _tiles(size: Size, *, is_enlarged: bool) -> int:
    long, short = max(size), max(1, min(size))
    if long > _BOX:
        long, short = _BOX, max(1, round(short * _BOX / long))
    # The guide does not say whether a small image is enlarged; at most it is, up to the box.
    if short > _SHORT or is_enlarged:
        long, short = min(_BOX, math.ceil(long * _SHORT / short)), _SHORT
    return math.ceil(long / _TILE) * math.ceil(short / _TILE)


_CLAUDE_PATCH = 28
_CLAUDE_MOST, _CLAUDE_MOST_ONCE = 4_784, 1_600
_ONCE = re.compile(r"claude-(3|2|instant|\w+-4(?![-.][7-9]))")
"""Claude's models before 4.7, which see less of a large image."""


def anthropic_image(model: str, size: Size | None, detail: str, *, is_most: bool) -> int:  # noqa: ARG001 - an `ImageRule`
    """Count an image by Anthropic's rule: a token for 750 pixels, or for each patch of 28 by 28, which is alike."""
    most = _CLAUDE_MOST_ONCE if _ONCE.search(model) else _CLAUDE_MOST
    if size is None:
        return most
    return min(most, max(math.ceil(size[0] * size[1] / 750), _patches(size, _CLAUDE_PATCH)))


def _patches(size: Size, side: int) -> int:
    return math.ceil(size[0] / side) * math.ceil(size[1] / side)


# --- sizes ---

_SNIFFED, _SCANNED = 64, 1 << 17
"""Characters of base 64: in which every other format has its size, and how deep JPEG's is looked for."""
_PNG = re.compile(rb"\x89PNG.{12}(.{4})(.{4})", re.DOTALL)
_GIF = re.compile(rb"GIF8..(..)(..)", re.DOTALL)
_WEBP = re.compile(rb"RIFF.{4}WEBP(?:VP8X.{8}(.{3})(.{3})|VP8L.{5}(.{4})|VP8 .{10}(..)(..))", re.DOTALL)
_JPEG = b"\xff\xd8"
# A segment and its length. Those that are a frame have the size; three markers in their range are something else.
_SEGMENT = re.compile(rb"\xff([^\xff])(..)", re.DOTALL)
_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]...(..)(..)", re.DOTALL)


def size_of_image(data: str) -> Size | None:
    """Return the width and height in pixels that an image says it has; None where it does not.

    Args:
        data: PNG, JPEG, GIF or WebP, in base 64.
    """
    head = _decoded(data[:_SNIFFED])
    if head.startswith(_JPEG):
        return _size_of_jpeg(_decoded(data[:_SCANNED]))
    if found := _PNG.match(head):
        return int.from_bytes(found[1]), int.from_bytes(found[2])
    if found := _GIF.match(head):
        return _little(found[1]), _little(found[2])
    if found := _WEBP.match(head):
        large_width, large_height, lossless, width, height = found.groups()
        if large_width is not None:
            return 1 + _little(large_width), 1 + _little(large_height)
        if lossless is not None:
            bits = _little(lossless)
            return 1 + bits % _WEBP_SIDE, 1 + (bits // _WEBP_SIDE) % _WEBP_SIDE
        return _little(width) % _WEBP_SIDE, _little(height) % _WEBP_SIDE
    return None


_WEBP_SIDE = 1 << 14
"""Of a side's length there are 14 bits."""


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text[: len(text) // 4 * 4])
    except ValueError:
        return b""


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")


def _size_of_jpeg(data: bytes) -> Size | None:
    at = len(_JPEG)
    while segment := _SEGMENT.match(data, at):
        if frame := _FRAME.match(data, at):
            return int.from_bytes(frame[2]), int.from_bytes(frame[1])
        at += 2 + int.from_bytes(segment[2])
    return None
