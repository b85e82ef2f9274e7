"""One request of a scripted model, from its response in the script to the last byte on the wire."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence

from ._books import Entry
from ._loopback import Connection
from ._protocol import Answer, Part, WireProtocol, dump
from ._script import Cut, Drop, Failure, Garbage, Hang, Reply, Response, Scripted, require_response

_JSON = "application/json"
_EVENT_STREAM = "text/event-stream; charset=utf-8"


class Exchange:
    """Play one response on one connection.

    The books are kept ahead of the wire: tokens are charged before the bytes that carry them are written, and the
    request leaves before its last bytes do. So whoever has read an answer finds it in the books.
    """

    __slots__ = ("_connection", "_entry", "_protocol", "_streams")

    def __init__(self, connection: Connection, protocol: WireProtocol, entry: Entry) -> None:
        """Describe the exchange.

        Args:
            connection: Where the request came from.
            protocol: What it speaks.
            entry: Its entry in the books.
        """
        self._connection = connection
        self._protocol = protocol
        self._entry = entry
        self._streams = entry.request.body.get("stream") is True

    async def play(self, scripted: Scripted) -> None:
        """Play *scripted* to its end.

        Args:
            scripted: A response, or the callable that computes it.

        Raises:
            Exception: What the callable raised; the client has got a 500 that says so.
        """
        try:
            await self._perform(scripted if isinstance(scripted, Response) else await self._compute(scripted))
        finally:
            self._entry.leave()

    async def _perform(self, response: Response) -> None:
        match response:
            case Reply():
                await self._reply(response)
            case Cut(reply=reply, after_chunks=after_chunks):
                await self._cut(reply, after_chunks)
            case Failure():
                self._fail(response)
            case Garbage(body=body):
                if self._streams:
                    self._respond(200, self._protocol.event(body), content_type=_EVENT_STREAM)
                else:
                    self._respond(200, body)
            case Hang(seconds=seconds):
                # Hanging up and closing the server both cancel the wait.
                await (asyncio.sleep(seconds) if seconds is not None else asyncio.Event().wait())
                self._break()
            case Drop():
                self._break()

    async def _compute(self, respond: Callable[..., Response]) -> Response:
        """Call the user's function in a thread of its own, so that it may block without stopping the server."""
        outcome: concurrent.futures.Future[Response] = concurrent.futures.Future()
        # Marked as running, it cannot be cancelled: the thread can always deliver, even after the server has closed.
        outcome.set_running_or_notify_cancel()

        def run() -> None:
            try:
                outcome.set_result(require_response("the callable's result", respond(self._entry.request)))
            except BaseException as error:  # noqa: BLE001 - it is raised in the task that waits
                outcome.set_exception(error)

        threading.Thread(target=run, name="scripted-response", daemon=True).start()
        try:
            return await asyncio.wrap_future(outcome)
        except Exception as error:
            message = f"the script failed: {type(error).__name__}: {error}"
            # A client that tried again would take the next response out of the script.
            self._respond(500, self._protocol.error_body(500, message), headers={"x-should-retry": "false"})
            raise

    async def _reply(self, reply: Reply) -> None:
        answer = await self._answer(reply)
        if answer.streams:
            await self._stream(answer.input_tokens, answer.parts, reply.chunk_delay, is_whole=True)
            return
        (body,) = answer.parts
        self._entry.charge(answer.input_tokens, body.output_tokens)
        self._respond(200, body.data)

    async def _cut(self, reply: Reply, after_chunks: int) -> None:
        answer = await self._answer(reply)
        if answer.streams:
            await self._stream(answer.input_tokens, answer.parts[:-1][:after_chunks], reply.chunk_delay, is_whole=False)
            return
        (body,) = answer.parts
        self._entry.charge(answer.input_tokens, body.output_tokens)
        self._entry.leave()
        self._connection.promise({"content-type": _JSON}, len(body.data), body.data[: len(body.data) // 2])
        self._connection.close()

    async def _answer(self, reply: Reply) -> Answer:
        if reply.delay:
            await asyncio.sleep(reply.delay)
        return self._protocol.render(self._entry.request.body, reply, self._entry.number)

    async def _stream(self, input_tokens: int, parts: Sequence[Part], pause: float, *, is_whole: bool) -> None:
        if not pause and parts:
            # One write for them all: a benchmark should wait for its guard, not for this server.
            parts = (Part(b"".join(part.data for part in parts), sum(part.output_tokens for part in parts)),)
        self._entry.charge(input_tokens, 0)
        self._connection.start_stream({"content-type": _EVENT_STREAM, **self._identity()})
        for position, part in enumerate(parts, start=1):
            if position > 1:
                await asyncio.sleep(pause)
            self._entry.charge(0, part.output_tokens)
            is_last = position == len(parts)
            if is_last:
                self._entry.leave()
            self._connection.send_chunk(part.data, last=is_last and is_whole)
        if not is_whole:
            self._break()

    def _fail(self, failure: Failure) -> None:
        headers = {} if failure.retry_after is None else {"retry-after": f"{failure.retry_after:g}"}
        body = failure.body
        if body is None:
            body = self._protocol.error_body(failure.status, failure.message, param=failure.param)
        self._respond(failure.status, body if isinstance(body, bytes) else dump(body), headers=headers)

    def _respond(
        self, status: int, body: bytes, *, content_type: str = _JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        self._entry.leave()
        self._connection.respond(status, {"content-type": content_type, **self._identity(), **(headers or {})}, body)

    def _break(self) -> None:
        self._entry.leave()
        self._connection.close()

    def _identity(self) -> dict[str, str]:
        return {"x-request-id": f"req_{self._entry.number}"}
