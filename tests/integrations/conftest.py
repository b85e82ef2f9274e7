"""A scripted server, both faces of the SDK, and the process's settings put back."""

import asyncio

import openai
import pytest

import stepwarden as sw
from stepwarden.core._settings import settings
from stepwarden.testing import FakeClock, ScriptedModel


@pytest.fixture(autouse=True)
def _no_loop_stays():
    """Close the event loop that a framework's sync call makes for the thread, and leaves there."""
    asyncio.set_event_loop(None)
    yield
    try:
        loop = asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        return
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def server():
    """Serve scripted replies on loopback."""
    with ScriptedModel() as server:
        yield server


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
def kind(request):
    """Give each face of the SDK in turn."""
    return request.param


@pytest.fixture
def configure():
    """Give `sw.configure`, and put back what it changed."""
    before = {name: getattr(settings, name) for name in ("unscoped_calls", "max_wait", "clock")}
    yield sw.configure
    sw.configure(**before)


@pytest.fixture
def clock(configure):
    """Give the process a clock that stands still."""
    clock = FakeClock()
    configure(clock=clock)
    return clock
