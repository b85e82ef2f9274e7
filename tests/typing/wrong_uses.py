"""Wrong uses are type errors; an ignore that nothing needs is an error itself, so each line proves that it is one."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Generator

import stepwarden as sw


@sw.step
def step(number: int, *, flag: bool = False) -> str:
    """Be a step."""
    return f"{number}{flag}"


@sw.step(error_boundary="continue")
async def continuing(number: int) -> str:
    """Be a step."""
    return str(number)


@sw.step
def generator() -> Generator[int, str, None]:
    """Be a step."""
    yield 1


@sw.tool(side_effect="none")
def tool(path: str) -> None:
    """Be a tool."""


async def calls() -> None:
    """Decorated functions refuse what the functions refuse."""
    step("1")  # type: ignore[arg-type]
    step()  # type: ignore[call-arg]
    step(1, True)  # type: ignore[call-arg]
    step(1, flags=True)  # type: ignore[call-arg]
    tool(path=1)  # type: ignore[arg-type]
    generator().send(1)  # type: ignore[arg-type]
    (await continuing(1)).upper()  # type: ignore[union-attr]
    answer: int = step(1)  # type: ignore[assignment]
    print(answer)


def declarations() -> None:
    """Arguments that no declaration has, and values of another type, are errors where they are written."""
    sw.step(modle="m")  # type: ignore[call-overload]
    sw.step(model=5)  # type: ignore[call-overload]
    sw.step(budget=5)  # type: ignore[call-overload]
    sw.step(error_boundary="ignore")  # type: ignore[call-overload]
    sw.step(side_effect_level=1)  # type: ignore[call-overload]
    sw.step(tools=[1])  # type: ignore[list-item]
    sw.step(stages=[])  # type: ignore[call-overload]
    sw.persona(error_boundary="fail")  # type: ignore[call-overload]
    sw.persona(stages=["plan"])  # type: ignore[list-item]
    sw.tool(side_effects="none")  # type: ignore[call-overload]
    sw.Budget(max_tokens="5")  # type: ignore[arg-type]
    sw.Budget(max_token=5)  # type: ignore[arg-type]
    sw.Budget(max_usd=b"5")  # type: ignore[arg-type]
    sw.Stage(5)  # type: ignore[arg-type]
    sw.Run(budget=5)  # type: ignore[arg-type]
    sw.Run(policies=None)  # type: ignore[call-arg]
    sw.register_step(step, sw.PersonaDefinition("a"))  # type: ignore[arg-type]
    sw.configure(unscoped="warn")  # type: ignore[call-arg]


def values(budget: sw.Budget, policy: sw.Policy, usage: sw.Usage) -> None:
    """Values are frozen, and policies have no operator that widens."""
    budget.max_tokens = 5  # type: ignore[misc]
    usage.calls = 5  # type: ignore[misc]
    policy.tools = None  # type: ignore[misc]
    policy | policy  # type: ignore[operator]
    policy & budget  # type: ignore[operator]


def swallowed() -> int:  # type: ignore[return]
    """Behind the `with` of a continuing block there is a way out of the function without a return."""
    with sw.step("plan", error_boundary="continue"):
        return 1


async def swallowed_async() -> int:  # type: ignore[return]
    """The same for `async with`."""
    async with sw.step("plan", error_boundary="continue"):
        return 1


def usage_and_holds(hold: sw.Hold) -> None:
    """Usage and reservations take keywords of the right type only."""
    sw.record_usage("m", 5)  # type: ignore[call-arg]
    sw.record_usage(input_token=5)  # type: ignore[call-arg]
    sw.record_usage(cost_usd=None, input_tokens="5")  # type: ignore[arg-type]
    print(sw.reserve(5))  # type: ignore[call-arg]
    print(sw.reserve(output=5))  # type: ignore[call-arg]
    print(sw.reserve(output_tokens="5"))  # type: ignore[arg-type]
    hold.settle(5)  # type: ignore[call-arg]
    hold.output_tokens = "5"  # type: ignore[assignment]


def accounts() -> None:
    """An account takes a name and budgets by window, and is given to runs and personas in a list."""
    sw.Account(daily=sw.Budget(max_usd=1))  # type: ignore[call-arg]
    sw.Account("a", sw.Budget(max_usd=1))  # type: ignore[call-arg]
    sw.Account("a", daily=5)  # type: ignore[arg-type]
    sw.Run(accounts=sw.Account("a"))  # type: ignore[arg-type]
    sw.Run(tenant=5)  # type: ignore[arg-type]
