"""The run: the outermost scope of one execution, which owns the hooks, the prices and the log of what finished."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Self, cast

from ._account import TENANT, Account, parse_accounts
from ._budget import Budget, parse_budget, parse_name
from ._deadline import close_deadline, open_deadline
from ._definition import StepDefinition, parse_output_default
from ._durable import until_durable
from ._firing import Pending, run_async, run_sync
from ._hooks import Hooks, armed
from ._leaf import get_leaf, leave, resolve, restore, set_leaf
from ._memory import Keep, MemoryLedger, keep_in_both
from ._plan import Plan
from ._policy import UNRESTRICTED, Policy
from ._queue import end, look
from ._rates import Rates
from ._receipt import Receipt, ReceiptError, Status
from ._scope import Scope
from ._settings import PriceTable, parse_ledger, parse_prices, rates_in, settings
from ._tree import Tree, current_flow, entered
from ._watch import Recorded, Watched, Watcher, close_scope, watch
from .errors import DefinitionError, ForkedRunError, RunClosedError

if TYPE_CHECKING:
    from types import TracebackType

    from ._funds import Funds
    from ._ledger import Journal, Ledger


class Run(Scope):
    """Open the root scope of one execution, as ``with Run() as run`` or ``async with``; inside another run, its child.

    A child is charged upward and its policy only narrows; it uses its parent's hooks and prices unless it has its own.
    A step or persona that is called outside every run opens a run of its own.

    Example:
        >>> import stepwarden as sw
        >>> with sw.Run(budget=sw.Budget(max_usd=1)) as run:
        ...     with sw.step("classify"):
        ...         sw.record_usage("gpt-5-mini", input_tokens=500, cost_usd="0.0002")
        >>> [(receipt.name, str(receipt.status)) for receipt in run.receipts], run.remaining.max_usd
        ([('classify', 'completed')], Decimal('0.9998'))

    Args:
        budget: The limits of everything under it, or None.
        policy: What everything under it may do; None for no restriction.
        hooks: Its own hooks, in place of the process's.
        prices: USD per million tokens for each model, ``{"model": {"input": 1, "output": 2}}``; a model that is
            not listed has the price of the run around, of `configure`, or of the built-in list.
        default_max_output_tokens: The output assumed for a call that names no limit, in tokens; 1,024 by default.
        max_receipts: How many receipts it keeps; older ones are dropped and counted.
        name: Its name in messages.
        accounts: Budgets that outlive it, shared by every run that names the same account in the same ledger.
        tenant: On whose behalf it runs: the account ``tenant:NAME`` is charged, and its records name it.
        ledger: Where its records are kept, besides the newest receipts in memory; None for the ledger of the run
            around, or of `configure`.
        sign: The private key file to sign its records with, for a ledger that keeps records; None for that of the run
            around, in the same ledger.

    Raises:
        DefinitionError: If an argument cannot be right.
    """

    kind = "run"
    __slots__ = (
        "_id", "_own_hooks", "_own_ledger", "_table", "audience", "default_max_output_tokens", "funds", "hooks",
        "is_implicit", "journal", "keep", "ledger", "memory", "sign", "tenant", "watchers",
    )  # fmt: skip

    def __init__(
        self,
        *,
        budget: Budget | None = None,
        policy: Policy | None = None,
        hooks: Hooks | None = None,
        prices: PriceTable | None = None,
        default_max_output_tokens: int | None = None,
        max_receipts: int = 10_000,
        name: str | None = None,
        ledger: Ledger | None = None,
        sign: str | os.PathLike[str] | None = None,
        accounts: Iterable[Account] = (),
        tenant: str | None = None,
    ) -> None:
        if policy is not None and not isinstance(policy, Policy):
            raise DefinitionError(f"run.policy must be a Policy or None, not {policy!r}")
        if hooks is not None and not isinstance(hooks, Hooks):
            raise DefinitionError(f"run.hooks must be a Hooks or None, not {hooks!r}")
        self.default_max_output_tokens = parse_output_default(
            default_max_output_tokens, "run.default_max_output_tokens"
        )
        key: object = sign
        if key is not None and (not isinstance(key, str | os.PathLike) or not os.fspath(key)):
            raise DefinitionError(f"run.sign must be the path of a key file, not {sign!r}")
        self.sign = sign
        self._own_ledger = None if ledger is None else parse_ledger(ledger, "run.ledger")
        self.memory = MemoryLedger(max_receipts)
        self.keep: Keep = self.memory.keep
        self.journal: Journal | None = None
        self._table = {} if prices is None else parse_prices(prices)
        self._id = os.urandom(10).hex()
        self._own_hooks = hooks
        self.is_implicit = False
        plan = Plan(
            StepDefinition(
                name="run" if name is None else parse_name(name, "run.name"), budget=parse_budget(budget, "run.budget")
            )
        )
        plan.kind = "run"
        plan.staged_as = None
        plan.policy = UNRESTRICTED if policy is None else policy
        plan.met = (UNRESTRICTED, None, plan.policy)
        plan.accounts = parse_accounts(accounts, "run.accounts")
        self.tenant = None if tenant is None else parse_name(tenant, "run.tenant")
        if self.tenant is not None:
            plan.accounts += (Account(TENANT + self.tenant),)
        self._place(plan, None)
        # Not entered yet: its numbers can be read, but nothing is open.
        del self.tree.open[self.serial]

    def _place(self, plan: Plan, parent: Scope | None) -> None:
        around = cast("Scope", _Nowhere(self)) if parent is None else parent
        self.open_under(plan, around, get_leaf())
        self.parent = parent
        self.run = self
        around_hooks: Hooks = settings.hooks if parent is None else parent.run.hooks
        self.hooks: Hooks = around_hooks if self._own_hooks is None else self._own_hooks
        self.ledger: Ledger = self._own_ledger or self._ledger_around(parent)
        if self.sign is None and parent is not None and parent.run.ledger is self.ledger:
            self.sign = parent.run.sign
        # What draws on accounts, where anything in it, or around it, has one.
        self.funds: Funds | None = None if parent is None else parent.run.funds
        if plan.accounts:
            self.funds = self.funds or settings.load_funds()
        if self.funds is not None:
            armed.calls = True
        self.audience: Hooks | Recorded | type[Watched] = self.hooks
        self.watchers: tuple[Watcher, ...] = ()

    def _ledger_around(self, parent: Scope | None) -> Ledger:
        around: Ledger = settings.ledger if parent is None else parent.run.ledger
        # What is in memory only, and not asked for, keeps what its own run leaves.
        is_asked_for = around is not (settings.memory if parent is None else parent.run.memory)
        return around if is_asked_for else self.memory

    def _open_journal(self) -> None:
        self.journal = self.ledger.open(self)
        if self.journal is not None:
            armed.calls = True
            self.audience = Recorded(self.hooks)
            self.keep = keep_in_both(self.memory.keep, self.journal.closed)

    @property
    def id(self) -> str:
        """The id of this run, unique across processes and machines."""
        return self._id

    @property
    def is_open(self) -> bool:
        """Whether it was entered and not left yet."""
        return self.tree.open.get(self.serial) is self

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The newest receipts of steps and personas under it, in completion order, so inner before outer."""
        return self.memory.receipts

    @property
    def receipts_dropped(self) -> int:
        """How many receipts were dropped to make room for newer ones."""
        return self.memory.dropped

    def drain(self) -> tuple[Receipt, ...]:
        """Return the receipts and forget them."""
        return self.memory.drain()

    @property
    def open_scopes(self) -> tuple[Scope, ...]:
        """The scopes open under it now, outermost and oldest first."""
        inside = (scope for scope in tuple(self.tree.open.values()) if scope is not self and self._holds(scope))
        return tuple(sorted(inside, key=attrgetter("serial")))

    def rates(self, model: str | None, called: str | None = None) -> Rates | None:
        """Return what a model charges under this run, or None where it has no price.

        Args:
            model: The model's name, as called or as a reply gives it.
            called: The name that it was called by, where a reply gives *model*.
        """
        if not model:
            return None
        run: Run | None = self
        while run is not None:
            rates = rates_in(run._table, model, called)
            if rates is not None:
                return rates
            run = None if run.parent is None else run.parent.run
        rates = rates_in(settings.prices, model, called)
        return settings.look_up_price(model) if rates is None else rates

    def __enter__(self) -> Self:
        if self.status is not None or self.is_open:
            raise RunClosedError(f"run `{self.name}` was entered before, and a Run opens only once: make a new one")
        current = get_leaf()
        around = resolve(current)
        if around is not None and around.tree.is_forked:
            around = None  # what this process inherited belongs to the one that opened it
        while around is not None and around.run.status is not None:
            around = around.run.parent  # a run that has ended takes no more, but one around it may
        try:
            self._place(self.plan, around)
            self._open_journal()
            if around is None:
                entered.add(weakref.ref(self.tree, entered.discard))
            self.flow = current_flow()
            set_leaf(self)
            watch(self)
        except BaseException as error:
            leave(self, status_of(error))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run_sync(self._end(error), blocks=True)

    async def __aenter__(self) -> Self:
        self.__enter__()
        await open_deadline(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raised = await close_deadline(self, kind, error, trace)
        await run_async(self._end(raised))
        if raised is not None and raised is not error:
            raise raised

    def _end(self, error: BaseException | None) -> Pending[None]:
        status = Status.COMPLETED if error is None else status_of(error)
        try:
            stray = leave(self, status)
        except BaseException:
            leave(self, status)  # a signal handler raised in the middle, and the run has ended all the same
            raise
        yield from until_durable(self, stray or error)
        if stray is not None and (error is None or isinstance(error, Exception)):
            raise stray from error

    @contextmanager
    def attach(self) -> Iterator[Run]:
        """Enter this live run from another task or thread: ``with run.attach():``.

        Raises:
            RunClosedError: If it is not open.
            ForkedRunError: If this process inherited it.
        """
        with self.tree.lock:
            if not self.is_open:
                raise RunClosedError(f"run `{self.name}` is not open, so nothing can be attached to it")
        token = set_leaf(self)
        try:
            yield self
        finally:
            restore(token)

    def open_implicitly(self) -> None:
        """Open as the run of a persona or step that was called outside every run."""
        self.is_implicit = True
        self.memory = settings.memory
        self.keep = settings.memory.keep
        self._place(self.plan, None)
        self._open_journal()
        self.outer = None
        watch(self)

    def close(self, status: Status, error: ReceiptError | None = None) -> bool:  # noqa: ARG002 - a run has no receipt
        """End the run: abandon what is still open under it, and keep what its open holds may cost as uncertain."""
        tree, was_open = self.tree, False
        try:
            while self.status is None:
                with tree.lock:
                    for waiter in tuple(tree.waiting):
                        if self._holds(waiter.hold.scope):
                            end(waiter, RunClosedError(f"run `{self.name}` ended while a call waited in it"))
                    look(self)  # not before all are out: none of them is to be granted what it never takes
                for scope in reversed(self.open_scopes):
                    close_scope(scope, Status.ABANDONED)
                for hold in tuple(self.holds or ()):
                    hold.leave()
                    hold.let_go()
                with tree.lock:
                    # What another thread began meanwhile is ended first.
                    if not self.holds and not self.open_scopes:
                        self.closed_ns = tree.clock()
                        self.status = status
                        was_open = True
                        tree.open.pop(self.serial, None)
                        if self.parent is None:
                            entered.discard(weakref.ref(tree))
        except ForkedRunError:
            pass  # the run belongs to the parent process, which ends it
        if was_open and self.journal is not None:
            self.journal.closed(self)
        return was_open

    def _holds(self, scope: Scope | None) -> bool:
        while scope is not None and scope is not self:
            scope = scope.parent
        return scope is self


class _Nowhere:
    """Stand where the parent of an outermost run would be."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.tree = Tree(settings.clock)
        self.persona_scope = None
        self.policy = UNRESTRICTED
        self._model = None


def status_of(error: BaseException) -> Status:
    """Tell how an activation ended that an error leaves, boundaries aside."""
    asyncio = sys.modules.get("asyncio")
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        return Status.CANCELLED
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        return Status.CANCELLED
    return Status.FAILED


def current_run() -> Run | None:
    """Return the innermost run of this context, or None."""
    scope = resolve(get_leaf())
    return None if scope is None else scope.run


def receipts() -> tuple[Receipt, ...]:
    """Return the receipts of runs that were opened implicitly, in completion order."""
    return settings.memory.receipts
