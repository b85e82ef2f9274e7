"""What leaves an application over OTLP is what the receipts say, as a collector decodes it."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import stepwarden as sw

REQUESTS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Collector(ThreadingHTTPServer):
    """Receive OTLP over HTTP on loopback, and decode it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Receiver)
        self.received = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Receiver(BaseHTTPRequestHandler):
    """Decode one request."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(REQUESTS[self.path].FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def collector():
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def plain(attributes):
    """Return attributes as a dictionary of plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def test_spans_arrive_as_the_receipts_say(application, collector):
    """Decoded by a collector, the spans have the tree, the statuses and the numbers of the receipts."""
    provider = application.trace(processor=BatchSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))

    @sw.step(budget=sw.Budget(max_tokens=5), error_boundary="escalate")
    def review(draft):
        sw.record_usage("gpt-5", input_tokens=4, output_tokens=3, cost_usd="0.07")

    @sw.persona(stages=[sw.Stage(review)])
    def captain():
        with sw.step("draft"):
            sw.record_usage("gpt-5-mini", input_tokens=100, output_tokens=20, cost_usd="0.01")
        review("a draft")

    with sw.Run() as run, pytest.raises(sw.EscalationError):
        captain()
    assert provider.force_flush()

    (request,) = collector.received
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    assert scope.scope.name == "stepwarden"
    spans = {plain(span.attributes)["stepwarden.scope.id"]: span for span in scope.spans}
    assert len(spans) == len(run.receipts) == 3
    for receipt in run.receipts:
        span = spans[receipt.step_id]
        said = plain(span.attributes)
        assert said["stepwarden.status"] == receipt.status
        assert said["stepwarden.total.input_tokens"] == receipt.total.input_tokens
        assert said["stepwarden.own.output_tokens"] == receipt.own.output_tokens
        assert said["stepwarden.cost.usd"] == float(receipt.total.cost_usd)
        parent = spans.get(receipt.parent_id)
        assert span.parent_span_id == (b"" if parent is None else parent.span_id)
    captain, review = spans[run.receipts[-1].step_id], spans[run.receipts[1].step_id]
    assert (captain.name, review.name) == ("invoke_agent captain", "step review")
    assert review.status.code == captain.status.code == Status.STATUS_CODE_ERROR
    assert review.status.message == "step `review` exceeded max_tokens budget (7 > 5)"
    assert plain(captain.attributes)["error.type"] == "EscalationError"
    assert b"a draft" not in request.SerializeToString()


def test_metrics_arrive(application, collector):
    """Decoded by a collector, utilization and refused calls have their units and their attributes."""
    exporter = OTLPMetricExporter(f"{collector.url}/v1/metrics")
    reader = application.measure(PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf")))
    with sw.Run(), pytest.raises(sw.BudgetExceededError), sw.step("plan", budget=sw.Budget(max_calls=2)):
        sw.record_usage()
        sw.record_usage()
        sw.reserve().acquire()
    assert reader.force_flush()
    metrics = {
        metric.name: metric
        for request in collector.received
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
    }
    used, refused = metrics["stepwarden.budget.utilization"], metrics["stepwarden.calls.refused"]
    (point,) = used.histogram.data_points
    assert (used.unit, point.sum, point.count) == ("1", 1.0, 1)
    assert plain(point.attributes) == {
        "stepwarden.kind": "step", "stepwarden.name": "plan", "stepwarden.limit": "max_calls",
    }  # fmt: skip
    (point,) = refused.sum.data_points
    assert (refused.unit, point.as_int, refused.sum.is_monotonic) == ("{call}", 1, True)
    assert plain(point.attributes) == {"stepwarden.limit": "max_calls", "stepwarden.reason": "no_room"}
