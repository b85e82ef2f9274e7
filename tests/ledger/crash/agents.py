"""A process that starts agents which are there to be killed: each a fork of it, so that nothing is imported twice.

It reads one command a line and answers with one: `start LEDGER DURABILITY URL ACKNOWLEDGED` with the process id,
`reap` when the agent has ended.
"""

import asyncio
import os
import sys

import openai

import stepwarden as sw

CALLERS = 3
PRICES = {"m": {"input": 1, "output": 2}}


async def work(url, acknowledged):
    """Make calls for ever, several at a time, and write down each step that was left."""

    @sw.step(name="ask", budget=sw.Budget(max_tokens=500))
    async def ask(client):
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], max_tokens=20)
        return sw.current_step().id

    @sw.persona(name="asker", budget=sw.Budget(max_usd=100))
    async def asker(client):
        while True:
            step = await ask(client)
            os.write(acknowledged, f"{step}\n".encode())

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        guarded = sw.guard(client)
        await asyncio.gather(*(asker(guarded) for _ in range(CALLERS)))


def be_an_agent(path, durability, url, acknowledged):
    """Open the ledger and work in it until killed."""
    file = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with sw.SQLiteLedger(path, durability=durability) as ledger, sw.Run(ledger=ledger, prices=PRICES, name="agent"):
        asyncio.run(work(url, file))


def main():
    """Do what is asked for until nobody asks any more."""
    child = 0
    for line in sys.stdin:
        command, *arguments = line.rstrip("\n").split("\t")
        if command == "start":
            child = os.fork()
            if child == 0:
                be_an_agent(*arguments)
                os._exit(1)
            print(child, flush=True)
        else:
            os.waitpid(child, 0)
            print("reaped", flush=True)


if __name__ == "__main__":
    main()
