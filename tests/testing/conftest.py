"""A scripted model and a client of it, for the tests of the scripted model itself."""

import openai
import pytest

from stepwarden.testing._scripted_model import ScriptedModel


@pytest.fixture
def server():
    """Give the test a running server."""
    with ScriptedModel() as server:
        yield server


@pytest.fixture
def client(server):
    """Give the test a client of the server, which never retries unless the test asks it to."""
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client
