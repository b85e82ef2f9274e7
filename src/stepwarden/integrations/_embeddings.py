"""OpenAI's embeddings on the wire: input is all that they cost."""

from __future__ import annotations

from typing import Any

from ._chat import PREFIXES, ChatStream
from ._estimate import Asked
from ._fast_json import parsed
from ._input import Prompts
from ._json import count, encoded, model_of, text_of, with_model
from ._seam import Reported


class EmbeddingsCall:
    """Be one request for embeddings.

    Args:
        request: The request's JSON.
    """

    choices = 1
    min_output = output_limit = 0
    is_stream = False

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self.model = model_of(request)

    @property
    def asked(self) -> Asked:
        """What it has as input; of token numbers it is known."""
        return Prompts(with_model(self._request, self.model, PREFIXES), ("input",))

    def body(self, output_limit: int | None) -> bytes | None:  # noqa: ARG002 - there is no output to limit
        """Return the request's body, or None where nothing in it changes."""
        request = with_model(self._request, self.model, PREFIXES)
        return None if request == self._request else encoded(request)

    def read(self, body: bytes) -> Reported:
        """Read a whole reply; raise a ValueError where it is none."""
        reply = parsed(body)
        if not isinstance(reply, dict) or not isinstance(reply.get("data"), list):
            raise ValueError("no embeddings")  # noqa: TRY004 - what a reply that cannot be read is, here
        return Reported(
            model=text_of(reply.get("model")),
            input_tokens=count(reply.get("usage"), "prompt_tokens"),
            output_tokens=0,
        )

    def stream(self) -> ChatStream:
        """Return what would read a stream; embeddings have none."""
        return ChatStream(hides_usage=False)
