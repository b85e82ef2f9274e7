"""The contract, 2: guards on one another take one hold for each request that arrives, whichever they are."""

import pytest

import stepwarden as sw
from stepwarden.integrations._seam import Attempt
from stepwarden.testing import Failure
from tests.integrations.contract.face import at_once, play


def worst(**asked):
    """Say what a call may cost, which is not what the guard inside will find."""
    return {"model": "m", "input_tokens": 50, "output_tokens": 50}


def used(_):
    """Say what a call has cost, which nobody is to believe: the guard inside knows better."""
    return {"input_tokens": 999, "output_tokens": 999}


def call_within(face, client):
    """Return a function that asks, in a `guarded_call` of the kind that suits the face; its coroutine is awaited."""
    guard = sw.guarded_call(estimate=worst, settle=used)
    if face.streams and face.is_async:

        @guard
        async def said():
            async for piece in face.iterate(await face.start(client)):
                yield face.text(piece)

        async def ask():
            return "".join([text async for text in said()])

    elif face.streams:

        @guard
        def said():
            for piece in face.pieces(at_once(face.start(client))):
                yield face.text(piece)

        async def ask():
            return "".join(said())

    elif face.is_async:

        @guard
        async def ask():
            return await face.ask(client)

    else:

        @guard
        def asked():
            return at_once(face.ask(client))

        async def ask():
            return asked()

    return ask


def attempt_within(face, client):
    """Return a function that asks in an attempt, as the guard of a framework does."""

    async def ask():
        with Attempt(model="m", input_tokens=50, output_tokens=50) as attempt:
            said = await face.ask(client)
            attempt.leave()
        return said

    return ask


def alone(face, client):
    """Return a function that asks."""

    async def ask():
        return await face.ask(client)

    return ask


STACKS = {
    "attempt": (attempt_within, False, False),
    "guarded-call": (call_within, False, False),
    "guarded-below": (alone, True, False),
    "installed-below": (alone, False, True),
    "all": (call_within, True, True),
}
"""What is around the face, whether it is given a guarded client, and whether its SDK is installed."""


@pytest.mark.parametrize(("around", "is_guarded_below", "is_installed"), STACKS.values(), ids=STACKS)
def test_guards_on_one_another_take_one_hold_for_each_request(server, retrying, around, is_guarded_below, is_installed):
    """Holds taken are requests that arrived, retries included, however many guards a request goes through."""
    server.enqueue(Failure(500, retry_after=0.01))
    sdk = retrying.below or retrying.sdk

    async def scenario():
        async with retrying.client(server, is_guarded_below=is_guarded_below, max_retries=1) as client:
            if is_installed:
                sw.install(sdk)
            try:
                ask = around(retrying, client)
                with sw.Run(budget=sw.Budget(max_calls=3, max_tokens=9_999)) as run:
                    for _ in range(2):
                        assert await ask()
                        assert run.held == sw.Usage()
                    with pytest.raises(sw.BudgetExceededError):
                        await ask()
            finally:
                if is_installed:
                    sw.uninstall(sdk)
        return run

    run = play(scenario)
    assert run.total.calls == server.count == 3
    assert (run.total.estimated_calls, run.held) == (1, sw.Usage())
    assert run.total.output_tokens == server.usage.output_tokens
