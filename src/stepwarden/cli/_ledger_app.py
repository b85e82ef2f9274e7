"""The commands that look at a ledger, and their options."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from ._accounts_app import add_accounts_commands
from ._options import Debug, Ledger
from ._whole import read_whole


def add_ledger_commands(app: App) -> None:
    """Add the commands.

    Args:
        app: The program.
    """
    receipts = App(name="receipts", help="List receipts, newest first, or export a run.")
    receipts.default(_receipts)
    receipts.command(_export, name="export")
    keys = App(name="keys", help="Make keys to sign and verify runs with.")
    keys.command(_new, name="new")
    app.command(receipts)
    app.command(_show, name="show")
    app.command(_stats, name="stats")
    app.command(_verify, name="verify")
    app.command(_recover, name="recover")
    app.command(keys)
    add_accounts_commands(app)


Limit = Annotated[int, Parameter(show_default=True, converter=read_whole)]


def _receipts(
    *,
    run: str | None = None,
    persona: str | None = None,
    step: str | None = None,
    model: str | None = None,
    status: str | None = None,
    since: str | None = None,
    until: str | None = None,
    min_usd: str | None = None,
    max_usd: str | None = None,
    limit: Limit = 20,
    ledger: Ledger = None,
    json: bool = False,
    debug: Debug = False,  # noqa: ARG001 - read where errors are told
) -> int:
    """List receipts, newest first.

    Args:
        run: Only this run: its id, the beginning of it, or `last`.
        persona: Only what ran in this persona.
        step: Only the step or persona of this name.
        model: Only those that used this model last.
        status: Only those with this status: completed, failed, skipped, escalated, denied, cancelled, abandoned.
        since: Only those that ended at this time or later: 2026-11-25, 2026-11-25T09:30 (UTC), or 24h or 7d ago.
        until: Only those that ended at this time or earlier.
        min_usd: Only those that spent at least this much in USD, including everything under them.
        max_usd: Only those that spent at most this much.
        limit: How many to list at most.
        json: Print a single JSON object with the complete receipts.
    """
    from ._receipts_command import list_receipts

    return list_receipts(
        ledger=ledger,
        limit=limit,
        as_json=json,
        run=run,
        persona=persona,
        step=step,
        model=model,
        status=status,
        since=since,
        until=until,
        min_usd=min_usd,
        max_usd=max_usd,
    )


def _export(
    run: str,
    /,
    *,
    out: str | None = None,
    ledger: Ledger = None,
    json: bool = False,
    debug: Debug = False,  # noqa: ARG001
) -> int:
    """Write a run's records to a file that anyone can verify: JSON Lines, ending with the signed head.

    Args:
        run: The run: its id, the beginning of it, or `last`.
        out: The file to write, which must not exist yet; by default stdout.
        json: Print a single JSON object that says what was written.
    """
    from ._export_command import export_run

    return export_run(run, out, ledger=ledger, as_json=json)


def _show(
    run: str = "last",
    /,
    *,
    limit: Limit = 200,
    ledger: Ledger = None,
    json: bool = False,
    debug: Debug = False,  # noqa: ARG001
) -> int:
    """Show a run as a tree: what each scope spent itself and in total, its calls and tools, and what went wrong.

    Args:
        run: The run: its id, the beginning of it, or `last`, the default.
        limit: How many receipts to show at most; the newest are kept.
        json: Print a single JSON object with everything.
    """
    from ._show_command import show_run

    return show_run(run, ledger=ledger, limit=limit, as_json=json)


def _stats(
    *,
    by: Literal["persona", "step", "model", "day"] | None = None,
    run: str | None = None,
    persona: str | None = None,
    step: str | None = None,
    model: str | None = None,
    since: str | None = None,
    until: str | None = None,
    ledger: Ledger = None,
    json: bool = False,
    debug: Debug = False,  # noqa: ARG001
) -> int:
    """Show what steps and personas cost, how many ran out of budget, and which budgets are too tight or too loose.

    Args:
        by: One table only: by persona, step, model or day.
        run: Only this run: its id, the beginning of it, or `last`.
        persona: Only what ran in this persona.
        step: Only the step or persona of this name.
        model: Only those that used this model last.
        since: Only those that ended at this time or later: 2026-11-25, 2026-11-25T09:30 (UTC), or 24h or 7d ago.
        until: Only those that ended at this time or earlier.
        json: Print a single JSON object with every number.
    """
    from ._stats_command import show_stats

    return show_stats(
        by=by,
        ledger=ledger,
        as_json=json,
        run=run,
        persona=persona,
        step=step,
        model=model,
        since=since,
        until=until,
    )


def _verify(
    what: str | None = None,
    /,
    *,
    public_key: str | None = None,
    ledger: Ledger = None,
    json: bool = False,
    debug: Debug = False,  # noqa: ARG001
) -> int:
    """Check that the records are as they were written, and name each one that was tampered with.

    The exit status is 1 if any was. Without a public key, this checks integrity only, not who wrote the records.

    Args:
        what: A run (its id, the beginning of it, or `last`), or a file that `receipts export` wrote; by default every
            run of the ledger.
        public_key: The signer's public key file; anything that this key did not sign is reported.
        json: Print a single JSON object with everything that was found.
    """
    from ._verify_command import verify_records

    return verify_records(what, ledger=ledger, public_key=public_key, as_json=json)


def _recover(*, ledger: Ledger = None, json: bool = False, debug: Debug = False) -> int:  # noqa: ARG001
    """Account for runs whose process has died: charge what was in flight, and end each run as abandoned.

    The next `run` does this too. Runs that another living process has open are left alone.

    Args:
        json: Print a single JSON object that lists them.
    """
    from ._recover_command import recover_runs

    return recover_runs(ledger=ledger, as_json=json)


def _new(*, out: str, json: bool = False, debug: Debug = False) -> int:  # noqa: ARG001
    """Write a new private key to a file, and its public key to the same name with `.pub` appended.

    Args:
        out: The private key file; neither file may exist yet.
        json: Print a single JSON object that names the files.
    """
    from ._keys_command import new_keys

    return new_keys(out, as_json=json)
