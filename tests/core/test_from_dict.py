"""Declaring in other ways than by a decorator: by registration, by a mapping, and as a block."""

import asyncio
import contextvars
import functools
import threading

import pytest

import stepwarden as sw

FULL_STEP = {
    "name": "classify",
    "model": "openai:gpt-5-mini",
    "budget": {"max_tokens": 2_000, "max_usd": "0.05"},
    "error_boundary": "continue",
    "fallback": "unknown",
    "tools": ["github"],
    "side_effect_level": "read_only",
    "default_max_output_tokens": 512,
}
FULL_PERSONA = {
    "name": "triage_captain",
    "model": "openai:gpt-5",
    "budget": {"max_usd": 1},
    "tools": ["github", "ci"],
    "side_effect_level": "network",
    "stages": [{"name": "classify", "allowed_tools": ["github"], "side_effect_level": "read_only"}, {"name": "merge"}],
}
STATE = {"step": sw.current_step, "persona": sw.current_persona}
every_block = pytest.mark.parametrize("kind", STATE)
SAFETY_NET = 30


def work(number=1):
    """Be a unit of work."""
    return number


def left(run):
    """Return name and status of a run's receipts."""
    return [(receipt.name, receipt.status.value) for receipt in run.receipts]


def test_a_mapping_declares_what_the_keywords_do():
    """A step or persona read from a mapping equals the one that its keywords declare, budget and stages included."""
    step = sw.step_from_dict(work, FULL_STEP)
    budget = sw.Budget(max_tokens=2_000, max_usd="0.05")
    assert step.definition == sw.step(**{**FULL_STEP, "budget": budget})(work).definition
    assert step.definition == sw.register_step(work, sw.StepDefinition(**FULL_STEP)).definition
    persona = sw.persona_from_dict(work, FULL_PERSONA)
    stages = [sw.Stage("classify", ["github"], "read_only"), sw.Stage("merge")]
    keywords = {**FULL_PERSONA, "budget": sw.Budget(max_usd=1), "stages": stages}
    assert persona.definition == sw.persona(**keywords)(work).definition
    assert persona.definition == sw.register_persona(work, sw.PersonaDefinition(**keywords)).definition
    with sw.Run() as run:
        assert (step(2), persona(3)) == (2, 3)
    assert left(run) == [("classify", "completed"), ("triage_captain", "completed")]


@pytest.mark.parametrize("from_dict", [sw.step_from_dict, sw.persona_from_dict])
def test_an_empty_mapping_declares_the_functions_name(from_dict):
    """Every key is optional, and the name is the function's unless one is given."""
    assert from_dict(work, {}).definition.name == "work"
    assert from_dict(work, {"name": "given"}).definition.function == "work"
    given = dict(FULL_STEP if from_dict is sw.step_from_dict else FULL_PERSONA)
    from_dict(work, given)
    assert given == (FULL_STEP if from_dict is sw.step_from_dict else FULL_PERSONA)
    with pytest.raises((sw.DefinitionError, TypeError), match="name"):
        from_dict(functools.partial(work, 2), {})
    assert from_dict(functools.partial(work, 2), {"name": "given"}).definition.function == "given"


@pytest.mark.parametrize(
    ("from_dict", "mapping", "said"),
    [
        (sw.step_from_dict, {"modle": "m"}, r"modle.*'model'"),
        (sw.step_from_dict, {"budgets": {}}, r"budgets.*'budget'"),
        (sw.step_from_dict, {"stages": []}, r"stages"),
        (sw.step_from_dict, {"max_tokens": 5}, r"max_tokens"),
        (sw.step_from_dict, {"function": "f"}, r"function"),
        (sw.step_from_dict, {5: "m"}, r"5"),
        (sw.step_from_dict, {"Name": "m"}, r"Name.*'name'"),
        (sw.step_from_dict, {"budget": {"max_token": 5}}, r"max_token'.*'max_tokens'"),
        (sw.step_from_dict, {"budget": {"max_tokens": True}}, r"budget\.max_tokens"),
        (sw.persona_from_dict, {"stage": []}, r"stage'.*'stages'"),
        (sw.persona_from_dict, {"error_boundary": "fail"}, r"error_boundary"),
        (sw.persona_from_dict, {"fallback": 5}, r"fallback"),
        (sw.persona_from_dict, {"stages": [{"name": "a", "allowed_tool": []}]}, r"stages\[0\].*'allowed_tools'"),
        (sw.persona_from_dict, {"stages": [{"name": "a"}, {"name": "b", "on_exit": 1}]}, r"stages\[1\].*on_exit"),
        (sw.persona_from_dict, {"stages": [{"name": "a", "max_iterations": 3}]}, r"stages\[0\].*max_iterations"),
        (sw.persona_from_dict, {"stages": [{"name": "a"}, {"allowed_tools": []}]}, r"stages\[1\]\.name"),
        (sw.persona_from_dict, {"stages": [{}]}, r"stages\[0\]\.name"),
        (sw.persona_from_dict, {"stages": [{"name": "a"}, {"name": "a"}]}, r"stages.*'a'"),
        (sw.persona_from_dict, {"stages": [{"name": "a", "allowed_tools": "git"}]}, r"a.*allowed_tools"),
        (sw.persona_from_dict, {"stages": [{"name": "a", "side_effect_level": "low"}]}, r"a.*side_effect_level"),
        (sw.persona_from_dict, {"tools": ["git"], "stages": [{"name": "a", "allowed_tools": ["ci"]}]}, r"a.*allowed_t"),
        *((sw.persona_from_dict, {"stages": wrong}, "stages") for wrong in ("", 0, False, {}, {"name": "a"}, "a", 5)),
        *(
            (sw.persona_from_dict, {"stages": [wrong]}, r"stages\[0\]")
            for wrong in (None, "a", 5, ["a"], {"step": "a"})
        ),
        *((sw.step_from_dict, wrong, "step") for wrong in (None, [], "name", 5, [("name", "a")])),
        *((sw.persona_from_dict, wrong, "persona") for wrong in (None, [], "name", 5, [("name", "a")])),
    ],
)
def test_a_bad_mapping_is_refused_with_the_path_of_the_field(from_dict, mapping, said):
    """A mapping with an unknown key or a bad value is a DefinitionError that names the field, with the likely one."""
    with pytest.raises(sw.DefinitionError, match=said):
        from_dict(work, mapping)


