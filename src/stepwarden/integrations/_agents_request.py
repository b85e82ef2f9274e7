"""Models of openai-agents whose clients are of no guarded SDK: what a request is likely to be, and what it used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agents import FunctionTool, Model, ModelResponse
from agents.usage import Usage

from ._estimate import Estimate, input_tokens, text_tokens
from ._input import RESPONSES, Conversation
from ._seam import Attempt, Reported

ASKED = ("system_instructions", "input", "model_settings", "tools", "output_schema", "handoffs", "tracing")
"""What a model is asked with, in the order of its arguments."""
_DELTAS = frozenset({
    "response.output_text.delta", "response.refusal.delta", "response.function_call_arguments.delta",
    "response.reasoning_summary_text.delta", "response.reasoning_text.delta",
})  # fmt: skip
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


def attempt_of(model: Model, asked: Mapping[str, Any], estimate: Estimate) -> Attempt:
    """Make the attempt of one request.

    Args:
        model: The model.
        asked: What it is asked with, by the names of its arguments.
        estimate: How its input is estimated.

    Raises:
        PolicyViolationError: If the input is to be bounded, and nothing in the request bounds it.
    """
    settings = asked["model_settings"]
    tools = [
        {"name": tool.name, "description": tool.description, "schema": tool.params_json_schema}
        if isinstance(tool, FunctionTool)
        else {"name": tool.name}
        for tool in asked["tools"]
    ]
    handoffs = [
        {"name": one.tool_name, "description": one.tool_description, "schema": one.input_json_schema}
        for one in asked["handoffs"]
    ]
    schema = asked["output_schema"]
    form = None if schema is None or schema.is_plain_text() else schema.json_schema()
    # The SDK speaks to every model in the words of the Responses API.
    request = {
        "model": getattr(model, "model", None),
        "input": asked["input"],
        "instructions": asked["system_instructions"],
        "tools": tools + handoffs or None,
        "text": form,
        "previous_response_id": asked.get("previous_response_id"),
        "conversation": asked.get("conversation_id"),
        "prompt": asked.get("prompt"),
    }
    sent = {name: value for name, value in request.items() if value is not None}
    return Attempt(
        model=_priced_name(request["model"]),
        input_tokens=input_tokens(Conversation(sent, RESPONSES), estimate),
        is_stated=estimate != "likely",
        output_tokens=settings.max_tokens,
        timeout=settings.timeout,
    )


def limited(asked: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
    """Return what a model is asked with, with the limit that was granted."""
    if attempt.output_limit is None:
        return dict(asked)
    return {**asked, "model_settings": replace(asked["model_settings"], max_tokens=attempt.output_limit)}


def reported_by(response: ModelResponse) -> Reported:
    """Return what a whole response reports."""
    said = "".join(item.model_dump_json(exclude_none=True) for item in response.output)
    return _reported(response.usage, None, said)


class EventReader:
    """Read the events of a streamed response as they pass."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._response: Any = None

    def feed(self, event: Any) -> Any:
        """Take an event in; it is shown as it is."""
        if event.type in _DELTAS:
            self._said.append(event.delta)
        elif event.type in _ENDS:
            self._response = event.response
        return event

    def end(self) -> None:
        """Add nothing to what was shown."""

    def reported(self) -> Reported | None:
        """Return what the stream reports; its output is counted where it has not said; None where nothing came."""
        usage = None if self._response is None else self._response.usage
        if usage is None and not self._said:
            return None
        return _reported(usage, getattr(self._response, "model", None) or None, self.text)

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._said)

    @property
    def is_complete(self) -> bool:
        """Whether the model has said all."""
        return self._response is not None


def _reported(usage: Usage | Any, model: str | None, said: str) -> Reported:
    if usage is None or not usage.input_tokens:
        return Reported(model=model, arrived_tokens=max(1, text_tokens(said)))
    details = usage.input_tokens_details
    return Reported(
        model=model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=getattr(details, "cached_tokens", 0) or 0,
        cache_write_tokens=getattr(details, "cache_write_tokens", 0) or 0,
        reasoning_tokens=getattr(usage.output_tokens_details, "reasoning_tokens", 0) or 0,
    )


def _priced_name(name: object) -> str | None:
    """Return a model's name as prices know it: with the provider before a colon, where that has a price."""
    from stepwarden import prices

    if not isinstance(name, str):
        return None
    with_colon = name.replace("/", ":", 1)
    return with_colon if with_colon != name and prices.lookup(with_colon) is not None else name
