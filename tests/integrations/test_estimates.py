"""Input estimates: what is likely, what is the most, what a user's own function says, and what cannot be bounded."""

import base64
import json

import anthropic
import pytest

import stepwarden as sw
from stepwarden.integrations._embeddings import EmbeddingsCall
from stepwarden.integrations._estimate import input_tokens
from stepwarden.integrations._image import anthropic_image, openai_image, size_of_image
from stepwarden.integrations._input import ANTHROPIC_ADDS, ANY, CHAT, MESSAGES, OPENAI_ADDS, RESPONSES, Conversation
from stepwarden.integrations._seam import Attempt, Reported
from stepwarden.testing import Reply
from tests.integrations.faces import HELLO, ask, connected, done, guarded, play

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4) + (480).to_bytes(4)
GIF = b"GIF89a" + (640).to_bytes(2, "little") + (480).to_bytes(2, "little")
JPEG = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08" + (480).to_bytes(2) + (640).to_bytes(2)
WEBP_LARGE = b"RIFF....WEBPVP8X........" + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
WEBP_LOSSLESS = b"RIFF....WEBPVP8L..../" + (639 + (479 << 14)).to_bytes(4, "little")
WEBP = b"RIFF....WEBPVP8 .........." + (640).to_bytes(2, "little") + (480).to_bytes(2, "little")


def text64(data):
    return base64.b64encode(data + bytes(12)).decode()


def image(data=PNG, **more):
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text64(data)}", **more}}


def said(*parts):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize("data", [PNG, GIF, JPEG, WEBP_LARGE, WEBP_LOSSLESS, WEBP])
def test_the_size_of_an_image_is_read_from_its_head(data):
    """PNG, GIF, JPEG and the three kinds of WebP say how large they are."""
    assert size_of_image(text64(data)) == (640, 480)


@pytest.mark.parametrize(
    "data", ["", "!!!!", "abc", text64(b"\xff\xd8\xff"), text64(b"BM"), text64(b"RIFF....WEBPVP9 ")]
)
def test_an_image_that_does_not_say_its_size_has_none(data):
    """What is no image, torn, or of another format has no size, and no error."""
    assert size_of_image(data) is None


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1_024, 1_024), "high", 765),
        ("gpt-4o", (2_048, 4_096), "auto", 1_105),
        ("gpt-4o", (4_096, 8_192), "low", 85),
        ("ft:gpt-4o-mini:team", (512, 512), "high", 2_833 + 5_667),
        ("gpt-5-chat-latest", (512, 512), "high", 210),
        ("gpt-4.1-mini", (1_024, 1_024), "high", 1_659),
        ("gpt-5-nano", (4_000, 4_000), "high", 3_779),
        ("o4-mini", (4_000, 4_000), "low", 441),
        ("a-deployment", (1_024, 1_024), "high", 1_024),
    ],
)
def test_openai_counts_images_by_tiles_or_patches(model, size, detail, tokens):
    """The documented examples of both rules come out, and a model that is not known sees patches."""
    assert openai_image(model, size, detail, is_most=False) == tokens
    assert openai_image(model, size, detail, is_most=True) >= tokens


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("claude-sonnet-4-5", (200, 200), 64),
        ("claude-sonnet-4-5", (1_000, 1_000), 1_334),
        ("us.anthropic.claude-opus-4-20250514-v1:0", (4_000, 4_000), 1_600),
        ("claude-opus-4-7", (4_000, 4_000), 4_784),
        ("claude-3-haiku-20240307", None, 1_600),
        ("claude-next", None, 4_784),
    ],
)
def test_anthropic_counts_images_by_their_pixels(model, size, tokens):
    """An image is its pixels by 750, or its patches; a larger one is made smaller, and most models see less of it."""
    assert anthropic_image(model, size, "auto", is_most=True) == tokens


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini", "o4-mini", "someone-elses"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9_000), (700, 900), (9_000, 9_000)])
@pytest.mark.parametrize("detail", ["low", "auto"])
def test_an_image_of_a_known_size_is_within_the_most(model, size, detail):
    """What is likely is at most the bound of that size, and that is at most the bound of any."""
    likely, most, ever = (
        openai_image(model, size, detail, is_most=False),
        openai_image(model, size, detail, is_most=True),
        openai_image(model, None, detail, is_most=True),
    )
    assert likely <= most <= ever


