"""An application that has set up the OpenTelemetry SDK, anew for each test."""

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Application:
    """Be what an application has set up, and what arrived there.

    Args:
        monkeypatch: Puts the providers in place; the API itself lets a process set one only once.
    """

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self._closing = []
        self._exporter = InMemorySpanExporter()

    def trace(self, provider=None, processor=None, **settings):
        """Set up a tracer provider, with a sampler or what else is given."""
        provider = provider or TracerProvider(shutdown_on_exit=False, **settings)
        if isinstance(provider, TracerProvider):
            provider.add_span_processor(processor or SimpleSpanProcessor(self._exporter))
            self._closing.append(provider)
        self._monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        return provider

    def measure(self, reader=None):
        """Set up a meter provider."""
        reader = reader or InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        self._closing.append(provider)
        self._monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", provider)
        return reader

    @property
    def spans(self):
        """The finished spans, in the order in which they ended."""
        return self._exporter.get_finished_spans()

    def span(self, name):
        """Return the one finished span of this name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def parent(self, name):
        """Return the name of the parent of the one span of this name; None where it has none."""
        parent = self.span(name).parent
        if parent is None:
            return None
        (found,) = [span.name for span in self.spans if span.context.span_id == parent.span_id]
        return found

    def shut_down(self):
        """Let the providers end what they started."""
        for provider in self._closing:
            provider.shutdown()


@pytest.fixture
def application(monkeypatch):
    """Give an application in which nothing is set up yet."""
    made = Application(monkeypatch)
    yield made
    made.shut_down()


@pytest.fixture
def traced(application):
    """Give an application with a tracer provider, and check that the test leaves no span in force."""
    application.trace()
    yield application
    assert trace.get_current_span() is trace.INVALID_SPAN, "the test has left a span in force"


def current():
    """Return the name of the span in force, or None."""
    return getattr(trace.get_current_span(), "name", None)
