"""Telling a provider that was set up from what the OpenTelemetry API has in its place."""

from __future__ import annotations

from importlib.metadata import version


def is_set_up(part: object) -> bool:
    """Tell whether a provider, a tracer or a meter is an SDK's.

    Args:
        part: What the API gave. One of a class of the API itself is what stands in until there is another, and what
            it makes comes to nothing; or it is what an SDK that is switched off gives.
    """
    return not type(part).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def our_version() -> str:
    """Return the version of this package, for the instrumentation scope."""
    return version("stepwarden")