def test_the_bytes_of_an_image_are_not_counted_as_text():
    """An image counts by its size and not by its bytes, likely and at most, in a tool's result too."""
    small, large = said(image(PNG)), said(image(PNG + bytes(90_000)))
    for asked in ("likely", "most"):
        assert getattr(Conversation(small, CHAT), asked)() == getattr(Conversation(large, CHAT), asked)()
    source = {"type": "base64", "media_type": "image/png", "data": text64(PNG + bytes(90_000))}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": source}]}
    request = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": [result]}]}
    assert 410 <= Conversation(request, MESSAGES).likely() < 500
    assert 410 <= Conversation(request, MESSAGES).most() - ANTHROPIC_ADDS < 700
    shown = {"type": "computer_call_output", "call_id": "c"}
    shown["output"] = {"type": "computer_screenshot", "image_url": image(PNG + bytes(90_000))["image_url"]["url"]}
    assert Conversation({"input": [shown]}, RESPONSES).most() - OPENAI_ADDS < 2_000


def test_what_a_tool_was_called_with_is_text_whatever_it_looks_like():
    """An argument in the shape of an image is counted byte by byte."""
    use = {"type": "tool_use", "id": "t", "name": "f", "input": image(PNG + bytes(9_000))}
    assert Conversation({"messages": [{"role": "assistant", "content": [use]}]}, MESSAGES).most() > 12_000


def test_an_image_somewhere_else_is_likely_a_megapixel_and_at_most_what_the_rule_allows():
    """Behind an address nobody sees the size, so that the most is what the provider documents."""
    request = said({"type": "image_url", "image_url": {"url": "https://example.org/x.png"}})
    assert 765 <= Conversation(request, CHAT).likely() < 820
    assert 85 + 8 * 170 < Conversation(request, CHAT).most() - OPENAI_ADDS < 1_700


def test_files_and_sounds_are_likely_by_their_size():
    """A file is 3,000 tokens for each page that its size lets expect, a sound ten tokens a second."""
    small = {"type": "file", "file": {"file_id": "f"}}
    large = {"type": "file", "file": {"file_data": "x" * 100_000}}
    assert 3_000 < Conversation(said(small), CHAT).likely() < 3_050
    assert 9_000 < Conversation(said(large), CHAT).likely() < 9_050
    sound = {"type": "input_audio", "input_audio": {"data": "x" * 100_000, "format": "wav"}}
    assert 50 < Conversation(said(sound), CHAT).likely() < 100
    assert 100_000 < Conversation(said(sound), CHAT).most() < 101_000


def test_a_document_that_is_text_is_text():
    """A document in plain text is in the request, and bounded by its bytes."""
    source = {"type": "text", "media_type": "text/plain", "data": "words " * 1_000}
    request = {"messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}
    assert 2_000 < Conversation(request, MESSAGES).likely() < 2_100
    assert 6_000 < Conversation(request, MESSAGES).most() - ANTHROPIC_ADDS < 6_200


FILE = {"type": "file", "file": {"file_data": "JVBERi0="}}
UNBOUNDED = [
    (RESPONSES, {"previous_response_id": "r"}, "`previous_response_id`"),
    (RESPONSES, {"conversation": {"id": "c"}}, "`conversation`"),
    (RESPONSES, {"prompt": {"id": "p"}}, "`prompt`"),
    (RESPONSES, {"tools": [{"type": "web_search"}]}, "`tools[0]` is 'web_search'"),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "i"}]}, "`input[0]` is a item_reference"),
    (RESPONSES, {"input": [{"type": "reasoning", "id": "i"}]}, "`input[0]` is a reasoning"),
    (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        "`input[0].content[0].file_id`",
    ),
    (CHAT, {"web_search_options": {"user_location": "here"}}, "`web_search_options`"),
    (CHAT, {"web_search_options": {}}, "`web_search_options` refers"),
    (CHAT, {"model": "gpt-4o-search-preview"}, "`model` is 'gpt-4o-search-preview', which searches"),
    (CHAT, said(FILE), "`messages[0].content[0]` is a file"),
    (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "`messages[0].audio.id`"),
    (MESSAGES, {"container": "c"}, "`container`"),
    (MESSAGES, {"mcp_servers": [{"url": "x"}]}, "`mcp_servers`"),
    (MESSAGES, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "`tools[0]`"),
    (
        MESSAGES,
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]},
        "`messages[0].content[0].source.file_id`",
    ),
    (ANY, said(image()), "`messages[0].content[0]` is an image"),
]


