"""`stepwarden recover`: account for the runs of processes that have died."""

from stepwarden.ledger._recovery import RecoveredRun, recover

from ._format import amount, plural
from ._json import encode
from ._ledger_path import existing_ledger, how_to_look
from ._output import say


def recover_runs(*, ledger: str | None, as_json: bool) -> int:
    """Account for runs that nobody will finish.

    Args:
        ledger: What ``--ledger`` names, or None.
        as_json: Whether one JSON object tells which.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no ledger.
        LedgerError: If it cannot be read or written.
    """
    path = existing_ledger(ledger)
    recovered = recover(path)
    if as_json:
        say(encode({"ledger": str(path), "recovered": recovered}))
        return 0
    if not recovered:
        say("no run was left open by a process that has died")
    for run in recovered:
        say(f"{describe_recovered(run)}; {how_to_look('show', run.id, path)}")
    return 0


def describe_recovered(run: RecoveredRun) -> str:
    """Tell of a run that was recovered, on one line."""
    spent = amount(run.total) or "nothing"
    parts = [f"run {run.id} ({run.name}) is now abandoned: spent {spent}"]
    if run.in_flight:
        parts.append(f"{plural(run.in_flight, 'call')} in flight")
    if amount(run.uncertain):
        parts.append(f"{amount(run.uncertain)} uncertain")
    if run.abandoned:
        parts.append(f"{plural(run.abandoned, 'scope')} left open")
    return ", ".join(parts)
