"""A small HTTP/1.1 server on 127.0.0.1: one thread, one event loop, any number of keep-alive connections."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, cast

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as it came in; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """One client's connection; its requests are handled one after the other, in a task each.

    The task is cancelled when the client hangs up. What is written here belongs to the request being handled.
    """

    def __init__(
        self, handle: Handler, open_connections: set[Connection], failed: Callable[[BaseException], None]
    ) -> None:
        self._handle = handle
        self._open_connections = open_connections
        self._failed = failed
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take up a new connection."""
        # asyncio sets TCP_NODELAY itself, so that no small write waits for an acknowledgement.
        self._transport = cast("asyncio.Transport", transport)
        self._open_connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Stop the work on the request whose answer nobody can read any more."""
        self._open_connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take in what has arrived."""
        self._buffer += data
        self._take_request()

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response.

        Args:
            status: The HTTP status.
            headers: Its headers, without the length.
            body: Its body.
        """
        self._transport.write(_head(status, {**headers, "content-length": str(len(body))}) + body)

    def promise(self, headers: Mapping[str, str], size: int, body: bytes) -> None:
        """Send a success whose body may be shorter than the *size* it promises.

        Args:
            headers: Its headers, without the length.
            size: The length to promise, in bytes.
            body: What is sent of it.
        """
        self._transport.write(_head(200, {**headers, "content-length": str(size)}) + body)

    def start_stream(self, headers: Mapping[str, str]) -> None:
        """Send the head of a success whose body comes in chunks.

        Args:
            headers: Its headers, without the transfer encoding.
        """
        self._transport.write(_head(200, {**headers, "transfer-encoding": "chunked"}))

    def send_chunk(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of a body that comes in chunks.

        Args:
            data: The piece; not empty unless it is the last.
            last: The body ends with it.
        """
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self._transport.write(chunk + (b"0\r\n\r\n" if last else b""))

    def close(self) -> None:
        """Close the connection once what was written is out."""
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def _take_request(self) -> None:
        if self._task is not None or self._transport.is_closing():
            return
        head_end = self._buffer.find(_HEAD_END)
        if head_end < 0:
            return
        request_line, *header_lines = self._buffer[:head_end].decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in header_lines)}
        method, _, rest = request_line.partition(" ")
        size_text = headers.get("content-length", "0")
        if not size_text.isdecimal() or "transfer-encoding" in headers:
            self.respond(411, {"connection": "close"}, b"")
            self.close()
            return
        body_start = head_end + len(_HEAD_END)
        body_end = body_start + int(size_text)
        if len(self._buffer) < body_end:
            return
        body = bytes(self._buffer[body_start:body_end])
        del self._buffer[:body_end]
        request = HttpRequest(method, rest.partition(" ")[0], MappingProxyType(headers), body)
        self._task = asyncio.get_running_loop().create_task(self._handle(request, self))
        self._task.add_done_callback(self._handled)

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._failed(error)
            self.close()
        self._take_request()


Handler: TypeAlias = Callable[[HttpRequest, Connection], Coroutine[None, None, None]]


class LoopbackServer:
    """Serve HTTP on a free port of 127.0.0.1, from construction until `close`."""

    def __init__(self, handle: Handler) -> None:
        """Listen, and start the thread.

        Args:
            handle: Answers one request; it runs on the server's own event loop.
        """
        self._handle = handle
        self._failures: list[BaseException] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"scripted-model-{self.port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Break every connection, and stop. Closing again does nothing.

        Raises:
            BaseException: The first error that *handle* raised, if it raised any.
        """
        with self._closing:
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(self._stopping.set)
                self._thread.join()
        if self._failures:
            failure = self._failures[0]
            self._failures.clear()
            raise failure

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        open_connections: set[Connection] = set()
        server = await self._loop.create_server(
            lambda: Connection(self._handle, open_connections, self._failures.append), sock=self._socket
        )
        await self._stopping.wait()
        server.close()
        for connection in tuple(open_connections):
            connection.abort()
        # Whatever still runs is a request, or a connection that was being accepted.
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        # A transport reports its end, and lets go of its socket, in the loop's next turn.
        await asyncio.sleep(0)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
