"""What the tests of `StepHost` share: a host with steps of every boundary, and ways to run them out and list them."""

from contextlib import contextmanager

import pytest

import stepwarden as sw
from stepwarden.host import StepHost


@contextmanager
def opened_host():
    """Open a host on a run of its own, with steps of every boundary and a persona."""
    with StepHost() as host:
        for boundary in sw.ErrorBoundary:
            mapping = {"budget": {"max_tokens": 10}, "error_boundary": boundary, "fallback": "fallback"}
            host.register_step_from_dict(f"{boundary}_step", mapping)
        host.register_step_from_dict("plain", {})
        host.register_persona_from_dict("who", {})
        yield host
        host.prune_below_frame(0)


def exhausted(tokens=11):
    """Return the budget error of the scope in force."""
    with pytest.raises(sw.BudgetExceededError) as caught:
        sw.record_usage(output_tokens=tokens, cost_usd=0)
    return caught.value


def ended(host):
    """Return the name and status of each step that has ended."""
    return [(receipt.name, str(receipt.status)) for receipt in host.peek_completed_steps()]
