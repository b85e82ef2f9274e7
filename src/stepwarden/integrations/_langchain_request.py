"""Chat models of LangChain's whose clients are of no guarded SDK: each request is reserved, limited and settled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from stepwarden.core.errors import DefinitionError

from ._estimate import Estimate, input_tokens, text_tokens
from ._input import ANY, Conversation
from ._seam import Attempt, Reported
from ._streams import Watch, continued

_LIMITS = (
    "max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict", "max_tokens_to_sample",
)  # fmt: skip
"""What chat models call the limit of their output."""

_ESTIMATE = "__stepwarden_estimate__"
"""Where such a class keeps how input is estimated: pydantic makes no field of a name like this."""

if TYPE_CHECKING:
    _Mixed = BaseChatModel
else:
    # What is mixed in before a model's class must not bring fields of its own.
    _Mixed = object


class ByRequest(_Mixed):
    """Be the class of a model that is guarded request by request, mixed in before the model's own."""

    # The one way around the methods below; without it, events are made of what they stream.
    _stream_chat_model_events = _astream_chat_model_events = None

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        request = _Request(self, messages, kwargs)
        with request.attempt as attempt:
            result = super()._generate(messages, stop, run_manager, **request.limited())  # type: ignore[safe-super]
            attempt.settle(_reported_by(result))
        return result

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        request = _Request(self, messages, kwargs)
        async with request.attempt as attempt:
            result = await super()._agenerate(messages, stop, run_manager, **request.limited())
            attempt.settle(_reported_by(result))
        return result


class _Streaming(_Mixed):
    """Be the part of such a class that streams, where the model does."""

    def _stream(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        request = _Request(self, messages, kwargs)
        with request.attempt:
            source = iter(super()._stream(messages, stop, run_manager, **request.limited()))
            first = next(source, None)  # only now it is sent, and fails in the way of a call
            watch = Watch(request.attempt, request)
        yield from watch.pieces(_from(first, source))


class _AsyncStreaming(_Mixed):
    """Be the part of such a class that streams without blocking, where the model does."""

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        request = _Request(self, messages, kwargs)
        async with request.attempt:
            source = aiter(super()._astream(messages, stop, run_manager, **request.limited()))
            first = await anext(source, None)
            watch = Watch(request.attempt, request)
        async with aclosing(cast("Any", watch.pieces_async(continued(first, source)))) as pieces:
            async for chunk in pieces:
                yield chunk


def _from(first: ChatGenerationChunk | None, rest: Iterator[ChatGenerationChunk]) -> Iterator[ChatGenerationChunk]:
    """Yield the first piece, where there is one, and then the rest."""
    if first is not None:
        yield first
        yield from rest


_made: WeakValueDictionary[tuple[type[BaseChatModel], Estimate], type[BaseChatModel]] = WeakValueDictionary()


def guarding(kind: type[BaseChatModel], estimate: Estimate) -> type[BaseChatModel]:
    """Return the subclass of a model's class that is guarded request by request; *estimate* as it was parsed."""
    made = _made.get((kind, estimate))
    if made is None:
        parts: list[type] = [ByRequest]
        # LangChain looks whether a class streams by whether it has methods of its own for that.
        if kind._stream is not BaseChatModel._stream:  # noqa: SLF001
            parts.append(_Streaming)
        if kind._astream is not BaseChatModel._astream:  # noqa: SLF001
            parts.append(_AsyncStreaming)
        # By the same name: it stands in traces, and is what messages of LangChain's call the model.
        metaclass: Any = type(kind)
        body = {"__module__": kind.__module__, _ESTIMATE: estimate}
        _made[kind, estimate] = made = metaclass(kind.__name__, (*parts, kind), body)
    return made


def refuse_another_estimate(model: BaseChatModel, estimate: Estimate) -> None:
    """Raise a `DefinitionError` where a guarded model is to be guarded with another estimate than it has."""
    there = _estimate_of(model)
    if estimate not in ("likely", there):
        raise DefinitionError(
            f"estimate={estimate!r}: this model is guarded already, with estimate={there!r}; guard the model that it "
            "was made of"
        )


def _estimate_of(model: BaseChatModel) -> Estimate:
    # Of the class: a function that is looked up on the model itself would be a method.
    return cast("Estimate", getattr(type(model), _ESTIMATE))


class _Request:
    """Be one request of a chat model of no guarded SDK.

    Args:
        model: The model.
        messages: What it is asked.
        kwargs: The options of the request.
    """

    def __init__(self, model: BaseChatModel, messages: list[BaseMessage], kwargs: dict[str, Any]) -> None:
        self._kwargs = kwargs
        estimate = _estimate_of(model)
        known = [name for name in _LIMITS if name in type(model).model_fields]
        self._limit = next((name for name in _LIMITS if name in kwargs), known[0] if known else _LIMITS[0])
        about = model._get_ls_params(**kwargs)  # noqa: SLF001 - what each integration says of itself
        asked = kwargs.get(self._limit) or getattr(model, self._limit, None) or about.get("ls_max_tokens")
        timeout = getattr(model, "timeout", None) or getattr(model, "request_timeout", None)
        said = [{"role": one.type, "content": one.content} for one in messages]
        calls = [one.tool_calls for one in messages if isinstance(one, AIMessage) and one.tool_calls]
        options = {name: json.dumps(part, default=repr) for name, part in (("calls", calls), ("tools", kwargs)) if part}
        request = {"model": about.get("ls_model_name"), "messages": said, **options}
        self.attempt = Attempt(
            model=_priced_name(about.get("ls_provider"), about.get("ls_model_name")),
            input_tokens=input_tokens(Conversation(request, ANY), estimate),
            is_stated=estimate != "likely",
            output_tokens=asked if isinstance(asked, int) and asked > 0 else None,
            timeout=timeout if isinstance(timeout, int | float) else None,
        )
        self._text: list[str] = []
        self._calls: list[str] = []
        self._usage: UsageMetadata | None = None
        self._model: str | None = None
        self._is_complete = False

    def limited(self) -> dict[str, Any]:
        """Return the options, with the limit that was granted."""
        limit = self.attempt.output_limit
        return self._kwargs if limit is None else {**self._kwargs, self._limit: limit}

    def feed(self, piece: ChatGenerationChunk) -> ChatGenerationChunk:
        """Take a piece of a stream in; it is shown as it is."""
        message = cast("AIMessageChunk", piece.message)
        self._text.append(message.text)
        self._calls += (f"{call['name'] or ''}{call['args'] or ''}" for call in message.tool_call_chunks)
        if message.usage_metadata is not None:
            self._usage = add_usage(self._usage, message.usage_metadata)
        self._model = self._model or _named(message)
        if message.chunk_position == "last" or _has_ended(message.response_metadata, piece.generation_info):
            self._is_complete = True
        return piece

    def end(self) -> None:
        """Take note that it was read to its end; nothing is added to what was shown."""
        self._is_complete = True

    def reported(self) -> Reported | None:
        """Return what the stream reports; its output is counted where it was left early; None where nothing came."""
        if not self._text:
            return None
        reported = _reported(self._usage, self._model, "".join((*self._text, *self._calls)))
        return reported if self._is_complete else replace(reported, output_tokens=None)

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._text)

    @property
    def is_complete(self) -> bool:
        """Whether the model has said all."""
        return self._is_complete


