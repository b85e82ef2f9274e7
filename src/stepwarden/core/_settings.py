"""What holds for the whole process until it is configured otherwise."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._budget import parse_name, parse_seconds
from ._hooks import Hooks
from ._ledger import Ledger
from ._memory import MemoryLedger
from ._rates import Rates, rates_from_mapping
from ._tree import Clock, any_run_is_open, entered_run
from .errors import DefinitionError, PolicyViolationError, UnscopedCallWarning

if TYPE_CHECKING:
    from ._funds import Funds
    from ._run import Run
    from ._watch import Listener, Watcher

PriceTable = Mapping[str, Mapping[str, Any]]
_UNSCOPED = ("warn", "refuse", "pass")
_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
"""How providers name a version of a model in their replies, whatever name it was called by."""

_BETWEEN = frozenset({
    "agents", "anthropic", "anyio", "asyncio", "concurrent", "contextlib", "contextvars", "functools", "httpx",
    "httpx2", "langchain", "langchain_anthropic", "langchain_core", "langchain_openai", "langgraph", "mcp", "openai",
    "opentelemetry", "pydantic_ai", "stepwarden", "tenacity",
})  # fmt: skip
"""Packages that stand between a call and the code that a warning is for."""


def parse_prices(table: object, path: str = "prices") -> dict[str, Rates]:
    """Read a price table: a model's name to its USD per million tokens.

    Args:
        table: ``{"model": {"input": 1, "output": 2, "cache_read": ..., "cache_write": ...,
            "cache_write_1h": ...}}``.
        path: The name that an error message uses for it.

    Raises:
        DefinitionError: If it is no such table.
    """
    if not isinstance(table, Mapping):
        raise DefinitionError(f"{path} must be a mapping of model names to prices, not {table!r}")
    return {parse_name(model, f"a model in {path}"): rates_from_mapping(model, entry) for model, entry in table.items()}


def rates_in(table: Mapping[str, Rates], model: str, called: str | None = None) -> Rates | None:
    """Return what a user's table says of a model; what it says of a name holds for its dated versions, too.

    Args:
        table: The table.
        model: The model's name, with or without a provider before a colon, as called or as a reply gives it.
        called: The name that the model was called by where a reply gives *model*: what the table says of that holds
            where it is the same but for a provider before a colon or slash, and a date.
    """
    rates = table.get(model) if table else None
    if rates is not None or not table:
        return rates
    _, _, bare = model.partition(":")
    undated = _DATE.sub("", model)
    rates = table.get(bare) or (None if undated == model else rates_in(table, undated))
    if rates is None and called is not None and _DATE.sub("", called).endswith((f"/{undated}", f":{undated}")):
        return rates_in(table, called)
    return rates


def parse_ledger(ledger: object, path: str) -> Ledger:
    """Read a ledger; *path* is the name that an error message uses for it."""
    if isinstance(ledger, type) or not isinstance(ledger, Ledger):
        raise DefinitionError(f"{path} must be a MemoryLedger, a SQLiteLedger or another ledger, not {ledger!r}")
    return ledger


class Settings:
    """Hold the process's settings; changed by `configure` only."""

    def __init__(self) -> None:
        self.clock: Clock = time
        self.hooks = Hooks()
        # The newest receipts of runs that were opened implicitly, whatever the ledger.
        self.memory = MemoryLedger()
        self.ledger: Ledger = self.memory
        self.look_up_price: Callable[[str], Rates | None] = _no_price
        # Brought by the package, like the price list; called when the first account is met.
        self.load_funds: Callable[[], Funds]
        self.max_wait = 600.0
        self.prices: dict[str, Rates] = {}
        self.unscoped_calls = "warn"
        # What the edges bring: the core alone writes no spans, no metrics and no log.
        self.watches: tuple[Callable[[Run], Watcher | None], ...] = ()
        self.listeners: tuple[Listener, ...] = ()


def _no_price(model: str) -> None:
    """Know no model: the core alone has no price list; the package brings one."""


settings = Settings()
_KEEP: Any = object()


def configure(
    *,
    ledger: Ledger = _KEEP,
    prices: PriceTable = _KEEP,
    unscoped_calls: str = _KEEP,
    max_wait: float = _KEEP,
    clock: Clock = _KEEP,
) -> None:
    """Change settings of the whole process; what is not given stays as it is.

    Args:
        ledger: Where runs without a ledger of their own keep their records; a MemoryLedger serves only runs that are
            opened implicitly.
        prices: USD per million tokens for each model; they come before the built-in list.
        unscoped_calls: ``"warn"``, ``"refuse"`` or ``"pass"`` a call, record or tool outside every scope.
        max_wait: The longest that a reservation waits, in seconds.
        clock: The clock for runs that are opened from now on.

    Raises:
        DefinitionError: If a value is invalid; then nothing changes.
    """
    if ledger is not _KEEP:
        parse_ledger(ledger, "ledger")
    if unscoped_calls is not _KEEP and unscoped_calls not in _UNSCOPED:
        raise DefinitionError(f"unscoped_calls must be one of {', '.join(_UNSCOPED)}, not {unscoped_calls!r}")
    wait = _KEEP if max_wait is _KEEP else parse_seconds(max_wait, "max_wait")
    if clock is not _KEEP and not (hasattr(clock, "monotonic_ns") and hasattr(clock, "time_ns")):
        raise DefinitionError(f"clock must have monotonic_ns() and time_ns(), and {clock!r} does not")
    table = _KEEP if prices is _KEEP else parse_prices(prices)
    given = (
        ("ledger", ledger), ("prices", table), ("unscoped_calls", unscoped_calls), ("max_wait", wait),
        ("clock", clock),
    )  # fmt: skip
    if isinstance(ledger, MemoryLedger):
        settings.memory = ledger
    for name, value in given:
        if value is not _KEEP:
            setattr(settings, name, value)


def meet_unscoped(what: str) -> None:
    """Treat something that happens outside every scope as the process is configured to.

    Args:
        what: What happened, such as ``"a tool call"``.

    Raises:
        PolicyViolationError: If such calls are refused.
    """
    if settings.unscoped_calls == "refuse":
        raise PolicyViolationError(
            f"{what} outside every run, persona and step was refused (unscoped_calls='refuse'); "
            "carry the caller's scope there with stepwarden.propagate"
        )
    if settings.unscoped_calls == "warn" and any_run_is_open():
        _warn(f"{what} outside every scope while a run is open: it is not counted anywhere")


def meet_lost_context(what: str) -> None:
    """Warn of a scope that opens a run of its own, if somebody has a run open and it probably belongs there.

    Args:
        what: What opens, such as ``"step `plan`"``.
    """
    run = None if settings.unscoped_calls == "pass" else entered_run()
    if run is not None:
        _warn(f"{what} outside every scope while run `{run}` is open: no limit of that run applies to it")


def _warn(what: str) -> None:
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"{what}; if it belongs to that run, carry the scope there with stepwarden.propagate or "
        "stepwarden.install('threading')",
        UnscopedCallWarning,
        stacklevel=level,
    )
