"""Random trees in which several threads and tasks spend, one operation at a time, and what holds after each of them."""

import contextvars
import functools
from collections import Counter
from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import stepwarden as sw
from stepwarden.core._amount import unpacked
from stepwarden.core._hold import context_hold
from stepwarden.core._leaf import get_leaf, resolve
from tests.core.actors import Director, TaskActor
from tests.core.calls import DOLLAR, LIMITS, Asked, amounts, aside, chain, expecting_outermost, spent, uncertain
from tests.effort import EFFORT

PRICES = {"m": {"input": 1_000_000, "output": 2_000_000}}
"""One dollar for an input token and two for an output token."""
MAX_ACTORS = 6
SMALL = st.integers(0, 9)
limits = {
    "max_tokens": st.integers(0, 9) | st.integers(10, 80),
    "max_input_tokens": st.integers(0, 9) | st.integers(10, 60),
    "max_output_tokens": st.integers(0, 9) | st.integers(10, 60),
    "max_usd": st.integers(0, 9) | st.integers(10, 90),
    "max_calls": st.integers(0, 12),
}
some_limits = st.lists(st.sampled_from(LIMITS), min_size=1, max_size=2, unique=True).flatmap(
    lambda names: st.builds(sw.Budget, **{name: limits[name] for name in names})
)
budgets = st.none() | some_limits
calls = st.tuples(SMALL, SMALL, st.integers(0, 5), st.none() | SMALL, st.sampled_from([True, True, True, False]))


