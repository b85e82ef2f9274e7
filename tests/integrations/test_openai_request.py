"""What a guarded OpenAI client really sends: the granted limit under the caller's name, and nothing else changed."""

import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.integrations._chat import ChatCall
from stepwarden.testing import Failure, Hang, Reply
from tests.integrations.faces import HELLO, PRICES, ask, done, guarded, play, read_out

NAMES = ["max_tokens", "max_completion_tokens"]


def sent(server, kind, run, **request):
    """Send one request in a run, and return the body that arrived."""

    async def scenario():
        async with guarded(kind, server) as client:
            with run:
                reply = await done(client.chat.completions.create(**{"model": "m", "messages": HELLO, **request}))
                if request.get("stream"):
                    await read_out(reply)

    play(scenario)
    return server.requests[-1].body


@pytest.mark.parametrize("named", [*[[name] for name in NAMES], NAMES], ids=["old", "new", "both"])
def test_the_granted_limit_is_sent_under_the_callers_own_name(server, kind, named):
    """A lowered limit stands under each name that the caller used, and under no other."""
    body = sent(server, kind, sw.Run(budget=sw.Budget(max_output_tokens=4)), **dict.fromkeys(named, 10))
    assert {name: body[name] for name in NAMES if name in body} == dict.fromkeys(named, 4)


def test_of_two_limits_the_lower_is_reserved(server, kind):
    """A request that names both limits is held to the lower one."""
    run = sw.Run(budget=sw.Budget(max_tokens=500))
    body = sent(server, kind, run, max_tokens=10, max_completion_tokens=20)
    assert (body["max_tokens"], body["max_completion_tokens"]) == (10, 10)


@pytest.mark.parametrize(
    ("step", "run", "expected"), [(32, 64, 32), (None, 64, 64), (None, None, 1_024), (32, None, 32)]
)
def test_a_call_without_a_limit_gets_the_steps_default_else_the_runs(server, kind, step, run, expected):
    """The output assumed for a call that names none is the nearest step's, else the run's, else 1,024; it is sent."""

    async def scenario():
        async with guarded(kind, server) as client:
            with (
                sw.Run(budget=sw.Budget(max_tokens=9_999), default_max_output_tokens=run),
                sw.step("outer", default_max_output_tokens=step),
                sw.step("inner"),
            ):
                server.default = lambda request: Reply(output_tokens=1)
                await done(client.chat.completions.create(model="m", messages=HELLO))

    play(scenario)
    body = server.requests[0].body
    assert {name: body.get(name) for name in NAMES} == {"max_tokens": None, "max_completion_tokens": expected}


def test_a_limit_given_as_null_is_none(server, kind):
    """A limit that is null in the request is as good as none."""
    body = sent(server, kind, sw.Run(budget=sw.Budget(max_tokens=9_999)), max_tokens=None)
    assert (body["max_tokens"], body["max_completion_tokens"]) == (None, 1_024)


def test_several_choices_share_what_is_granted(server, kind):
    """`n` choices hold n times their limit, and each may have its whole part of what was granted."""
    body = sent(server, kind, sw.Run(budget=sw.Budget(max_output_tokens=11)), n=3, max_tokens=10)
    assert body["max_tokens"] == 3


