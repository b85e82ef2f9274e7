"""`stepwarden accounts`: look at budgets that outlive a run, set their limits, pause, resume and settle them."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from stepwarden import Budget, DefinitionError, SQLiteLedger
from stepwarden.accounts._book import SetTerms
from stepwarden.accounts._sheet import Terms
from stepwarden.accounts._window import AccountState, WindowState
from stepwarden.core._account import parse_account_budget
from stepwarden.ledger._account_book import SettleLeft

from ._format import amount, held_of, plural, share, tokens_of, usd_of
from ._json import encode
from ._ledger_path import existing_ledger, ledger_path
from ._output import say
from ._problem import UsageError, one_line
from ._screen import screen, show
from ._style import lay_out, named

_RIGHT = ("calls", "tokens", "USD", "held", "uncertain", "used")


def list_accounts(name: str | None, *, ledger: str | None, as_json: bool) -> int:
    """Show accounts in the windows that run now.

    Args:
        name: Only this one; None for all.
        ledger: What ``--ledger`` names, or None.
        as_json: Whether one JSON object has every number.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no such account, or no ledger.
        LedgerError: If the ledger cannot be read.
    """
    with SQLiteLedger(existing_ledger(ledger)) as opened:
        states = opened.book.states(time.time_ns())
    if name is not None:
        states = (_find(states, name),)
    if as_json:
        say(encode({"accounts": states}))
        return 0
    console = screen(stderr=False)
    table = lay_out(console, ("name", "window", *_RIGHT, "paused"), right=_RIGHT, optional=("uncertain",))
    for state in states:
        for window in state.windows:
            is_first = window is state.windows[0]
            cells = {
                "name": named(one_line(state.name), "bold") if is_first else Text(),
                "window": Text(window.window),
                **_numbers(window),
                "paused": Text(_paused(state) if is_first else "", "bold red"),
            }
            table.add_row(*(cells[str(column.header)] for column in table.columns))
    if not states:
        table.add_row(Text("nothing yet", "dim"))
    show(console, table)
    return 0


def set_account(
    name: str, window: str, *, limits: dict[str, str | int | None], clear: bool, ledger: str | None, as_json: bool
) -> int:
    """Set the limits of an account in one window, or go back to those that the code declares.

    Args:
        name: The account; one that is new is made.
        window: ``"total"``, ``"daily"`` or ``"hourly"``.
        limits: The limits by the names of `Budget` fields; None for no limit.
        clear: Whether what was set is taken back.
        ledger: What ``--ledger`` names, or None.
        as_json: Whether one JSON object tells how it stands now.

    Returns:
        The exit status.

    Raises:
        UsageError: If a limit cannot be right, or none is given.
        LedgerError: If the ledger cannot be written.
    """
    given = {field: value for field, value in limits.items() if value is not None}
    if clear and given:
        raise UsageError(f"--clear takes back what was set, so it goes without {_option(next(iter(given)))}")
    if not clear and not given:
        raise UsageError("give at least one limit, such as --max-usd 20, or --clear to take back what was set")
    for field, value in given.items():
        try:
            Budget.from_dict({field: value})
        except DefinitionError as error:
            raise UsageError(str(error).replace(f"budget.{field}", _option(field), 1)) from error
    budget = parse_account_budget(Budget.from_dict(given), window) or Budget()

    def alter(terms: Terms) -> None:
        if clear:
            terms.fixed.pop(window, None)
        else:
            terms.fixed[window] = budget

    return _change(name, alter, ledger_path(ledger), as_json=as_json, makes=True)


def pause_account(name: str, reason: str | None, *, ledger: str | None, as_json: bool) -> int:
    """Pause an account: every call on it is refused.

    Args:
        name: The account.
        reason: Why, as the error says; None to resume it.
        ledger: What ``--ledger`` names, or None.
        as_json: Whether one JSON object tells how it stands now.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no such account, or no ledger.
        LedgerError: If the ledger cannot be written.
    """

    def alter(terms: Terms) -> None:
        terms.paused = reason

    return _change(name, alter, existing_ledger(ledger), as_json=as_json, makes=False)


def settle_account(name: str, *, is_spent: bool, ledger: str | None, as_json: bool) -> int:
    """Settle what calls of processes that have ended left uncertain on an account.

    Args:
        name: The account.
        is_spent: Whether all that is uncertain of them was spent, or nothing of it.
        ledger: What ``--ledger`` names, or None.
        as_json: Whether one JSON object tells how it stands now.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no such account, or no ledger.
        LedgerError: If the ledger cannot be written.
    """
    name = name.strip()
    with SQLiteLedger(existing_ledger(ledger)) as opened:
        _find(opened.book.states(time.time_ns()), name)
        change = SettleLeft(name, is_spent=is_spent)
        opened.book.put(change)
        state = _find(opened.book.states(time.time_ns()), name)
    if as_json:
        say(encode({"account": state, "settled": {"calls": change.calls, "uncertain": change.amount}}))
        return 0
    if change.calls:
        became = "spent" if is_spent else "free again"
        calls = plural(change.calls, "call")
        told = f"{amount(change.amount)} of {calls} whose processes have ended: {became}"
    else:
        told = "no process that has ended left anything uncertain"
    say(f"account {one_line(name)}: {told}")
    return 0


def _change(name: str, alter: Callable[[Terms], None], path: Path, *, as_json: bool, makes: bool) -> int:
    if not name.strip():
        raise UsageError("name the account")
    name = name.strip()
    with SQLiteLedger(path) as opened:
        if not makes:
            _find(opened.book.states(time.time_ns()), name)
        opened.book.put(SetTerms(name, alter))
        state = _find(opened.book.states(time.time_ns()), name)
    if as_json:
        say(encode(state))
        return 0
    limits = [f"{one.window} {_limits(one.budget)}" for one in state.windows if one.budget != Budget()]
    say(f"account {one_line(name)} is {_paused(state) or 'open'}; limits: {'; '.join(limits) or 'none'}")
    return 0


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def _limits(budget: Budget) -> str:
    fields = ("max_tokens", "max_input_tokens", "max_output_tokens", "max_usd", "max_calls")
    given = ((field, getattr(budget, field)) for field in fields)
    return ", ".join(f"{field} {value}" for field, value in given if value is not None)


def _paused(state: AccountState) -> str:
    if state.paused is None:
        return ""
    return f"paused: {one_line(state.paused)}" if state.paused else "paused"


def _numbers(window: WindowState) -> dict[str, Text]:
    spent, budget = window.spent, window.budget
    part, limit = share(spent, budget, 0.0)
    return {
        "calls": Text(f"{spent.calls:,}" + ("" if budget.max_calls is None else f"/{budget.max_calls:,}")),
        "tokens": Text(tokens_of(spent, budget)),
        "USD": Text(usd_of(spent, budget)),
        "held": Text(held_of(window.held)),
        "uncertain": Text(held_of(window.uncertain)),
        "used": Text(f"{part} {limit}".strip()),
    }


def _find(states: tuple[AccountState, ...], name: str) -> AccountState:
    for state in states:
        if state.name == name:
            return state
    known = ", ".join(one_line(state.name) for state in states) or "none"
    raise UsageError(f"there is no account {name!r} in this ledger (accounts: {known}); `accounts set` creates one")
