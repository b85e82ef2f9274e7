"""pydantic-ai's requests as estimates read them, and what its responses report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse

from ._estimate import text_tokens
from ._seam import Reported


def text_of(part: Mapping[str, Any]) -> Any:
    """Return what a part of a message says, in the form that estimates read."""
    content = part.get("content")
    if content is None:
        return [part.get("tool_name"), part.get("args")]
    return {"role": "user", "content": [_piece(one) for one in content]} if isinstance(content, list) else content


def _piece(content: Any) -> Any:
    """Return what a user said, with images, files and sounds as OpenAI has them."""
    kind = content.get("kind") if isinstance(content, Mapping) else None
    if kind == "image-url":
        return {"type": "image_url", "image_url": content["url"]}
    if kind in {"document-url", "video-url", "audio-url", "uploaded-file"}:
        return {"type": "file", "file_url": content.get("url")}
    if kind != "binary":
        return content
    media, _, form = str(content.get("media_type")).partition("/")
    if media == "image":
        return {"type": "image_url", "image_url": f"data:{content['media_type']};base64,{content['data']}"}
    if media == "audio":
        return {"type": "input_audio", "input_audio": {"data": content["data"], "format": form}}
    return {"type": "file", "file_data": content["data"]}


def instructions_of(messages: list[ModelMessage]) -> str | None:
    """Return the instructions in force: those of the last message that has any."""
    last = next((message for message in reversed(messages) if getattr(message, "instructions", None)), None)
    text = getattr(last, "instructions", None)
    return text if isinstance(text, str) else None


def reported(response: ModelResponse, *, is_whole: bool) -> Reported:
    """Read what a response says that it used.

    Args:
        response: The response.
        is_whole: Whether all of it has arrived, so that its output is known.
    """
    usage = response.usage
    said = "".join(_said(part) for part in response.parts)
    said_to_use = Reported(
        model=response.model_name,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        reasoning_tokens=usage.output_reasoning_tokens,
        arrived_tokens=max(1, text_tokens(said)),
    )
    if usage.unmeasured_requests or not usage.input_tokens:
        return replace(said_to_use, input_tokens=None, output_tokens=None)
    return said_to_use if is_whole else replace(said_to_use, output_tokens=None)


def _said(part: Any) -> str:
    content = getattr(part, "content", None)
    if isinstance(content, str):
        return content
    return f"{getattr(part, 'tool_name', '')}{getattr(part, 'args', '') or ''}"
