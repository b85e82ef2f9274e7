"""The provider that every library calls: it costs $0.10 a call, takes a moment to answer, and counts."""

import asyncio
import threading
import time
from typing import Any

from benchmarks.parallel import ANSWER_SECONDS

MODEL = "made-up-model"  # no library may need the network to count its tokens
OUTPUT_TOKENS = 100
PRICE_OF_OUTPUT = "0.001"  # USD; input is free, so that a call costs what it costs, however its text is counted
ANSWER = {
    "id": "answer",
    "object": "chat.completion",
    "created": 0,
    "model": MODEL,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 10 + OUTPUT_TOKENS},
}
REQUEST: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Is it?"}],
    "max_tokens": OUTPUT_TOKENS,
}


class Provider:
    """Answer and count, whoever asks: a plain call, or the OpenAI SDK."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()

    def call(self) -> None:
        """Answer a thread."""
        self._count()
        time.sleep(ANSWER_SECONDS)

    async def call_async(self) -> None:
        """Answer a task."""
        self._count()
        await asyncio.sleep(ANSWER_SECONDS)

    def client(self) -> Any:
        """Make an OpenAI client whose requests end here."""
        import httpx2
        import openai

        def answer(request: Any) -> Any:
            self.call()
            return httpx2.Response(200, json=ANSWER, request=request)

        transport = httpx2.MockTransport(answer)
        return openai.OpenAI(api_key="none", http_client=httpx2.Client(transport=transport), max_retries=0)

    def async_client(self) -> Any:
        """Make an asynchronous OpenAI client whose requests end here."""
        import httpx2
        import openai

        async def answer(request: Any) -> Any:
            await self.call_async()
            return httpx2.Response(200, json=ANSWER, request=request)

        transport = httpx2.MockTransport(answer)
        return openai.AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport), max_retries=0)

    def _count(self) -> None:
        with self._lock:
            self.calls += 1
