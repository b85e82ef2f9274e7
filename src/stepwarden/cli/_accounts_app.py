"""The commands for accounts, and their options."""

from typing import Literal

from cyclopts import App

from ._whole import Whole


def add_accounts_commands(app: App) -> None:
    """Add the commands.

    Args:
        app: The program.
    """
    accounts = App(name="accounts", help="Look at accounts, budgets that outlive a run; set, pause and resume them.")
    accounts.default(_list)
    accounts.command(_list, name="list")
    accounts.command(_show, name="show")
    accounts.command(_set, name="set")
    accounts.command(_pause, name="pause")
    accounts.command(_resume, name="resume")
    app.command(accounts)


def _list(*, ledger: str | None = None, json: bool = False, debug: bool = False) -> int:  # noqa: ARG001 - read where errors are told
    """List every account: what is spent, held and uncertain, in all, today and in this hour (UTC).

    Args:
        ledger: The ledger's file; by default $STEPWARDEN_LEDGER, else .stepwarden/ledger.db.
        json: Print one JSON object with every number, and nothing else.
        debug: Show the traceback of an error.
    """
    from ._accounts_command import list_accounts

    return list_accounts(None, ledger=ledger, as_json=json)


def _show(name: str, /, *, ledger: str | None = None, json: bool = False, debug: bool = False) -> int:  # noqa: ARG001
    """Show one account.

    Args:
        name: Its name; that of a tenant is `tenant:NAME`.
        ledger: The ledger's file; by default $STEPWARDEN_LEDGER, else .stepwarden/ledger.db.
        json: Print one JSON object with every number, and nothing else.
        debug: Show the traceback of an error.
    """
    from ._accounts_command import list_accounts

    return list_accounts(name, ledger=ledger, as_json=json)


def _set(
    name: str,
    window: Literal["total", "daily", "hourly"],
    /,
    *,
    max_usd: str | None = None,
    max_tokens: Whole = None,
    max_input_tokens: Whole = None,
    max_output_tokens: Whole = None,
    max_calls: Whole = None,
    clear: bool = False,
    ledger: str | None = None,
    json: bool = False,
    debug: bool = False,  # noqa: ARG001
) -> int:
    """Set an account's limits in one window; they come before those that the code declares for it.

    Args:
        name: Its name; one that is new is made. That of a tenant is `tenant:NAME`.
        window: For all time, for each day or for each hour (UTC).
        max_usd: The most USD.
        max_tokens: The most input and output tokens together.
        max_input_tokens: The most input tokens.
        max_output_tokens: The most output tokens.
        max_calls: The most model calls.
        clear: Take back what was set, so that what the code declares is in force again.
        ledger: The ledger's file; by default $STEPWARDEN_LEDGER, else .stepwarden/ledger.db.
        json: Print one JSON object that tells how it stands now.
        debug: Show the traceback of an error.
    """
    from ._accounts_command import set_account

    limits: dict[str, str | int | None] = {
        "max_usd": max_usd,
        "max_tokens": max_tokens,
        "max_input_tokens": max_input_tokens,
        "max_output_tokens": max_output_tokens,
        "max_calls": max_calls,
    }
    return set_account(name, window, limits=limits, clear=clear, ledger=ledger, as_json=json)


def _pause(
    name: str,
    /,
    *,
    reason: str = "",
    ledger: str | None = None,
    json: bool = False,
    debug: bool = False,  # noqa: ARG001
) -> int:
    """Pause an account: every call on it is refused from now on, in every process.

    Args:
        name: Its name.
        reason: Why, which the error says.
        ledger: The ledger's file; by default $STEPWARDEN_LEDGER, else .stepwarden/ledger.db.
        json: Print one JSON object that tells how it stands now.
        debug: Show the traceback of an error.
    """
    from ._accounts_command import pause_account

    return pause_account(name, reason, ledger=ledger, as_json=json)


def _resume(name: str, /, *, ledger: str | None = None, json: bool = False, debug: bool = False) -> int:  # noqa: ARG001
    """Let calls on a paused account go on.

    Args:
        name: Its name.
        ledger: The ledger's file; by default $STEPWARDEN_LEDGER, else .stepwarden/ledger.db.
        json: Print one JSON object that tells how it stands now.
        debug: Show the traceback of an error.
    """
    from ._accounts_command import pause_account

    return pause_account(name, None, ledger=ledger, as_json=json)