@pytest.mark.parametrize(("rules", "request_", "named"), UNBOUNDED, ids=[case[2] for case in UNBOUNDED])
def test_what_no_request_bounds_is_refused_by_name(rules, request_, named):
    """With `upper_bound`, input that the server holds or that nobody can measure is refused, and the field is named."""
    with pytest.raises(sw.PolicyViolationError, match="it was not sent") as refused:
        input_tokens(Conversation(request_, rules), "upper_bound")
    assert named in str(refused.value)
    assert input_tokens(Conversation(request_, rules), "likely") > 0


def test_token_numbers_and_texts_to_embed_are_bounded_by_their_json():
    """Of what is embedded, too, no more can be counted than its JSON is long."""
    request = {"model": "openai:m", "input": [[1, 2, 3], [4]]}
    sent = len(json.dumps({**request, "model": "m"}, separators=(",", ":")))
    assert EmbeddingsCall(request).asked.most() == sent + OPENAI_ADDS


@pytest.mark.parametrize("estimate", ["exact", None, 4, {"likely"}])
def test_an_estimate_that_is_none_is_refused_when_it_is_given(kind, estimate):
    """`guard`, `install` and pydantic-ai's guard say what an estimate can be."""
    pydantic_ai = pytest.importorskip("stepwarden.integrations.pydantic_ai")
    client = kind(api_key="none", base_url="http://127.0.0.1:9")
    for take in (
        lambda: sw.guard(client, estimate=estimate),
        lambda: sw.install("openai", estimate=estimate),
        lambda: pydantic_ai.Guard(estimate=estimate),
        lambda: pydantic_ai.GuardedModel("test", estimate=estimate),
    ):
        with pytest.raises(sw.DefinitionError, match="estimate must be 'likely', 'upper_bound' or a function"):
            take()


def test_a_coroutine_function_is_no_estimate(kind):
    """Nothing would wait for it."""

    async def count(request):
        return 1

    with pytest.raises(sw.DefinitionError, match="a plain function"):
        sw.guard(kind(api_key="none", base_url="http://127.0.0.1:9"), estimate=count)


@pytest.mark.parametrize(("given", "error"), [("12", TypeError), (1.5, TypeError), (None, TypeError), (-1, ValueError)])
def test_a_function_that_returns_no_tokens_stops_the_call(server, kind, given, error):
    """The error says what came back, arrives as it is, and nothing is sent or kept."""

    async def scenario():
        async with connected(kind, server.base_url, max_retries=2) as plain:
            client = sw.guard(plain, estimate=lambda request: given)
            with pytest.raises(error, match="estimate"):
                await ask(client)

    with sw.Run(budget=sw.Budget(max_tokens=100)) as run:
        play(scenario)
    assert not server.requests
    assert (run.held, run.total) == (sw.Usage(), sw.Usage())


