"""Legacy completions, embeddings and Azure's paths: how much a request may cost, and where it goes."""

import openai
import pytest

import stepwarden as sw
from stepwarden.integrations._chat import CompletionCall
from stepwarden.integrations._embeddings import EmbeddingsCall
from stepwarden.testing import Reply, ScriptedModel
from tests.integrations.faces import connected, done, guarded, play


@pytest.mark.parametrize(
    ("given", "choices"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": "a", "n": 2, "best_of": 5}, 5),
        ({"prompt": ["a", "b"], "n": 3}, 6),
        ({"prompt": [1, 2, 3], "n": 2}, 2),
        ({"prompt": [[1, 2], [3]], "best_of": 2}, 4),
        ({"prompt": []}, 1),
        ({}, 1),
    ],
)
def test_every_completion_that_is_made_is_held(given, choices):
    """Prompts times the best of so many is what is generated, shown or not."""
    assert CompletionCall({"model": "m", **given}).choices == choices


def test_a_completion_without_a_limit_stays_as_short_as_the_api_makes_it(server, kind):
    """Where a legacy completion names no limit the API takes 16 tokens; the guard holds and sends those, not more."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_tokens=9_999)), sw.step("s", default_max_output_tokens=512):
                await done(client.completions.create(model="m", prompt="a"))

    play(scenario)
    assert server.requests[0].body["max_tokens"] == 16


def test_completions_share_what_is_granted(server, kind):
    """Two prompts twice each may have a quarter of what was granted, and their usage is that of them all."""
    server.default = Reply(text="word " * 50)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=45)) as run:
                await done(client.completions.create(model="m", prompt=["a", "b"], n=2, max_tokens=30))
        return run

    run = play(scenario)
    assert server.requests[0].body["max_tokens"] == 11
    assert run.total.output_tokens == 44


@pytest.mark.parametrize(
    ("given", "tokens"),
    [("abcdef", 2), (["abcdef", "abc"], 3), ([1, 2, 3], 3), ([[1, 2], [3]], 3), ([], 0), (None, 0)],
)
def test_the_input_of_embeddings_is_estimated_by_the_text_and_known_of_tokens(given, tokens):
    """Token numbers are counted, and texts are estimated, each for itself."""
    assert EmbeddingsCall({"model": "m", "input": given}).asked.likely() == tokens


def test_embeddings_have_room_where_no_output_has(server, kind):
    """Embeddings hold input only, so a step whose output is used up can still make them."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=0)) as run:
                await done(client.embeddings.create(model="openai:m", input=["hello", "there"]))
        return run

    run = play(scenario)
    assert (server.requests[0].body["model"], run.total.output_tokens, run.total.calls) == ("m", 0, 1)


PATHS = [
    ("/openai/deployments/m/completions", lambda client: client.completions.create(model="m", prompt="hello")),
    ("/openai/deployments/m/embeddings", lambda client: client.embeddings.create(model="m", input="hello")),
    ("/openai/responses", lambda client: client.responses.create(model="m", input="hello")),
    (
        "/openai/deployments/m/chat/completions",
        lambda client: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}]),
    ),
]


@pytest.mark.parametrize(("path", "call"), PATHS, ids=[path for path, _ in PATHS])
@pytest.mark.parametrize("kind", [openai.AzureOpenAI, openai.AsyncAzureOpenAI], ids=["sync", "async"])
def test_azures_paths_are_covered(kind, path, call):
    """Azure puts deployments into its paths; every covered API is reserved there, and refused where there is no room."""

    async def scenario():
        with ScriptedModel() as server:
            plain = kind(azure_endpoint=server.origin, api_key="none", api_version="v", max_retries=0)
            client = sw.guard(plain)
            with sw.Run(budget=sw.Budget(max_input_tokens=0)), pytest.raises(sw.BudgetExceededError):
                await done(call(client))
            assert server.count == 0
            with sw.Run(budget=sw.Budget(max_tokens=5_000)) as run:
                # The scripted server has no deployments, so it answers 404: what counts is what was sent.
                with pytest.raises(openai.NotFoundError):
                    await done(call(client))
            await done(plain.close())
            return run, server.requests

    run, requests = play(scenario)
    assert [received.path for received in requests] == [path]
    assert (run.total, run.uncertain, run.held) == (sw.Usage(), sw.Usage(), sw.Usage())


@pytest.mark.parametrize("body", [b"", b"[1]", b"not json"])
def test_a_body_that_cannot_be_read_is_not_sent(server, kind, body):
    """Nobody knows what a request costs that is no JSON object, so it is refused."""

    async def scenario():
        async with connected(kind, server.base_url) as plain:
            with sw.Run(), pytest.raises(sw.PolicyViolationError, match="is no JSON object"):
                await done(sw.guard(plain).post("/chat/completions", content=body, cast_to=object))

    play(scenario)
    assert server.count == 0


def test_install_lets_by_what_is_allowed_and_replaces_it(server):
    """`install` refuses what is not covered unless it is allowed; a second install replaces what is allowed."""
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        try:
            sw.install("openai", allow=["images"])
            with pytest.raises(openai.NotFoundError):
                client.images.generate(model="m", prompt="hello")
            sw.install("openai")
            with pytest.raises(sw.PolicyViolationError):
                client.images.generate(model="m", prompt="hello")
        finally:
            sw.uninstall("openai")
        with pytest.raises(openai.NotFoundError):
            client.images.generate(model="m", prompt="hello")
    assert server.count == 2


def test_what_somebody_holds_on_to_is_without_effect_after_uninstall(server):
    """A method that was taken off the class while it was installed does nothing of ours once it is taken back."""
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        sw.install("openai")
        client._send_request = client._send_request
        sw.uninstall("openai")
        with sw.Run() as run:
            client.embeddings.create(model="m", input="hello")
    assert (run.total.calls, server.count) == (0, 1)