def test_no_stages_are_declared_by_none_and_by_an_empty_list():
    """A mapping whose stages are None or an empty list declares none, as in the reference."""
    for stages in (None, [], ()):
        assert sw.persona_from_dict(work, {"stages": stages}).definition.stages == ()


@pytest.mark.parametrize("wrong", [None, {}, {"name": "a"}, "a", 5, sw.StepDefinition, sw.Budget()])
def test_only_a_definition_of_its_kind_is_registered(wrong):
    """Registering takes a definition of the right kind, and says so otherwise."""
    for register, other in (
        (sw.register_step, sw.PersonaDefinition("a")),
        (sw.register_persona, sw.StepDefinition("a")),
    ):
        for definition in (wrong, other):
            with pytest.raises((sw.DefinitionError, TypeError), match="definition"):
                register(work, definition)


def test_registering_what_cannot_be_called_is_refused():
    """Registration refuses what a decorator refuses, a descriptor with the order that works."""
    for target in (5, "work", int, classmethod(work), staticmethod(work), None):
        for register in (
            lambda given: sw.register_step(given, sw.StepDefinition("a")),
            lambda given: sw.register_persona(given, sw.PersonaDefinition("a")),
            lambda given: sw.step_from_dict(given, {"name": "a"}),
            lambda given: sw.persona_from_dict(given, {"name": "a"}),
        ):
            with pytest.raises((sw.DefinitionError, TypeError), match="@"):
                register(target)


def test_the_definition_is_found_on_the_function():
    """`fn.definition` and `sw.definition(fn)` are the same object, the outer one of a stack, and an error elsewhere."""
    step = sw.step(name="plan")(work)
    persona = sw.persona(name="triage")(step)
    assert step.definition is sw.definition(step)
    assert sw.definition(step) == sw.StepDefinition("plan", function="work")
    assert sw.definition(persona) == sw.PersonaDefinition("triage", function="work")
    for other in (work, len, 5, None, sw.step("block"), sw.StepDefinition("a"), sw.tool(work)):
        with pytest.raises((sw.DefinitionError, TypeError), match="step"):
            sw.definition(other)


@every_block
def test_a_block_is_reusable_and_reentrant(kind):
    """The same block opens a new scope each time, also inside itself, and closes the innermost first."""
    block = getattr(sw, kind)("plan", model="m")
    with sw.Run() as run:
        with block as outer, block as inner:
            assert (inner.parent, STATE[kind]()) == (outer, inner)
            assert (outer.name, outer.function, outer.model) == ("plan", "plan", "m")
        with block as third:
            assert third.parent is run
        assert block(work)(5) == 5
    assert [receipt.step_id for receipt in run.receipts[:3]] == [inner.id, outer.id, third.id]
    assert left(run) == [("plan", "completed")] * 4
    assert block(work).definition.function == "work"


@every_block
def test_a_block_without_a_name_is_refused(kind):
    """A block has no function to take a name from: without one it is a DefinitionError, and nothing is opened."""

    async def enter(block):
        async with block:
            pass

    block = getattr(sw, kind)(model="m")
    with sw.Run() as run:
        with pytest.raises(sw.DefinitionError, match="name"), block:
            pass
        with pytest.raises(sw.DefinitionError, match="name"):
            asyncio.run(enter(block))
        assert STATE[kind]() is None
    assert run.receipts == ()


@every_block
def test_a_block_serves_many_threads_at_once(kind):
    """Threads that are inside the same block at the same time each have a scope of their own, and close that one."""
    block, together, inside, failures = getattr(sw, kind)("plan"), threading.Barrier(6), set(), []

    def enter():
        try:
            with run.attach():
                for _ in range(5):
                    together.wait(SAFETY_NET)
                    with block as scope, block as inner:
                        together.wait(SAFETY_NET)
                        assert (STATE[kind](), inner.parent, scope.parent) == (inner, scope, run)
                        inside.update((scope.id, inner.id))
                        together.wait(SAFETY_NET)
                    assert STATE[kind]() is None
        except BaseException as error:
            failures.append(error)
            together.abort()

    with sw.Run() as run:
        threads = [threading.Thread(target=enter) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SAFETY_NET)
    assert failures == []
    assert len(inside) == 60
    assert left(run) == [("plan", "completed")] * 60


