"""The faces that keep the contract."""

import pytest

from tests.integrations.contract.faces import FACES


@pytest.fixture(params=FACES, ids=str)
def face(request):
    """Give each face in turn."""
    return request.param


@pytest.fixture(params=[face for face in FACES if face.has_output], ids=str)
def speaking(request):
    """Give each face in turn whose replies have output."""
    return request.param


@pytest.fixture(params=[face for face in FACES if face.reserves_attempts], ids=str)
def retrying(request):
    """Give each face in turn that reserves each attempt."""
    return request.param


@pytest.fixture(params=[face for face in FACES if face.ends_streams and face.streams], ids=str)
def ending(request):
    """Give each face in turn that ends its streams at `max_seconds`."""
    return request.param


@pytest.fixture(params=[face for face in FACES if face.streams], ids=str)
def streaming(request):
    """Give each face in turn that streams."""
    return request.param


@pytest.fixture(params=[face for face in FACES if face.is_async], ids=str)
def awaited(request):
    """Give each async face in turn."""
    return request.param


@pytest.fixture(params=[face for face in FACES if face.is_async and face.streams], ids=str)
def awaited_stream(request):
    """Give each async face in turn that streams."""
    return request.param
