"""Blocks, runs, reservations, hooks and lookups have the types that the design gives them; never run."""

from collections.abc import Callable
from decimal import Decimal
from typing import assert_type

import stepwarden as sw


def swallowing(run: sw.Run) -> int:
    """Only the `with` of a continuing block swallows: the code after it is reached without a return inside."""
    with sw.step("plan", error_boundary="continue") as scope:
        assert_type(scope, sw.StepScope)
        return 1
    print(run)
    return 2


def not_swallowing() -> int:
    """No other `with` swallows: returning inside is enough, and what comes after it would never be reached."""
    with sw.step("plan") as scope, sw.persona("triage") as outer:
        assert_type(scope, sw.StepScope)
        assert_type(outer, sw.PersonaScope)
        return 1


def escalating() -> int:
    """An escalating block swallows nothing either, nor does a reservation or a run."""
    with sw.step("plan", error_boundary="escalate"), sw.reserve(), sw.Run():
        return 1


async def swallowing_async() -> int:
    """The same for `async with`."""
    async with sw.step("plan", error_boundary="continue") as scope:
        assert_type(scope, sw.StepScope)
        return 1
    print("reached")
    return 2


async def not_swallowing_async() -> int:
    """The same for `async with`: none but the continuing one swallows."""
    async with sw.step("plan") as scope, sw.persona("triage") as outer, sw.Run() as run, sw.reserve() as hold:
        assert_type(scope, sw.StepScope)
        assert_type(outer, sw.PersonaScope)
        assert_type(run, sw.Run)
        assert_type(hold, sw.Hold)
        return 1


async def reservations() -> None:
    """Every way to acquire gives a hold."""
    reservation: sw.Reservation = sw.reserve(
        input_tokens=1, output_tokens=2, cost_usd=Decimal("0.1"), wait=False, timeout=1.5
    )
    assert_type(reservation.acquire(), sw.Hold)
    assert_type(await reservation, sw.Hold)
    with reservation as hold:
        assert_type(hold, sw.Hold)
        assert_type(hold.input_tokens, int)
        assert_type(hold.output_tokens, int)
        assert_type(hold.cost_usd, Decimal)
        hold.settle(input_tokens=1, output_tokens=2, cost_usd="0.1")
        hold.release()
    async with reservation as hold:
        assert_type(hold, sw.Hold)


def runs() -> None:
    """A run is what its `with` gives, and shows receipts, usage, what remains and a policy."""
    prices = {"m": {"input": 1, "output": 2.5}}
    with sw.Run(budget=sw.Budget(max_usd=1), policy=sw.Policy(["a"]), prices=prices, hooks=sw.Hooks()) as run:
        assert_type(run, sw.Run)
        assert_type(run.receipts, tuple[sw.Receipt, ...])
        assert_type(run.drain(), tuple[sw.Receipt, ...])
        assert_type(run.total, sw.Usage)
        assert_type(run.own.cost_usd, Decimal)
        assert_type(run.remaining, sw.Budget)
        assert_type(run.policy, sw.Policy)
        assert_type(run.id, str)
        with run.attach():
            pass
    assert_type(sw.receipts(), tuple[sw.Receipt, ...])


def lookups(receipt: sw.Receipt) -> None:
    """What is in force here may be nothing, but there always is a policy."""
    assert_type(sw.current_step(), sw.StepScope | None)
    assert_type(sw.current_persona(), sw.PersonaScope | None)
    assert_type(sw.current_run(), sw.Run | None)
    assert_type(sw.current_policy(), sw.Policy)
    assert_type(sw.default_model(), str | None)
    assert_type(sw.default_model("m"), str | None)
    assert_type(sw.Policy() & sw.current_policy(), sw.Policy)
    assert_type(sw.Budget().max_usd, Decimal | None)
    assert_type(sw.Budget().max_seconds, float | None)
    assert_type(sw.Budget.from_dict({"max_tokens": 5}), sw.Budget)
    assert_type(sw.Usage().total_tokens, int)
    assert_type(receipt.status, sw.Status)
    assert_type(receipt.own, sw.Usage)


@sw.hooks.on("PreStep", persona="merge_*", step="admin_merge")
def gate(event: sw.HookEvent) -> sw.Deny | sw.ReplaceArgs | None:
    """Be a hook."""
    return sw.Deny(event.target)


@sw.hooks.on(sw.BudgetThreshold(80))
def warn(event: sw.HookEvent) -> None:
    """Be a hook."""


def hooked(event: sw.HookEvent) -> None:
    """A hook is called like its function, and can be removed."""
    assert_type(gate(event), sw.Deny | sw.ReplaceArgs | None)
    taken: Callable[[sw.HookEvent], None] = warn
    taken(event)
    gate.remove()
    gate("PreStep")  # type: ignore[arg-type]


def accounts() -> None:
    """An account keeps its name and its budgets, and runs and personas take it."""
    account = sw.Account("a", total={"max_usd": 1}, daily=sw.Budget(max_usd=1))
    assert_type(account.name, str)
    assert_type(account.daily, sw.Budget | None)
    with sw.Run(accounts=[account], tenant="acme"), sw.persona("p", accounts=(account,)):
        pass
