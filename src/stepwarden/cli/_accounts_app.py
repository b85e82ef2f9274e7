"""The commands for accounts, and their options."""

from typing import Literal

from cyclopts import App

from ._options import Debug, Ledger
from ._whole import Whole


def add_accounts_commands(app: App) -> None:
    """Add the commands.

    Args:
        app: The program.
    """
    accounts = App(
        name="accounts", help="Show, limit, pause, resume and settle accounts, which are budgets that outlive a run."
    )
    accounts.default(_list)
    accounts.command(_list, name="list")
    accounts.command(_show, name="show")
    accounts.command(_set, name="set")
    accounts.command(_pause, name="pause")
    accounts.command(_resume, name="resume")
    accounts.command(_settle, name="settle")
    app.command(accounts)


def _list(*, ledger: Ledger = None, json: bool = False, debug: Debug = False) -> int:  # noqa: ARG001 - read where errors are told
    """List every account: what is spent, held and uncertain in total, today and in this hour (UTC).

    Args:
        json: Print a single JSON object with every number.
    """
    from ._accounts_command import list_accounts

    return list_accounts(None, ledger=ledger, as_json=json)


def _show(name: str, /, *, ledger: Ledger = None, json: bool = False, debug: Debug = False) -> int:  # noqa: ARG001
    """Show one account.

    Args:
        name: The account's name; a tenant's account is `tenant:NAME`.
        json: Print a single JSON object with every number.
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
    ledger: Ledger = None,
    json: bool = False,
    debug: Debug = False,  # noqa: ARG001
) -> int:
    """Set an account's limits in one window; they override those that the code declares.

    Args:
        name: The account's name; a new one is created. A tenant's account is `tenant:NAME`.
        window: All time, each day, or each hour (UTC).
        max_usd: The most USD.
        max_tokens: The most input and output tokens together.
        max_input_tokens: The most input tokens.
        max_output_tokens: The most output tokens.
        max_calls: The most model calls.
        clear: Remove what was set, so that the code's declaration is in force again.
        json: Print a single JSON object with the account's new state.
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
    ledger: Ledger = None,
    json: bool = False,
    debug: Debug = False,  # noqa: ARG001
) -> int:
    """Pause an account: from now on, every process refuses calls on it.

    Args:
        name: The account's name.
        reason: Why; the error message includes it.
        json: Print a single JSON object with the account's new state.
    """
    from ._accounts_command import pause_account

    return pause_account(name, reason, ledger=ledger, as_json=json)


def _resume(name: str, /, *, ledger: Ledger = None, json: bool = False, debug: Debug = False) -> int:  # noqa: ARG001
    """Resume a paused account.

    Args:
        name: The account's name.
        json: Print a single JSON object with the account's new state.
    """
    from ._accounts_command import pause_account

    return pause_account(name, None, ledger=ledger, as_json=json)


def _settle(
    name: str,
    outcome: Literal["spent", "unspent"],
    /,
    *,
    ledger: str | None = None,
    json: bool = False,
    debug: bool = False,  # noqa: ARG001
) -> int:
    """Settle what calls of processes that have ended left uncertain on an account, in every window.

    Args:
        name: Its name.
        outcome: Whether all that is uncertain of them was spent, or nothing of it, as the provider's bill tells.
        ledger: The ledger's file; by default $STEPWARDEN_LEDGER, else .stepwarden/ledger.db.
        json: Print one JSON object that tells how it stands now.
        debug: Show the traceback of an error.
    """
    from ._accounts_command import settle_account

    return settle_account(name, is_spent=outcome == "spent", ledger=ledger, as_json=json)
