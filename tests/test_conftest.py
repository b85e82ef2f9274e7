"""The test suite's own safety nets catch what they are there for."""

import pytest


def test_a_missing_service_skips_with_a_reason(require_service, monkeypatch):
    """Where services are optional, a test without its service is skipped and says what it lacked."""
    monkeypatch.delenv("STEPWARDEN_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs a unicorn: no program `unicornd` on PATH"):
        require_service("a unicorn", program="unicornd")
    with pytest.raises(pytest.skip.Exception, match="needs a unicorn: no module `unicorn_sdk`"):
        require_service("a unicorn", module="unicorn_sdk")


def test_a_missing_service_fails_where_services_are_required(require_service, monkeypatch):
    """Where services are required, the same test fails, so that a build cannot pass by skipping."""
    monkeypatch.setenv("STEPWARDEN_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="needs a unicorn"):
        require_service("a unicorn", program="unicornd")


def test_a_service_that_is_there_lets_the_test_run(require_service):
    """A program and a module that exist neither skip nor fail."""
    require_service("Python", program="python", module="json")
