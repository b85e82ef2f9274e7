"""The contract, 5: parallel callers never pass a limit, and use it up."""

import asyncio
import random
import threading

import pytest

import stepwarden as sw
from stepwarden.testing import Reply
from tests.integrations.contract.face import PRICES, at_once, play

OUTPUT = 40
LIMITS = ["max_tokens", "max_usd"]


async def input_of(face, server):
    """Return the input tokens that the guard estimates for the question: what a refusal says was needed."""
    async with face.client(server) as client:
        with sw.Run(budget=sw.Budget(max_input_tokens=0)), pytest.raises(sw.BudgetExceededError) as caught:
            await face.ask(client)
    return caught.value.requested


@pytest.mark.parametrize("name", LIMITS)
def test_parallel_callers_use_up_a_limit_and_never_pass_it(server, face, name):
    """64 tasks, or 32 threads, that call until they are refused: not a token over, and at least 95 % used."""
    refusals = []

    async def scenario():
        given = await input_of(face, server)
        output = OUTPUT if face.has_output else 0
        worst = {"max_tokens": given + output, "max_usd": given + 2 * output}[name]
        chance = random.Random(7)
        server.default = lambda request: Reply(
            text="", input_tokens=given, output_tokens=chance.randint(OUTPUT // 10, OUTPUT)
        )

        async def caller():
            try:
                while True:
                    await face.ask(client, output=OUTPUT)
            except sw.BudgetExceededError as error:
                refusals.append(error.reason)

        async with face.client(server) as client:
            async with sw.Run(budget=sw.Budget(**{name: 20 * worst}), prices=PRICES) as run:
                if face.is_async:
                    await asyncio.gather(*(caller() for _ in range(64)))
                else:
                    # A sync client waits on its thread, which therefore runs no loop: its coroutine never suspends.
                    threads = [threading.Thread(target=sw.propagate(lambda: at_once(caller()))) for _ in range(32)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
        return run, 20 * worst

    run, limit = play(scenario)
    spent = {"max_tokens": run.total.total_tokens, "max_usd": run.total.cost_usd}[name]
    assert limit * 0.95 <= spent <= limit
    assert refusals == ["no_room"] * (64 if face.is_async else 32)
    assert run.total.calls == server.count
    assert (run.total.input_tokens, run.total.output_tokens) == (server.usage.input_tokens, server.usage.output_tokens)
    assert (run.held, run.uncertain, run.total.estimated_calls) == (sw.Usage(), sw.Usage(), 0)
