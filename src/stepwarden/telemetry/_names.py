"""The names of spans, attributes and metrics.

The `gen_ai` names are written out: the constants that OpenTelemetry published for them are deprecated, and have moved.
"""

from __future__ import annotations

# The instrumentation scope, by which an application can switch ours off.
SCOPE = "stepwarden"

OPERATION = "gen_ai.operation.name"
INVOKE_AGENT = "invoke_agent"
AGENT = "gen_ai.agent.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
ERROR_TYPE = "error.type"

KIND = "stepwarden.kind"
NAME = "stepwarden.name"
RUN_ID = "stepwarden.run.id"
SCOPE_ID = "stepwarden.scope.id"
STAGE = "stepwarden.stage"
BOUNDARY = "stepwarden.boundary"
STATUS = "stepwarden.status"
LIMIT = "stepwarden.limit"
REASON = "stepwarden.reason"
BUDGET = "stepwarden.budget."
OWN = "stepwarden.own."
TOTAL = "stepwarden.total."
COST_USD = "stepwarden.cost.usd"
OWN_COST_USD = "stepwarden.own.cost.usd"
UNCERTAIN_COST_USD = "stepwarden.uncertain.cost.usd"

UTILIZATION = "stepwarden.budget.utilization"
REFUSED_CALLS = "stepwarden.calls.refused"
WAITS = "stepwarden.wait.duration"