def test_several_choices_need_a_token_each(server, kind):
    """Fewer tokens than choices are no room at all: refused, and not sent."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=2)), pytest.raises(sw.BudgetExceededError) as caught:
                await ask(client, n=3)
            return caught.value

    assert play(scenario).requested == 3
    assert server.count == 0


@pytest.mark.parametrize(
    "budget",
    [None, sw.Budget(max_calls=9), sw.Budget(max_tool_calls=0), sw.Budget(max_seconds=600)],
    ids=["none", "calls", "tools", "seconds"],
)
@pytest.mark.parametrize("extra", [{}, {"max_tokens": 10}, {"stream": True}], ids=["plain", "limit", "stream"])
def test_without_a_token_or_dollar_limit_nothing_is_touched(server, kind, budget, extra):
    """Where no limit needs it the request arrives as it was made, and is counted all the same."""
    run = sw.Run(budget=budget)
    assert sent(server, kind, run, **extra) == {"model": "m", "messages": HELLO, **extra}
    assert run.total.calls == 1


@pytest.mark.parametrize("limit", ["max_tokens", "max_input_tokens", "max_output_tokens", "max_usd"])
def test_one_limit_anywhere_around_is_enough_to_bound_the_request(server, kind, limit):
    """A token or USD limit two scopes further out bounds the request too."""

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(budget=sw.Budget(**{limit: 5_000}), prices=PRICES), sw.step("outer"), sw.step("inner"):
                await done(client.chat.completions.create(model="m", messages=HELLO))

    play(scenario)
    assert server.requests[0].body["max_completion_tokens"] == 1_024


def test_a_dollar_limit_lowers_the_output_to_what_it_pays_for(server, kind):
    """Under a USD limit the granted output is what the rest pays for, once the input is paid."""
    body = sent(server, kind, sw.Run(budget=sw.Budget(max_usd=60), prices=PRICES), max_tokens=1_000)
    estimate = ChatCall({"messages": HELLO}).asked.likely()
    assert body["max_tokens"] == (60 - estimate) // 2


@pytest.mark.parametrize("budget", [None, sw.Budget(max_tokens=500)], ids=["unbounded", "bounded"])
@pytest.mark.parametrize(
    ("named", "arrives"),
    [
        ("openai:m", "m"),
        ("openai-chat:m", "m"),
        ("openai-responses:ft:m:team", "ft:m:team"),
        ("m", "m"),
        ("ft:m:team", "ft:m:team"),
        ("azure:m", "azure:m"),
    ],
)
def test_only_its_own_providers_prefix_is_stripped(server, kind, budget, named, arrives):
    """OpenAI's prefixes are taken off what is sent, with limits and without; any other colon belongs to the name."""
    assert sent(server, kind, sw.Run(budget=budget), model=named)["model"] == arrives


def test_the_callers_objects_stay_as_they_were(server, kind):
    """What is rewritten is the request on its way; the caller's messages and options are not."""
    messages, options = [{"role": "user", "content": "grüezi 🏔"}], {}
    run = sw.Run(budget=sw.Budget(max_tokens=500))
    body = sent(server, kind, run, messages=messages, stream=True, stream_options=options)
    assert (messages, options) == ([{"role": "user", "content": "grüezi 🏔"}], {})
    assert body["messages"] == messages
    assert body["stream_options"] == {"include_usage": True}


