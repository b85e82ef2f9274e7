"""Real programs with frames, recursion and try, whose steps a host pushes and pops as their frames come and go."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepwarden as sw
from stepwarden.host import StepHost
from tests.core.interpreter import NATIVES, Machine, Recursion, compiled, load
from tests.effort import EFFORT


def machine(host, text, natives=None, *, personas=(), **steps):
    """Load a program and register its steps and personas."""
    for name, mapping in steps.items():
        host.register_step_from_dict(name, mapping)
    for name in personas:
        host.register_persona_from_dict(name, {})
    return Machine(load(text), host, {**NATIVES, **(natives or {})})


def ended(run):
    """Return the name, status and output of each activation that ended in a run, inner before outer."""
    return [(receipt.name, str(receipt.status), receipt.total.output_tokens) for receipt in run.receipts]


FACTORIAL = """
(def factorial (n)
  (spend n)
  (if (< n 2) 1 (* n (factorial (- n 1)))))
"""


def test_recursion_opens_a_step_for_each_frame():
    """Every call of a recursive step is an activation of its own, inside that of its caller."""
    with StepHost() as host:
        assert machine(host, FACTORIAL, factorial={}).call("factorial", 5) == 120
        assert ended(host.run) == [("factorial", "completed", total) for total in (1, 3, 6, 10, 15)]
        assert [receipt.own.output_tokens for receipt in host.peek_completed_steps()] == [1, 2, 3, 4, 5]


def test_a_budget_of_a_recursive_step_is_that_of_each_activation():
    """The outermost activation whose limit is passed is told, through all the frames inside it."""
    with StepHost() as host, pytest.raises(sw.BudgetExceededError) as caught:
        machine(host, FACTORIAL, factorial={"budget": {"max_tokens": 14}}).call("factorial", 5)
    statuses = [str(receipt.status) for receipt in host.peek_completed_steps()]
    assert statuses == ["failed"] * 5
    assert caught.value.scope_id == host.peek_completed_steps()[-1].step_id


STEPS_CALLING_STEPS = """
(def main (n)
  (+ (plan n) (review n)))
(def plan (n)
  (spend n) (draft n))
(def draft (n)
  (spend (* 2 n)))
(def review (n)
  (spend 1))
"""


def test_steps_call_steps_through_frames_that_are_none():
    """A frame that is not registered stands between steps without a trace of its own."""
    with StepHost() as host:
        program = machine(host, STEPS_CALLING_STEPS, plan={}, draft={}, review={})
        assert program.call("main", 10) == 21
        assert ended(host.run) == [("draft", "completed", 20), ("plan", "completed", 30), ("review", "completed", 1)]
        plan, draft = host.run.receipts[1], host.run.receipts[0]
        assert draft.parent_id == plan.step_id
        assert plan.own.output_tokens == 10


TRY = """
(def main ()
  (try (explore 1) (spend 3)))
(def explore (depth)
  (try (do (spend 60) (dig depth)) (throw 7)))
(def dig (depth)
  (spend 60))
"""


def test_a_step_that_runs_out_inside_a_try_goes_on():
    """A handler in the step's own frame takes its budget error before the boundary does, and what it throws leaves."""
    with StepHost() as host:
        program = machine(host, TRY, explore={"budget": {"max_tokens": 100}, "error_boundary": "continue"}, dig={})
        assert program.call("main") == 3
        assert ended(host.run) == [("dig", "failed", 60), ("explore", "failed", 120)]
        assert host.run.receipts[0].error.type == "BudgetExceededError"
        assert host.run.receipts[1].error.type == "ThrownError"
        assert host.run.own.output_tokens == 3


def test_the_boundary_of_a_frame_below_absorbs_what_runs_out_above():
    """Where no handler stands between, the step's own `continue` returns its fallback to the frame that called it."""
    text = "(def main () (+ 1 (outer))) (def outer () (inner) (throw 1)) (def inner () (spend 50))"
    with StepHost() as host:
        program = machine(
            host, text,
            outer={"budget": {"max_tokens": 40}, "error_boundary": "continue", "fallback": 10},
            inner={"budget": {"max_tokens": 45}, "error_boundary": "continue", "fallback": 20},
        )  # fmt: skip
        # Both limits are passed: the outer one is told, and the inner step leaves it alone.
        assert program.call("main") == 11
        assert ended(host.run) == [("inner", "failed", 50), ("outer", "skipped", 50)]


