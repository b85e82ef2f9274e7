"""A model server on loopback that says what a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from ._books import Books, ServedTokens
from ._chat_protocol import ChatProtocol
from ._completions_protocol import CompletionsProtocol
from ._embeddings_protocol import EmbeddingsProtocol
from ._exchange import Exchange
from ._loopback import Connection, HttpRequest, LoopbackServer
from ._messages_protocol import CountTokensProtocol, MessagesProtocol
from ._protocol import RejectedRequestError, WireProtocol
from ._responses_protocol import ResponsesProtocol
from ._script import Failure, ReceivedRequest, Reply, Scripted, require_scripted

_OK: Final = Reply()
_CHAT: Final = ChatProtocol()
_PROTOCOLS: Final[dict[str, WireProtocol]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": CompletionsProtocol(),
    "/v1/embeddings": EmbeddingsProtocol(),
    "/v1/responses": ResponsesProtocol(),
    "/v1/messages": MessagesProtocol(),
    "/v1/messages/count_tokens": CountTokensProtocol(),
}


class ScriptedModel:
    """Serve scripted responses to real clients, and keep count of what really arrives.

    It speaks OpenAI chat completions, responses, completions and embeddings, and Anthropic messages, streaming and
    not, on a free port of 127.0.0.1. Each request that arrives takes one response off the script, in the order of
    arrival; when the script is empty it gets the `default`. Where a response may stand, a callable from a
    `ReceivedRequest` to a response may, too: it is called in a thread of its own, so it may block until the test lets
    it go on. If it raises, the client gets a 500, and `close` raises the error.

    Requests that no script can answer (an unknown path, a body that is no request of the API) are refused as the API
    would, and take nothing off the script; nor does counting tokens. All of its methods may be called from any thread.

    Example:
        >>> import openai
        >>> with ScriptedModel() as server:
        ...     server.enqueue(Reply("four", output_tokens=1))
        ...     with openai.OpenAI(base_url=server.base_url, api_key="none") as client:
        ...         completion = client.chat.completions.create(
        ...             model="any", messages=[{"role": "user", "content": "2 + 2?"}]
        ...         )
        ...     completion.choices[0].message.content, server.count, server.usage.output_tokens
        ('four', 1, 1)
    """

    def __init__(self, *, default: Scripted = _OK) -> None:
        """Write the script; nothing is listening yet.

        Args:
            default: The response when the script is empty.

        Raises:
            TypeError: *default* is not a response.
        """
        require_scripted("default", default)
        self._first_default = self._default = default
        self._script: deque[Scripted] = deque()
        self._script_lock = threading.Lock()
        self._books = Books()
        self._server: LoopbackServer | None = None

    def start(self) -> None:
        """Listen on a free port.

        Raises:
            RuntimeError: It was started before; a server starts once.
        """
        if self._server is not None:
            raise RuntimeError("this ScriptedModel was started before; make a new one")
        self._server = LoopbackServer(self._handle)

    def close(self) -> None:
        """Break every connection, those of hanging requests too, and stop. Closing again does nothing.

        What was counted stays readable, and `base_url` then is an address that refuses connections.

        Raises:
            Exception: What a callable in the script raised, if one did.
        """
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def base_url(self) -> str:
        """The URL to give to an OpenAI client, ``http://127.0.0.1:PORT/v1``.

        Raises:
            RuntimeError: The server was not started.
        """
        return f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        """The URL to give to an Anthropic client, ``http://127.0.0.1:PORT``.

        Raises:
            RuntimeError: The server was not started.
        """
        if self._server is None:
            raise RuntimeError("this ScriptedModel has no address yet; call start(), or enter it")
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def default(self) -> Scripted:
        """The response when the script is empty; it may be replaced at any time."""
        return self._default

    @default.setter
    def default(self, response: Scripted) -> None:
        require_scripted("default", response)
        self._default = response

    def enqueue(self, *responses: Scripted) -> None:
        """Add *responses* to the end of the script.

        Args:
            responses: One response for each request to come.

        Raises:
            TypeError: One of them is not a response; then none was added.
        """
        for position, response in enumerate(responses):
            require_scripted(f"responses[{position}]", response)
        with self._script_lock:
            self._script.extend(responses)

    def reset(self) -> None:
        """Empty the script and the books, and put the first default back.

        Requests in flight go on. They stay in `in_flight`, and count nowhere else any more.
        """
        with self._script_lock:
            self._script.clear()
            self._default = self._first_default
        self._books.empty()

    @property
    def requests(self) -> tuple[ReceivedRequest, ...]:
        """Every request that arrived, in that order; refused, failed and hung ones too."""
        return self._books.requests

    @property
    def count(self) -> int:
        """How many requests arrived."""
        return self._books.count

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now."""
        return self._books.in_flight

    @property
    def max_in_flight(self) -> int:
        """The most requests that were being answered at one time."""
        return self._books.max_in_flight

    @property
    def usage(self) -> ServedTokens:
        """The tokens of all replies, as reported, or as they would have been if the client had asked.

        A stream that stopped early counts its whole input, and the output that was sent until then.
        """
        return self._books.served

    def wait_for(self, count: int, timeout: float = 5.0) -> None:
        """Wait until *count* requests have arrived since the start or the last `reset`.

        It blocks its thread; in a coroutine, use `asyncio.to_thread`.

        Args:
            count: How many.
            timeout: The most seconds to wait.

        Raises:
            TimeoutError: They did not arrive in time; the message says how many did.
        """
        self._books.wait_for(count, timeout)

    def wait_until_idle(self, timeout: float = 5.0) -> None:
        """Wait until no request is in flight, as after a client has hung up.

        It blocks its thread; in a coroutine, use `asyncio.to_thread`.

        Args:
            timeout: The most seconds to wait.

        Raises:
            TimeoutError: Some are in flight still; the message says how many.
        """
        self._books.wait_until_idle(timeout)

    async def _handle(self, http: HttpRequest, connection: Connection) -> None:
        path = urlsplit(http.target).path
        body = _json_object(http.body)
        protocol = _PROTOCOLS.get(path) if http.method == "POST" else None
        refusal = _refusal(http.method, path, body, protocol)
        # The response is taken before the request is counted: what a test adds once it has seen a count
        # belongs to later requests.
        is_free = protocol is not None and protocol.is_free
        scripted = refusal or (_OK if is_free else self._take_response())
        entry = self._books.arrive(
            ReceivedRequest(path=path, headers=http.headers, body=body or {}, at_ns=time.monotonic_ns())
        )
        await Exchange(connection, protocol or _CHAT, entry).play(scripted)

    def _take_response(self) -> Scripted:
        with self._script_lock:
            return self._script.popleft() if self._script else self._default


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _refusal(method: str, path: str, body: dict[str, Any] | None, protocol: WireProtocol | None) -> Failure | None:
    if protocol is None:
        return Failure(404, f"Invalid URL ({method} {path})")
    if body is None:
        return Failure(400, "the request's body is not a JSON object")
    try:
        protocol.check(body)
    except RejectedRequestError as error:
        return Failure(400, str(error), param=error.param)
    return None