def test_a_function_sees_the_request_as_it_is_sent_and_decides(server, kind):
    """It is given the JSON with the model's own name, and what it returns is what is held."""
    seen = []

    def count(request):
        seen.append(request)
        return 77

    server.enqueue(Reply("hi", input_tokens=5, output_tokens=2))

    async def scenario():
        async with connected(kind, server.base_url) as plain:
            client = sw.guard(plain, estimate=count).with_options(timeout=9)
            await ask(client, model="openai:m")

    with sw.Run(budget=sw.Budget(max_tokens=87)):
        play(scenario)
    assert [(request["model"], request["messages"]) for request in seen] == [("m", HELLO)]
    assert server.requests[0].body["max_tokens"] == 10


@pytest.mark.parametrize("where", ["guard", "install", "both"])
def test_an_upper_bound_holds_wherever_it_was_asked_for(server, kind, where):
    """By `guard`, by `install`, and by `guard` inside an `install` that estimates otherwise."""
    bound = Conversation({"model": "m", "messages": HELLO, "max_tokens": 10}, CHAT).most()

    async def scenario():
        async with connected(kind, server.base_url) as plain:
            if where != "guard":
                sw.install("openai", estimate="upper_bound" if where == "install" else "likely")
            client = plain if where == "install" else sw.guard(plain, estimate="upper_bound")
            try:
                with sw.Run(budget=sw.Budget(max_input_tokens=bound - 1)), pytest.raises(sw.BudgetExceededError):
                    await ask(client)
                with sw.Run(budget=sw.Budget(max_input_tokens=bound)):
                    await ask(client)
                with pytest.raises(sw.PolicyViolationError, match="previous_response_id"):
                    await done(client.responses.create(model="m", input="x", previous_response_id="r"))
            finally:
                sw.uninstall("openai")

    play(scenario)
    assert len(server.requests) == 1


def test_anthropic_takes_an_estimate_too(server):
    """A guarded Anthropic client refuses what nothing bounds, and reserves the bound of the rest."""
    with anthropic.Anthropic(base_url=server.base_url.removesuffix("/v1"), api_key="none", max_retries=0) as plain:
        client = sw.guard(plain, estimate="upper_bound")
        asked = {"model": "m", "max_tokens": 10, "messages": HELLO}
        bound = Conversation(asked, MESSAGES).most()
        with pytest.raises(sw.PolicyViolationError, match="mcp_servers"):
            client.beta.messages.create(**asked, mcp_servers=[{"type": "url", "url": "x", "name": "x"}])
        with sw.Run(budget=sw.Budget(max_input_tokens=bound - 1)), pytest.raises(sw.BudgetExceededError):
            client.messages.create(**asked)
    assert not server.requests


def test_a_guard_keeps_the_estimate_that_it_has(server, kind):
    """A guarded client stays as it is; another estimate is refused and not taken in silence."""

    async def scenario():
        async with guarded(kind, server) as client:
            assert sw.guard(client) is client
            with pytest.raises(sw.DefinitionError, match="already guarded, with estimate='likely'"):
                sw.guard(client, estimate="upper_bound")

    play(scenario)


def test_what_the_user_said_holds_for_every_call_inside():
    """Through any number of guards that only guess, the outermost's estimate stays; one that was told has its own."""
    with sw.Run(budget=sw.Budget(max_tokens=1_000)) as run:
        with Attempt(model="m", input_tokens=50, output_tokens=5, is_stated=True) as outer:
            with Attempt(model="m", input_tokens=10, output_tokens=5) as middle:
                with Attempt(model="m", input_tokens=10, output_tokens=5) as inner:
                    assert run.held.input_tokens == 50
                    inner.settle(Reported(output_tokens=1))
                middle.release()
            outer.release()
        assert run.own.input_tokens == 50
        with Attempt(model="m", input_tokens=50, output_tokens=5, is_stated=True) as outer:
            with Attempt(model="m", input_tokens=20, output_tokens=5, is_stated=True) as inner:
                assert run.held.input_tokens == 20
                inner.release()
            with Attempt(model="m", input_tokens=7, output_tokens=5) as later:
                assert run.held.input_tokens == 7
                later.release()
