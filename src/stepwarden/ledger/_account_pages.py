"""The pages of a book of accounts in SQLite; amounts as text, since picodollars may be more than 64 bits.

Text that nothing here has written is damage like any that SQLite itself finds, and raises the same error.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stepwarden.accounts._sheet import Booking, Sheet, Terms, move
from stepwarden.core._account import Account
from stepwarden.core._budget import BUDGET_FIELDS, Budget
from stepwarden.core._funds import NOTHING

if TYPE_CHECKING:
    from stepwarden.core._funds import Amounts


class SQLitePages:
    """Read and write a book inside a transaction that is open.

    Args:
        database: The connection.
        process: The name of the lock that tells that this process lives, for the holds that it notes.
    """

    def __init__(self, database: sqlite3.Connection, process: str) -> None:
        self._database = database
        self._process = process

    def names(self) -> list[str]:
        """Return the names of all accounts, sorted."""
        found = self._database.execute("SELECT name FROM accounts UNION SELECT account FROM account_windows ORDER BY 1")
        return [name for (name,) in found]

    def terms(self, name: str) -> Terms:
        """Return the terms of an account."""
        query = "SELECT declared, fixed, paused FROM accounts WHERE name = ?"
        found = self._database.execute(query, (name,)).fetchone()
        return Terms() if found is None else Terms(_budgets(found[0]), _budgets(found[1]), found[2])

    def keep_terms(self, name: str, terms: Terms) -> None:
        """Keep them."""
        row = (name, _text(terms.declared), _text(terms.fixed), terms.paused)
        self._database.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?)", row)

    def sheet(self, name: str, window: str, start: int) -> Sheet:
        """Return the numbers of a window."""
        query = "SELECT spent, held, uncertain FROM account_windows WHERE account = ? AND window = ? AND start = ?"
        found = self._database.execute(query, (name, window, start)).fetchone()
        return Sheet() if found is None else Sheet(*(_amounts(text) for text in found))

    def keep_sheet(self, name: str, window: str, start: int, sheet: Sheet) -> None:
        """Keep them."""
        numbers = (_plain(sheet.spent), _plain(sheet.held), _plain(sheet.uncertain))
        self._database.execute(
            "INSERT OR REPLACE INTO account_windows(account, window, start, spent, held, uncertain)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (name, window, start, *numbers),
        )

    def note(self, entry: Booking) -> None:
        """Keep an open hold, so that it is not lost with its process."""
        row = (entry.key, self._process, json.dumps(entry.names), str(entry.at_ns))
        self._database.execute(
            "INSERT OR REPLACE INTO account_holds VALUES (?, ?, ?, ?, ?, ?)",
            (*row, _plain(entry.held), str(entry.input_cost)),
        )

    def forget(self, entry: Booking) -> None:
        """Forget it: it is over."""
        self._database.execute("DELETE FROM account_holds WHERE key = ?", (entry.key,))

    def note_uncertain(self, entry: Booking) -> None:
        """Keep what is uncertain of a hold that is over, or forget it where nothing is any more."""
        self._database.execute("DELETE FROM account_uncertain WHERE key = ?", (entry.key,))
        if entry.uncertain != NOTHING:
            self._database.executemany(
                "INSERT INTO account_uncertain VALUES (?, ?, ?, ?, ?)",
                [(entry.key, name, self._process, str(entry.at_ns), _plain(entry.uncertain)) for name in entry.names],
            )

    def bury(self) -> None:
        """Charge the holds of a process that has died: their input as estimated, the rest uncertain, until settled."""
        query = "SELECT key, accounts, at, held, input_cost FROM account_holds WHERE process = ?"
        for key, names, at, held, input_cost in self._database.execute(query, (self._process,)).fetchall():
            entry = Booking(_accounts(names), _whole(at))
            entry.key = key
            entry.held = _amounts(held)
            tokens_in, tokens_out, cost, calls = entry.held
            charged = _whole(input_cost)
            move(self, entry, NOTHING, (tokens_in, 0, charged, calls), (0, tokens_out, cost - charged, 0))
            self.forget(entry)
            self.note_uncertain(entry)
        self._database.execute("UPDATE account_uncertain SET process = NULL WHERE process = ?", (self._process,))

    def settle_left(self, name: str, *, is_spent: bool) -> tuple[int, Amounts]:
        """Settle what calls of processes that have died left uncertain on an account.

        Args:
            name: The account.
            is_spent: Whether all of that was spent, or nothing.

        Returns:
            How many calls there were, and what was uncertain of them.
        """
        query = "SELECT key, at, uncertain FROM account_uncertain WHERE account = ? AND process IS NULL"
        left = self._database.execute(query, (name,)).fetchall()
        total = NOTHING
        for key, at, uncertain in left:
            entry = Booking((Account(name),), _whole(at))
            entry.key, entry.uncertain = key, _amounts(uncertain)
            total = _added(total, entry.uncertain)
            move(self, entry, NOTHING, entry.uncertain if is_spent else NOTHING, NOTHING)
            self._database.execute("DELETE FROM account_uncertain WHERE key = ? AND account = ?", (key, name))
        return len(left), total


def _added(one: Amounts, other: Amounts) -> Amounts:
    first, second, third, fourth = (here + there for here, there in zip(one, other, strict=True))
    return first, second, third, fourth


def _plain(amounts: Amounts) -> str:
    return " ".join(map(str, amounts))


def _amounts(text: str) -> Amounts:
    try:
        tokens_in, tokens_out, cost, calls = map(int, text.split())
    except ValueError:
        raise _damage("an account's amounts", text) from None
    return tokens_in, tokens_out, cost, calls


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _damage("a number of an account's hold", text) from None


def _accounts(text: str) -> tuple[Account, ...]:
    try:
        return tuple(Account(name) for name in json.loads(text))
    except (TypeError, ValueError):
        raise _damage("the accounts of a hold", text) from None


def _text(budgets: dict[str, Budget]) -> str:
    return json.dumps({window: _fields(budget) for window, budget in budgets.items()}, sort_keys=True)


def _fields(budget: Budget) -> dict[str, str | int]:
    given: Iterable[tuple[str, object]] = ((name, getattr(budget, name)) for name in BUDGET_FIELDS)
    return {name: value if isinstance(value, int) else str(value) for name, value in given if value is not None}


def _budgets(text: str) -> dict[str, Budget]:
    try:
        return {window: Budget.from_dict(fields) for window, fields in json.loads(text).items()}
    except (AttributeError, TypeError, ValueError):
        raise _damage("an account's limits", text) from None


def _damage(what: str, text: str) -> sqlite3.DatabaseError:
    return sqlite3.DatabaseError(f"the file is damaged: {what} cannot be {text[:80]!r}")