@every_block
def test_a_block_serves_many_tasks_at_once(kind):
    """Tasks inside the same block, under one another and side by side, each close their own scope."""
    block = getattr(sw, kind)("plan")

    async def enter(together, outer):
        async with block as scope:
            await together.wait()
            with block as inner:
                await together.wait()
                assert (STATE[kind](), inner.parent, scope.parent) == (inner, scope, outer)
        assert STATE[kind]() is outer

    async def main():
        together = asyncio.Barrier(5)
        async with block as outer, asyncio.timeout(SAFETY_NET):
            await asyncio.gather(*(enter(together, outer) for _ in range(5)))
            assert outer.status is None

    with sw.Run() as run:
        asyncio.run(main())
    assert left(run) == [("plan", "completed")] * 11


def test_a_block_left_elsewhere_closes_the_only_open_one():
    """Left in a context where it was not entered, a block closes the only scope still open, and refuses to guess."""
    block = sw.step("plan")
    with sw.Run() as run:
        one, two = contextvars.copy_context(), contextvars.copy_context()
        first, second = one.run(block.__enter__), two.run(block.__enter__)
        with pytest.raises(sw.ScopeOrderError):
            block.__exit__(None, None, None)
        assert (first.status, second.status) == (None, None)
        two.run(block.__exit__, None, None, None)
        assert (first.status, second.status) == (None, sw.Status.COMPLETED)
        block.__exit__(None, None, None)
        assert first.status is sw.Status.COMPLETED
        with pytest.raises(sw.ScopeOrderError):
            block.__exit__(None, None, None)
    assert [receipt.step_id for receipt in run.receipts] == [second.id, first.id]


def test_only_a_continuing_block_swallows_and_only_its_own_exhaustion():
    """A block swallows its own exhaustion with `continue`, and neither an ordinary error nor its caller's limit."""
    block = sw.step("plan", budget={"max_calls": 0}, error_boundary="continue")
    reached = []
    with sw.Run(budget=sw.Budget(max_calls=1)) as run:
        with block:
            sw.record_usage()
        reached.append(sw.current_step())
        with pytest.raises(KeyError), block:
            raise KeyError("ordinary")
        with pytest.raises(sw.BudgetExceededError, match="run"), block:
            sw.record_usage()
        with pytest.raises(sw.EscalationError), sw.step("up", budget={"max_calls": 0}, error_boundary="escalate") as up:
            raise_own(up)
    assert reached == [None]
    assert left(run) == [("plan", "skipped"), ("plan", "failed"), ("plan", "failed"), ("up", "escalated")]


def raise_own(scope):
    """Raise the scope's own budget error, whatever the scopes around it have left."""
    raise sw.BudgetExceededError(
        "over", scope_kind="step", scope_name=scope.name, scope_id=scope.id, function=scope.function, limit="max_calls",
        limit_value=0, consumed=1, usage=scope.own,
    )  # fmt: skip


@pytest.mark.parametrize("budget", [None, {"max_seconds": 60}])
def test_an_async_block_never_suspends_to_enter_or_leave(budget):
    """`async with` enters and leaves without a suspension, so that nothing can be cancelled there."""

    async def main():
        block, others = sw.step("plan", budget=budget), []
        asyncio.get_running_loop().call_soon(others.append, "ran")
        async with block as scope:
            assert others == []
        assert (others, scope.status) == ([], sw.Status.COMPLETED)
        await asyncio.sleep(0)
        assert others == ["ran"]

    with sw.Run():
        asyncio.run(main())


def test_an_async_block_with_a_deadline_works_without_a_loop():
    """Driven by something other than asyncio, an async block with `max_seconds` is checked and not timed out."""
    block = sw.step("plan", budget={"max_seconds": 60})
    with sw.Run() as run:
        for suspend in (block.__aenter__, functools.partial(block.__aexit__, None, None, None)):
            with pytest.raises(StopIteration):
                suspend().send(None)
    assert left(run) == [("plan", "completed")]


def test_a_refused_async_block_leaves_no_timer_behind():
    """An async block that a hook makes fail at entry takes its deadline with it: nobody is cancelled by it later."""
    hooks = sw.Hooks()
    hooks.on("PreStep")(lambda event: sw.ReplaceArgs(args=(1,)))

    async def main():
        with pytest.raises(TypeError, match="plan"):
            async with sw.step("plan", budget={"max_seconds": 0.001}):
                raise AssertionError
        await asyncio.sleep(0.05)  # the loop's timers are in order: the deadline, were it left, would come first
        return "not cancelled"

    with sw.Run(hooks=hooks) as run:
        assert asyncio.run(main()) == "not cancelled"
    assert left(run) == [("plan", "failed")]
