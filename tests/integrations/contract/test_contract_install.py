"""The contract, 8: nothing is patched on import, clients made before are covered, and everything is restored."""

import importlib
import subprocess
import sys

import pytest

import stepwarden as sw
from stepwarden.integrations._install import _INSTALLABLE
from tests.integrations.contract.face import play
from tests.integrations.contract.faces import FACES

SDKS = sorted({face.sdk for face in FACES if face.sdk is not None})
PLACES = {
    "anthropic": [
        "anthropic._base_client.SyncAPIClient",
        "anthropic._base_client.AsyncAPIClient",
        "anthropic.Anthropic",
    ],
    "openai": ["openai.OpenAI", "openai.AsyncOpenAI", "openai._base_client.SyncAPIClient"],
}
"""The classes of each SDK whose attributes are compared."""


def attributes(sdk):
    """Return every attribute of the classes that a guard could change."""
    found = []
    for place in PLACES[sdk]:
        module, _, name = place.rpartition(".")
        found.append(dict(vars(getattr(importlib.import_module(module), name))))
    return found


@pytest.fixture(params=SDKS)
def sdk(request):
    """Give each SDK in turn that can be installed, and take it back."""
    yield request.param
    sw.uninstall(request.param)


@pytest.fixture(params=[face for face in FACES if face.sdk is not None and not face.is_installed], ids=str)
def installable(request):
    """Give each face in turn of an SDK that can be installed, and take it back."""
    yield request.param
    sw.uninstall(request.param.sdk)


def test_install_is_undone_whole(sdk):
    """Two installs, and any number of uninstalls, leave every class as it was."""
    before = attributes(sdk)
    sw.uninstall(sdk)
    sw.install(sdk)
    sw.install(sdk, sdk)
    assert attributes(sdk) != before
    sw.uninstall(sdk)
    assert attributes(sdk) == before
    sw.uninstall(sdk)
    assert attributes(sdk) == before


def test_nothing_is_patched_on_import(sdk):
    """Importing stepwarden, its integration and `guard` changes nothing in the SDK; nor does it import one."""
    script = f"""
import sys, importlib
import stepwarden, stepwarden.integrations
assert {sdk!r} not in sys.modules
import {sdk}
places = [getattr(importlib.import_module(p.rpartition(".")[0]), p.rpartition(".")[2]) for p in {PLACES[sdk]!r}]
before = [dict(vars(place)) for place in places]
importlib.import_module({_INSTALLABLE[sdk]!r})
assert [dict(vars(place)) for place in places] == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_integrations_of_frameworks_patch_nothing():
    """Importing them, and making what they guard with, leaves both SDKs and the frameworks' classes as they were."""
    script = f"""
import importlib
import agents, anthropic, mcp, openai, pydantic_ai.models.wrapper
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
places = [getattr(importlib.import_module(p.rpartition(".")[0]), p.rpartition(".")[2]) for p in {[*PLACES["anthropic"], *PLACES["openai"]]!r}]
places += [agents.Agent, agents.Model, agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel]
places += [mcp.Client, mcp.ClientSession, AgentMiddleware, BaseChatModel]
places += [pydantic_ai.Agent, pydantic_ai.models.Model, pydantic_ai.models.wrapper.WrapperModel]
before = [dict(vars(place)) for place in places]
from stepwarden.integrations import langchain, mcp, openai_agents, pydantic_ai
pydantic_ai.Guard(), langchain.Guard(), openai_agents.GuardedProvider()
openai_agents.guarded(agents.Agent("a")), pydantic_ai.GuardedModel("test")
# Python itself keeps lists of subclasses and of what is abstract there.
kept = {{"_abc_impl", "__abstractmethods__"}}
for place, had in zip(places, before):
    has = dict(vars(place))
    changed = [name for name in {{*had, *has}} - kept if had.get(name) is not has.get(name)]
    assert not changed, (place, changed)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)


def test_clients_made_before_and_after_are_covered_until_uninstall(server, installable):
    """Every client in the process counts once for each call while it is installed, and not at all afterwards."""

    async def scenario():
        async with installable.client(server, is_guarded=False) as before:
            sw.install(installable.sdk)
            sw.install(installable.sdk)
            async with installable.client(server, is_guarded=False) as after:
                with sw.Run(budget=sw.Budget(max_calls=2)) as run:
                    await installable.ask(before)
                    await installable.ask(after)
                    for client in (before, after):
                        with pytest.raises(sw.BudgetExceededError):
                            await installable.ask(client)
                    sw.uninstall(installable.sdk)
                    for client in (before, after):
                        await installable.ask(client)
        return run

    assert play(scenario).total.calls == 2
    assert server.count == 4


def test_a_client_guarded_while_installed_stays_guarded_and_counts_once(server, installable):
    """`guard` under `install` is one guard, and what is taken back is only what was installed."""

    async def scenario():
        sw.install(installable.sdk)
        async with installable.client(server) as client:
            with sw.Run(budget=sw.Budget(max_calls=2)) as run:
                await installable.ask(client)
                sw.uninstall(installable.sdk)
                await installable.ask(client)
                with pytest.raises(sw.BudgetExceededError):
                    await installable.ask(client)
        return run.total.calls

    assert play(scenario) == 2


def test_what_cannot_be_installed_is_an_error():
    """A misspelt name, none at all, or an endpoint that no named SDK has, installs nothing."""
    before = {sdk: attributes(sdk) for sdk in SDKS}
    with pytest.raises(sw.DefinitionError, match=r"nothing was named; known: 'anthropic'"):
        sw.install()
    with pytest.raises(sw.DefinitionError, match="cannot install 'opnai'; known: "):
        sw.install(*SDKS, "opnai")
    with pytest.raises(sw.DefinitionError, match="allow: 'bathces' is not an endpoint"):
        sw.install(*SDKS, allow=["bathces"])
    with pytest.raises(sw.DefinitionError, match=r"allow: 'batches' is not an endpoint .*: none"):
        sw.install("threading", allow=["batches"])
    assert {sdk: attributes(sdk) for sdk in SDKS} == before