class Actors(RuleBasedStateMachine):
    """Enter, leave, record, reserve, settle, release, lose, extend, cancel and fork, on several threads and loops."""

    def __init__(self):
        super().__init__()
        self.director = Director()
        self.scopes = []
        self.asked = {}
        self.waiting = {}
        self.holds = []
        self.unreserved = {}
        self.blocks = {}
        self.ended = {}

    @initialize(budget=some_limits, stages=st.lists(st.sampled_from([None, 0, 1]), min_size=3, max_size=5))
    def open_run(self, budget, stages):
        """Open the run, with threads and tasks on two loops under it."""
        self.run = sw.Run(budget=budget, prices=PRICES)
        context = contextvars.copy_context()
        context.run(self.run.__enter__)
        self.met(self.run)
        for stage in stages:
            self.start(context.copy(), stage)

    def start(self, context, stage):
        """Start a task on the loop of this number, or a thread."""
        make = self.director.thread if stage is None else functools.partial(self.director.task, stage=stage)
        self.blocks[make(context)] = []

    def met(self, scope):
        """Know of a scope that was opened."""
        self.scopes.append(scope)
        self.unreserved[scope] = Counter()

    # How operations are given and what becomes of them.

    def idle(self):
        """Return the actors that do not wait."""
        return [actor for actor in self.director.actors if actor not in self.waiting]

    def do(self, actor, operation):
        """Let an actor do an operation that never waits; return its result or raise its error."""
        (kind, value), others = self.director.perform(actor, operation)
        self.hear(others)
        assert kind != "waiting"
        if kind == "raised":
            raise value
        return value

    def hear(self, others):
        """Take in what became of those who waited."""
        for actor, report in others:
            asked = self.waiting.pop(actor)
            self.granted_or_refused(asked, report)
            if report[0] == "done":
                assert report[1].output_tokens == asked.largest(uncertain)
                earlier = [one for one in self.waiting.values() if one.waiter.ticket < asked.waiter.ticket]
                assert not self.queues_behind(asked, earlier), "somebody was overtaken"

    def granted_or_refused(self, asked, report):
        """Check a grant against the limits, and a refusal for its reason."""
        kind, value = report
        if kind == "done":
            asked.hold = value
            self.holds.append(asked)
            assert (value.input_tokens, value.cost_usd * DOLLAR) == (
                asked.input_tokens,
                asked.needs(value.output_tokens)["max_usd"],
            )
            for scope in chain(asked.scope):
                for limit, most in scope.limits.items() if scope.limits else ():
                    spent = scope.spent(limit) + scope.aside(limit) if most is not None else 0
                    assert most is None or limit not in LIMITS or spent <= most, f"a grant broke {limit}"
        elif isinstance(value, sw.BudgetExceededError):
            assert value.phase == "reserve"
            if value.reason == "no_room":
                assert asked.largest(uncertain) is None
        else:
            assert isinstance(value, sw.ReserveTimeoutError | sw.RunClosedError)

    # What an actor does.

    @precondition(lambda self: self.idle())
    @rule(data=st.data(), kind=st.sampled_from(["step", "step", "persona", "run"]), budget=budgets)
    def enter(self, data, kind, budget):
        """Open a scope inside the actor's innermost."""
        actor = data.draw(st.sampled_from(self.idle()))
        block = sw.Run(budget=budget) if kind == "run" else getattr(sw, kind)(kind, budget=budget)
        try:
            scope = self.do(actor, block.__enter__)
        except sw.RunClosedError:
            return
        self.blocks[actor].append(block)
        self.met(scope)

    @precondition(lambda self: any(self.blocks[actor] for actor in self.idle()))
    @rule(data=st.data(), error=st.sampled_from([None, KeyError]))
    def leave(self, data, error):
        """Leave the innermost scope that the actor opened, whoever else is still inside."""
        actor = data.draw(st.sampled_from([actor for actor in self.idle() if self.blocks[actor]]))
        block = self.blocks[actor].pop()
        self.do(actor, lambda: block.__exit__(error, error and error(), None))

    @precondition(lambda self: self.idle() and len(self.director.actors) < MAX_ACTORS)
    @rule(data=st.data(), stage=st.sampled_from([None, 0, 1]))
    def fork(self, data, stage):
        """Start another thread or task in a copy of an actor's context."""
        self.start(self.do(data.draw(st.sampled_from(self.idle())), contextvars.copy_context), stage)

    @precondition(lambda self: self.idle())
    @rule(data=st.data(), tokens=SMALL, output=SMALL, dollars=SMALL)
    def record(self, data, tokens, output, dollars):
        """Record a call that was never reserved."""
        actor = data.draw(st.sampled_from(self.idle()))
        scope = self.do(actor, lambda: resolve(get_leaf()))
        for one in chain(scope):
            self.unreserved[one].update(amounts(tokens, output, dollars * DOLLAR))
        recording = functools.partial(
            sw.record_usage, input_tokens=tokens, output_tokens=output, cost_usd=Decimal(dollars)
        )
        self.do(actor, expecting_outermost(scope, recording))
        self.everybody_was_looked_at(scope)

    @precondition(lambda self: self.idle())
    @rule(data=st.data(), call=calls)
    def reserve(self, data, call):
        """Let an actor reserve a call."""
        self.reserve_by(data.draw(st.sampled_from(self.idle())), *call)

    @precondition(lambda self: self.idle())
    @rule(calls=st.lists(calls, min_size=2, max_size=MAX_ACTORS))
    def crowd(self, calls):
        """Let several actors that hold nothing, and so may wait, reserve one after the other."""
        free = [actor for actor in self.idle() if self.do(actor, context_hold) is None]
        for actor, call in zip(free, calls, strict=False):
            self.reserve_by(actor, *call)

    def reserve_by(self, actor, tokens, output, least, dollars, wait):
        """Reserve a call: granted, refused, or made to wait, exactly as what is spent and held says."""
        scope, holding = self.do(actor, lambda: (resolve(get_leaf()), context_hold() is not None))
        asked = Asked(scope, tokens, output, least, dollars)
        cost = {"model": "m"} if dollars is None else {"cost_usd": dollars}
        reservation = sw.reserve(input_tokens=tokens, output_tokens=output, min_output_tokens=least, wait=wait, **cost)
        expected = self.expected(asked, holding=holding, wait=wait)
        report, others = self.director.perform(actor, actor.acquire(reservation))
        self.hear(others)
        kind, value = report
        assert (kind if kind != "raised" else getattr(value, "reason", type(value))) == expected[0]
        if kind == "waiting":
            asked.waiter = value
            self.waiting[actor] = asked
            return
        self.granted_or_refused(asked, report)
        if kind == "done":
            assert value.output_tokens == expected[1]

    def expected(self, asked, *, holding, wait):
        """Return what must become of a reservation, and the output that it is granted."""
        if asked.scope.status is not None and asked.scope.run.status is not None:
            return sw.RunClosedError, None
        output = asked.largest(uncertain)
        if output is None:
            return "no_room", None
        now = asked.largest(aside)
        if holding:
            return ("would_deadlock", None) if now is None else ("done", now)
        if not asked.lacking(output, aside) and not self.queues_behind(asked, self.waiting.values()):
            return "done", output
        return ("waiting", None) if wait else (sw.ReserveTimeoutError, None)

    def queues_behind(self, asked, earlier):
        """Tell whether one of those who came earlier waits for a scope that this one has around it too."""
        return any(one.waiter.parked in chain(asked.scope) for one in earlier)

    # What anybody does with a hold, his own or another's.

    def outside(self, operation):
        """Do an operation outside every actor, and hear whom it woke."""
        self.hear(self.director.outside(operation))

    def held(self, state):
        """Return the calls whose hold is in a state."""
        return [asked for asked in self.holds if asked.hold.state == state]

    @precondition(lambda self: self.held("open"))
    @rule(data=st.data(), tokens=SMALL, output=SMALL, dollars=SMALL)
    def settle(self, data, tokens, output, dollars):
        """Settle a hold, at less or at more than was reserved."""
        self.settle_one(data.draw(st.sampled_from(self.held("open"))), tokens, output, dollars)

    @precondition(lambda self: self.held("uncertain"))
    @rule(data=st.data(), tokens=SMALL, output=SMALL, dollars=SMALL)
    def settle_late(self, data, tokens, output, dollars):
        """Settle a call whose cost was unknown until now."""
        self.settle_one(data.draw(st.sampled_from(self.held("uncertain"))), tokens, output, dollars)

    def settle_one(self, asked, tokens, output, dollars):
        """Settle a hold; what is beyond it counts as unreserved."""
        reserved = asked.needs(asked.hold.output_tokens)
        over = amounts(tokens, output, dollars * DOLLAR)
        over.subtract(reserved)
        if asked.hold.state == "uncertain":
            # A receipt that was left meanwhile keeps its estimate: input that was not used makes no room for output.
            over["max_tokens"] = max(0, over["max_input_tokens"]) + max(0, over["max_output_tokens"])
        for scope in chain(asked.scope):
            self.unreserved[scope].update({limit: max(0, amount) for limit, amount in over.items()})
        settling = functools.partial(asked.hold.settle, input_tokens=tokens, output_tokens=output, cost_usd=dollars)
        self.outside(expecting_outermost(asked.scope, settling))
        self.everybody_was_looked_at(asked.scope)

    @precondition(lambda self: self.held("open"))
    @rule(data=st.data(), is_lost=st.booleans())
    def give_up(self, data, is_lost):
        """Release a hold, or lose sight of the call that it is for."""
        asked = data.draw(st.sampled_from(self.held("open")))
        self.outside(asked.hold.leave if is_lost else asked.hold.release)
        self.everybody_was_looked_at(asked.scope)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        """Cancel a task that waits: it leaves nothing behind."""
        tasks = [actor for actor in self.waiting if isinstance(actor, TaskActor)]
        if tasks:
            actor = data.draw(st.sampled_from(tasks))
            del self.waiting[actor]
            (kind, _), others = self.director.cancel(actor)
            assert kind == "raised"
            self.hear(others)

    @precondition(lambda self: any(one.limits and one.status is None for one in self.scopes))
    @rule(data=st.data(), more=st.integers(1, 20))
    def extend(self, data, more):
        """Raise every limit of an open scope."""
        scope = data.draw(st.sampled_from([one for one in self.scopes if one.limits and one.status is None]))
        raised = {name: getattr(scope.budget, name) for name in LIMITS}
        budget = sw.Budget(**{name: value + more for name, value in raised.items() if value is not None})
        self.outside(lambda: scope.extend(budget))
        self.everybody_was_looked_at(scope)

    def everybody_was_looked_at(self, scope):
        """Check that whoever is first in a queue on a chain that changed still waits for what it can get some day."""
        for asked in self.waiting.values():
            at = asked.waiter.parked
            if at in chain(scope) and at.queue[0] is asked.waiter:
                output = asked.largest(uncertain)
                assert output is not None, "it was not refused"
                assert at in asked.lacking(output, aside), "it was not given what is left"

    # What holds after every operation.

    @invariant()
    def what_is_held_is_what_is_open(self):
        """Every scope holds exactly the open holds in and under it, and has their lost ones as uncertain."""
        for scope in self.scopes:
            inside = [asked for asked in self.holds if scope in chain(asked.scope)]
            held, lost = Counter(), Counter()
            for asked in inside:
                if asked.hold.state == "open":
                    held.update(asked.needs(asked.hold.output_tokens))
                elif asked.hold.state == "uncertain":
                    guess = asked.hold.guessed[2]
                    lost.update(amounts(*unpacked(guess.uncertain)[:3]))
                    lost["max_calls"] -= 1
            for limit in LIMITS:
                assert scope.aside(limit) == held[limit] + lost[limit]
                if scope.status is None or scope is self.run:
                    assert scope.uncertain_of(limit) == lost[limit]

    @invariant()
    def a_limit_is_passed_only_by_what_was_not_reserved(self):
        """What is spent and set aside is over a limit by at most what was recorded unreserved or settled beyond."""
        for scope in self.scopes:
            for limit, value in scope.limits.items() if scope.limits else ():
                if value is not None and limit in LIMITS:
                    over = scope.spent(limit) + scope.aside(limit) - value
                    assert over <= self.unreserved[scope][limit]

    @invariant()
    def totals_are_the_sums_of_what_was_spent(self):
        """An open scope's total is its own and that of all scopes inside; a closed one keeps the numbers of its end."""
        inside = {scope: Counter() for scope in self.scopes}
        for scope in self.scopes:
            for one in chain(scope):
                inside[one].update(spent(scope.own))
        for scope in self.scopes:
            if scope.status is None:
                assert spent(scope.total) == inside[scope]
            elif scope.kind != "run":
                assert self.ended.setdefault(scope, (scope.own, scope.total)) == (scope.own, scope.total)

    @invariant()
    def nobody_waits_in_vain(self):
        """Whoever is first in a queue lacks room there now, and somebody's hold there will make the queue move."""
        for place, asked in enumerate(earlier := list(self.waiting.values())):
            at = asked.waiter.parked
            assert asked.waiter in at.queue
            assert [one.ticket for one in at.queue] == sorted(one.ticket for one in at.queue)
            if any(one.waiter.parked is at for one in earlier[:place]):
                continue
            assert any(at in chain(one.scope) for one in self.held("open")), "nothing will wake it"
            # One that takes less than it asked for may have been lowered since by what was spent elsewhere.
            assert at in asked.lacking(asked.output_tokens, aside), "it was not woken"

    def teardown(self):
        """Give back what is held until nobody waits, and end the run: nothing is held, set aside or open then."""
        try:
            while self.held("open"):
                self.outside(self.held("open")[0].hold.release)
            assert not self.waiting
            for scope in self.scopes:
                assert all(scope.aside(limit) == scope.uncertain_of(limit) for limit in LIMITS)
                assert not scope.queue
            self.run.__exit__(None, None, None)
            assert self.run.held == sw.Usage()
            assert self.run.open_scopes == ()
            assert not self.run.tree.waiting
        finally:
            self.director.close()
        super().teardown()


TestActors = Actors.TestCase
TestActors.settings = settings(max_examples=60 * EFFORT, stateful_step_count=40)
