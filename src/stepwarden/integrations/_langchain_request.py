"""Chat models of LangChain's whose clients are of no guarded SDK: each request is reserved, limited and settled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from ._estimate import likely_tokens, text_tokens
from ._seam import Attempt, Reported

_LIMITS = (
    "max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict", "max_tokens_to_sample",
)  # fmt: skip
"""What chat models call the limit of their output."""

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
            source = cast("Any", super()._stream(messages, stop, run_manager, **request.limited()))
            try:
                for chunk in source:
                    request.take(chunk)
                    yield chunk
            except BaseException:
                request.end(is_whole=False)
                raise
            finally:
                source.close()
            request.end(is_whole=True)


class _AsyncStreaming(_Mixed):
    """Be the part of such a class that streams without blocking, where the model does."""

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        request = _Request(self, messages, kwargs)
        async with request.attempt:
            source = cast("Any", super()._astream(messages, stop, run_manager, **request.limited()))
            try:
                async for chunk in source:
                    request.take(chunk)
                    yield chunk
            except BaseException:
                request.end(is_whole=False)
                raise
            finally:
                await source.aclose()
            request.end(is_whole=True)


_made: dict[type[BaseChatModel], type[BaseChatModel]] = {}


def guarding(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    """Return the subclass of a model's class that is guarded request by request."""
    if kind not in _made:
        parts: list[type] = [ByRequest]
        # LangChain looks whether a class streams by whether it has methods of its own for that.
        if kind._stream is not BaseChatModel._stream:  # noqa: SLF001
            parts.append(_Streaming)
        if kind._astream is not BaseChatModel._astream:  # noqa: SLF001
            parts.append(_AsyncStreaming)
        # By the same name: it stands in traces, and is what messages of LangChain's call the model.
        metaclass: Any = type(kind)
        _made[kind] = metaclass(kind.__name__, (*parts, kind), {"__module__": kind.__module__})
    return _made[kind]


class _Request:
    """Be one request of a chat model of no guarded SDK.

    Args:
        model: The model.
        messages: What it is asked.
        kwargs: The options of the request.
    """

    def __init__(self, model: BaseChatModel, messages: list[BaseMessage], kwargs: dict[str, Any]) -> None:
        self._kwargs = kwargs
        known = [name for name in _LIMITS if name in type(model).model_fields]
        self._limit = next((name for name in _LIMITS if name in kwargs), known[0] if known else _LIMITS[0])
        about = model._get_ls_params(**kwargs)  # noqa: SLF001 - what each integration says of itself
        asked = kwargs.get(self._limit) or getattr(model, self._limit, None) or about.get("ls_max_tokens")
        timeout = getattr(model, "timeout", None) or getattr(model, "request_timeout", None)
        said = [{"role": one.type, "content": one.content} for one in messages]
        calls = [one.tool_calls for one in messages if isinstance(one, AIMessage) and one.tool_calls]
        self.attempt = Attempt(
            model=_priced_name(about.get("ls_provider"), about.get("ls_model_name")),
            input_tokens=likely_tokens(said, *(json.dumps(part, default=repr) for part in (calls, kwargs) if part)),
            output_tokens=asked if isinstance(asked, int) and asked > 0 else None,
            timeout=timeout if isinstance(timeout, int | float) else None,
        )
        self._text: list[str] = []
        self._usage: UsageMetadata | None = None
        self._model: str | None = None

    def limited(self) -> dict[str, Any]:
        """Return the options, with the limit that was granted."""
        limit = self.attempt.output_limit
        return self._kwargs if limit is None else {**self._kwargs, self._limit: limit}

    def take(self, chunk: ChatGenerationChunk) -> None:
        """Take a piece of a stream in; raise our error at `max_seconds`, with what has come."""
        self.attempt.keep()
        message = cast("AIMessageChunk", chunk.message)
        self._text.append(_said(message))
        if message.usage_metadata is not None:
            self._usage = add_usage(self._usage, message.usage_metadata)
        self._model = self._model or _named(message)
        overdue = self.attempt.overdue("".join(self._text))
        if overdue is not None:
            raise overdue

    def end(self, *, is_whole: bool) -> None:
        """Settle a stream by what has come of it; one of which nothing came is left to what ended it."""
        if self._text or is_whole:
            usage = self._usage if is_whole else None
            self.attempt.settle(_reported(usage, self._model, "".join(self._text)))


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
    calls = message.tool_call_chunks if isinstance(message, AIMessageChunk) else message.tool_calls
    return f"{message.text}{json.dumps(calls, default=repr) if calls else ''}"