def test_an_escalation_passes_every_frame_and_every_continue():
    """An escalated error leaves all steps and personas above it as failed, and no `continue` absorbs it."""
    text = """
    (def captain () (manage))
    (def manage () (work))
    (def work () (spend 5) (spend 50))
    """
    with StepHost() as host, pytest.raises(sw.EscalationError) as caught:
        program = machine(
            host, text, personas=["captain"],
            manage={"budget": {"max_tokens": 1_000}, "error_boundary": "continue"},
            work={"budget": {"max_tokens": 10}, "error_boundary": "escalate"},
        )  # fmt: skip
        program.call("captain")
    assert caught.value.as_dict()["category"] == "handoff_escalation"
    assert caught.value.__cause__ is caught.value.error
    steps = host.drain_completed_steps()
    assert [(receipt.name, str(receipt.status), receipt.persona) for receipt in steps] == [
        ("work", "escalated", "captain"),
        ("manage", "failed", "captain"),
    ]


def test_an_escalation_can_be_caught_by_the_program():
    """A handler in a frame around takes an escalation like any other error."""
    text = "(def main () (try (work) 99)) (def work () (spend 50))"
    with StepHost() as host:
        program = machine(host, text, work={"budget": {"max_tokens": 10}, "error_boundary": "escalate"})
        assert program.call("main") == 99
        assert ended(host.run) == [("work", "escalated", 50)]


def test_a_handler_far_below_unwinds_every_frame_between():
    """An error that a distant handler takes leaves each step between as failed, and none of them open."""
    text = """
    (def main () (try (down 3) (spend 1)))
    (def down (n) (if (= n 0) (throw 1) (down (- n 1))))
    """
    with StepHost() as host:
        program = machine(host, text, down={})
        assert program.call("main") == 1
        assert ended(host.run) == [("down", "failed", 0)] * 4
        assert host.active_step() is None
        assert host.run.open_scopes == ()
        assert sw.current_run() is host.run


def test_what_a_host_reserves_is_held_on_every_frame():
    """A reservation made by a builtin is lowered to what the step of the frame has left."""
    with StepHost() as host:
        program = machine(host, "(def work (n) (reserve n))", work={"budget": {"max_tokens": 30}})
        assert program.call("work", 100) == 15
        assert host.peek_completed_steps()[0].clamped_calls == 1


def detached(machine, name):
    """Call a function of the program with nothing active."""
    with machine.host.suspend():
        assert sw.current_step() is None
        assert machine.host.current_persona_name() is None
        frames, machine.frames = machine.frames, []
        try:
            return machine.call(name)
        finally:
            machine.frames = frames


def test_suspended_frames_are_charged_nothing():
    """What the host does while it is suspended is no step's, has frames from the bottom, and is followed by the rest."""
    text = """
    (def captain () (+ (plan) 1))
    (def plan () (spend 5) (detached) (spend 5))
    (def audit () (spend 100))
    """
    with StepHost() as host:
        natives = {"detached": lambda machine: detached(machine, "audit")}
        program = machine(
            host, text, natives, personas=["captain"],
            plan={"budget": {"max_tokens": 10}}, audit={"budget": {"max_tokens": 100}},
        )  # fmt: skip
        assert program.call("captain") == 6
        audit, plan = host.peek_completed_steps()
        assert (audit.name, audit.persona, audit.parent_id) == ("audit", None, host.run.id)
        assert (plan.name, plan.persona, plan.total.output_tokens) == ("plan", "captain", 10)
        assert host.run.total.output_tokens == 110


def test_an_error_inside_suspended_frames_goes_on_in_those_below():
    """An error that leaves a suspended call meets the steps that are back in force, as if the builtin had raised it."""
    text = "(def main () (try (plan) 7)) (def plan () (detached)) (def audit () (throw 1))"
    with StepHost() as host:
        natives = {"detached": lambda machine: detached(machine, "audit")}
        program = machine(host, text, natives, plan={}, audit={})
        assert program.call("main") == 7
        assert ended(host.run) == [("audit", "failed", 0), ("plan", "failed", 0)]


def test_a_python_step_between_frames_is_a_step_between():
    """A step in Python that the program calls and that calls back lies between the frames, with its own limits."""

    @sw.step(budget=sw.Budget(max_tokens=20), error_boundary="continue", fallback=0)
    def bridge(machine, name):
        return machine.call(name)

    text = "(def main () (outer)) (def outer () (spend 1) (+ (bridge) 5)) (def inner () (spend 30))"
    with StepHost() as host:
        natives = {"bridge": lambda machine: bridge(machine, "inner")}
        program = machine(host, text, natives, outer={}, inner={})
        assert program.call("main") == 5
        assert ended(host.run) == [("inner", "failed", 30), ("bridge", "skipped", 30), ("outer", "completed", 31)]
        assert [receipt.name for receipt in host.peek_completed_steps()] == ["inner", "outer"]


