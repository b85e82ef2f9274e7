"""Telemetry: spans and metrics for an application that uses OpenTelemetry, and log records of what was refused.

Nothing here imports OpenTelemetry before the application has, and nothing is asked of it before a provider is set up.
"""

from ._edge import TELEMETRY, watch_spans, watch_utilization

__all__ = ["TELEMETRY", "watch_spans", "watch_utilization"]