def test_other_stream_options_survive(server, kind):
    """Asking for usage leaves what else the caller wants of the stream."""
    run = sw.Run(budget=sw.Budget(max_tokens=500))
    body = sent(server, kind, run, stream=True, stream_options={"include_obfuscation": False})
    assert body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_headers_and_other_fields_survive(server, kind):
    """A rewritten request keeps its headers and all else in its body, and its length is right."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    more = {"tools": tools, "temperature": 0.25, "seed": 2**60, "extra_body": {"own_field": [1, None]}}
    run = sw.Run(budget=sw.Budget(max_output_tokens=4))
    body = sent(server, kind, run, max_tokens=10, extra_headers={"x-own": "yes"}, **more)
    assert body == {
        "model": "m", "messages": HELLO, "max_tokens": 4, "tools": tools, "temperature": 0.25, "seed": 2**60,
        "own_field": [1, None],
    }  # fmt: skip
    headers = server.requests[0].headers
    assert (headers["x-own"], headers["authorization"], headers["content-type"]) == (
        "yes", "Bearer none", "application/json",
    )  # fmt: skip


def test_every_attempt_is_granted_anew(server, kind):
    """A retry is sent with what is granted to it, not with what the attempt before it had."""
    server.enqueue(Failure(500, retry_after=0.01))

    async def scenario():
        async with guarded(kind, server, max_retries=1) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=15)):
                await ask(client)

    play(scenario)
    assert [request.body["max_tokens"] for request in server.requests] == [10, 5]


def test_max_seconds_gives_a_call_the_rest_as_its_timeout(server, clock):
    """A call's time-outs are what `max_seconds` leaves on the chain, where the client's own are not shorter."""
    seen = []
    with (
        openai.DefaultHttpxClient(event_hooks={"request": [seen.append]}) as http,
        openai.OpenAI(base_url=server.base_url, api_key="none", http_client=http, timeout=4) as plain,
    ):
        client = sw.guard(plain)
        with sw.Run(budget=sw.Budget(max_seconds=10)), sw.step("s", budget=sw.Budget(max_seconds=3)):
            clock.advance(2)
            client.chat.completions.create(model="m", messages=HELLO)
        with sw.Run(budget=sw.Budget(max_seconds=10)):
            client.chat.completions.create(model="m", messages=HELLO)
            client.with_options(timeout=None).chat.completions.create(model="m", messages=HELLO)
    names = ("connect", "read", "write", "pool")
    assert [request.extensions["timeout"] for request in seen] == [dict.fromkeys(names, s) for s in (1, 4, 10)]


@pytest.mark.parametrize("max_retries", [0, 3])
def test_a_silent_server_is_left_when_max_seconds_are_over(server, kind, max_retries):
    """What nobody answers in the time that is left ends with the error of `max_seconds`, and is not tried again."""
    server.default = Hang()

    async def scenario():
        async with guarded(kind, server, max_retries=max_retries) as client:
            with sw.Run(budget=sw.Budget(max_seconds=0.2)) as run, pytest.raises(sw.BudgetExceededError) as caught:
                await ask(client)
        return run, caught.value

    run, error = play(scenario)
    assert (error.limit, error.phase, server.count) == ("max_seconds", "deadline", 1)
    assert run.uncertain.output_tokens == 10


LIMITS = st.one_of(st.none(), st.integers(-2, 5_000), st.floats(), st.booleans(), st.text(max_size=2), st.just([1]))
REQUESTS = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "openai:m", ""]), "messages": st.just(HELLO)},
    optional={
        "max_tokens": LIMITS,
        "max_completion_tokens": LIMITS,
        "n": st.one_of(st.none(), st.integers(-1, 9), st.booleans()),
        "stream": st.booleans(),
        "stream_options": st.one_of(st.none(), st.dictionaries(st.text(max_size=3), st.booleans(), max_size=2)),
        "temperature": st.floats(allow_nan=False, allow_infinity=False),
    },
)


@given(REQUESTS, st.integers(0, 5_000))
def test_what_is_written_never_asks_for_more_than_was_granted(request, granted):
    """Whatever the request: the body that is sent names at most what was granted, and keeps all other fields."""
    call = ChatCall(json.loads(json.dumps(request)))
    asked = call.output_limit
    limit = granted if asked is None else min(granted, asked)
    body = call.body(limit)
    after = request if body is None else json.loads(body)
    named = [after[name] for name in NAMES if after.get(name) is not None]
    assert named
    assert all(limit == value for value in named)
    own = {*NAMES, "model", "stream_options"}
    assert {k: v for k, v in after.items() if k not in own} == {k: v for k, v in request.items() if k not in own}


@given(REQUESTS)
def test_a_request_that_needs_no_limit_changes_in_nothing_but_the_prefix(request):
    """Without a limit in force, no body is made unless the model's name carries the provider."""
    call = ChatCall(dict(request))
    body = call.body(None)
    assert (body is None) == (request["model"] != "openai:m")
    assert body is None or json.loads(body) == {**json.loads(json.dumps(request)), "model": "m"}