def test_two_programs_that_take_turns_do_not_mix():
    """Two hosts in one thread, attached while it is their turn, keep their steps, usage and personas apart."""
    text = "(def captain () (work 3)) (def work (n) (spend 1) (if (= n 0) 0 (work (- n 1))) (spend n))"
    with sw.Run() as run:
        hosts = [StepHost(run), StepHost(run)]
        turns = []
        for number, host in enumerate(hosts):
            host.register_persona_from_dict("captain", {"name": f"captain {number}"})
            host.register_step_from_dict("work", {"name": f"work {number}", "budget": {"max_tokens": 10}})
            turns.append(Machine(load(text), host, NATIVES).steps("captain"))
        waiting = list(zip(hosts, turns, strict=True))
        while waiting:
            host, turn = waiting.pop(0)
            with host.attach():
                if next(turn, "over") != "over":
                    waiting.append((host, turn))
            assert sw.current_run() is run
            assert sw.current_step() is None
        for number, host in enumerate(hosts):
            ended = [(one.name, one.persona, one.own.output_tokens) for one in host.peek_completed_steps()]
            assert ended == [(f"work {number}", f"captain {number}", 1 + n) for n in range(4)]
        assert run.total.output_tokens == 2 * (4 + 6)


def test_a_program_moves_to_another_thread_between_two_instructions():
    """A host that is attached in another thread has its steps in force there, and pops what was pushed here."""
    text = "(def main () (work 4)) (def work (n) (spend n) (if (= n 0) 0 (work (- n 1))))"
    with StepHost() as host:
        turn = machine(host, text, work={}).steps("main")

        def advance():
            with host.attach():
                return next(turn, "over")

        with ThreadPoolExecutor(2) as pool:
            while (advance() if host.run.total.calls % 2 else pool.submit(advance).result()) != "over":
                pass
        assert ended(host.run) == [("work", "completed", total) for total in (0, 1, 3, 6, 10)]
        assert sw.current_step() is None
        assert sw.current_run() is host.run


NAMES = ("a", "b", "c", "d")


@st.composite
def programs(draw):
    """Draw a program of four functions, each of which calls later ones only, and what they declare."""
    definitions = {}
    for index, name in enumerate(NAMES):
        leaves = st.one_of(
            st.integers(0, 40).map(lambda tokens: ("spend", tokens)),
            st.integers(0, 40).map(lambda tokens: ("reserve", tokens)),
            st.integers(0, 9),
            st.just(("throw", 1)),
        )
        if index + 1 < len(NAMES):
            leaves |= st.sampled_from(NAMES[index + 1 :]).map(lambda callee: (callee,))
        bodies = st.recursive(
            leaves,
            lambda inner: st.one_of(
                st.lists(inner, min_size=2, max_size=4).map(lambda parts: ("do", *parts)),
                st.tuples(st.just("try"), inner, inner),
                st.tuples(st.just("+"), st.integers(0, 5), inner.map(lambda one: ("do", one, 1))),
            ),
            max_leaves=6,
        )
        definitions[name] = ("def", name, (), draw(bodies))
    declared = st.fixed_dictionaries(
        {"error_boundary": st.sampled_from(["fail", "continue", "escalate"]), "fallback": st.integers(0, 3)},
        optional={"budget": st.fixed_dictionaries({"max_tokens": st.integers(0, 60)})},
    )
    steps = draw(st.dictionaries(st.sampled_from(NAMES), declared))
    personas = draw(
        st.dictionaries(st.sampled_from(NAMES), st.fixed_dictionaries({"budget": st.just({"max_tokens": 70})}))
    )
    return definitions, steps, personas


def outcome(run, call):
    """Return what a program returned or raised, and every receipt that it left, without what differs between runs."""
    try:
        result = call("a")
    except Exception as error:
        result = (type(error), str(error))
    left = [
        (one.kind, one.name, one.function, one.persona, one.status, one.error, one.own, one.total, one.overshoot,
         one.clamped_calls, one.step_id.partition(".")[2], one.parent_id.partition(".")[2])
        for one in run.receipts
    ]  # fmt: skip
    return result, left, run.own, run.total, run.held


@settings(max_examples=100 * EFFORT)
@given(drawn=programs())
def test_a_host_and_the_decorators_agree_on_every_program(drawn):
    """Any program leaves the same result and the same receipts when a host runs it as when its functions are decorated."""
    definitions, steps, personas = drawn
    program = compiled(definitions.values())
    with StepHost() as host:
        for name, mapping in steps.items():
            host.register_step_from_dict(name, mapping)
        for name, mapping in personas.items():
            host.register_persona_from_dict(name, mapping)
        by_host = outcome(host.run, Machine(program, host, NATIVES).call)
        assert host.active_step() is None
        assert host.run.open_scopes == ()
        assert [one.step_id for one in host.peek_completed_steps()] == [
            one.step_id for one in host.run.receipts if one.kind == "step"
        ]
    with sw.Run() as run:
        by_decorator = outcome(run, Recursion(program, NATIVES, steps, personas).call)
    assert by_host == by_decorator