def _has_ended(*told: Mapping[str, Any] | None) -> bool:
    return any(one.get(name) for one in told if one for name in ("finish_reason", "stop_reason", "done_reason"))


def _priced_name(provider: str | None, name: str | None) -> str | None:
    from stepwarden import prices

    with_provider = f"{provider}:{name}"
    return with_provider if provider and name and prices.lookup(with_provider) is not None else name


def _reported_by(result: ChatResult) -> Reported:
    messages = [cast("AIMessage", generation.message) for generation in result.generations]
    usage = next((message.usage_metadata for message in messages if message.usage_metadata), None)
    named = next((name for name in map(_named, messages) if name), None) or (result.llm_output or {}).get("model_name")
    return _reported(usage, named, "".join(map(_said, messages)))


def _reported(usage: UsageMetadata | None, model: str | None, said: str) -> Reported:
    arrived = max(1, text_tokens(said))
    if usage is None:
        return Reported(model=model, arrived_tokens=arrived)
    read, written = usage.get("input_token_details", {}), usage.get("output_token_details", {})
    hour = cast("int", read.get("ephemeral_1h_input_tokens", 0))
    short = cast("int", read.get("ephemeral_5m_input_tokens", 0))
    return Reported(
        model=model,
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        cache_read_tokens=read.get("cache_read", 0),
        cache_write_tokens=read.get("cache_creation", 0) or hour + short,
        cache_write_1h_tokens=hour,
        reasoning_tokens=written.get("reasoning", 0),
        arrived_tokens=arrived,
    )


def _named(message: AIMessage) -> str | None:
    return message.response_metadata.get("model_name") or message.response_metadata.get("model")


def _said(message: AIMessage) -> str:
    return f"{message.text}{json.dumps(message.tool_calls, default=repr) if message.tool_calls else ''}"
