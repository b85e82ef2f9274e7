"""A tree whose lock looks at everything each time before anybody gets it: no state that others can see escapes."""

from collections import Counter

from stepwarden.core import _hold, _queue, _record, _reserve
from stepwarden.core._amount import ALARMS, part, unpacked
from stepwarden.core._money import picodollars
from stepwarden.core._tally import NO_EXTRA

LIMITS = ("max_tokens", "max_input_tokens", "max_output_tokens", "max_usd", "max_calls")
COUNTS = {"input": "max_input_tokens", "output": "max_output_tokens", "cost": "max_usd", "calls": "max_calls"}


def chain(scope):
    """Return a scope and everything around it, innermost first."""
    around = []
    while scope is not None:
        around.append(scope)
        scope = scope.parent
    return around


def own_of(meter):
    """Return what a scope spent itself."""
    own = meter.usage("own", NO_EXTRA)
    return Counter(
        input=own.input_tokens, output=own.output_tokens, cost=picodollars(own.cost_usd, "own"), calls=own.calls
    )


def toward(input_tokens, output_tokens, cost, calls):
    """Return what an amount counts toward each limit."""
    return Counter(
        max_tokens=input_tokens + output_tokens,
        max_input_tokens=input_tokens,
        max_output_tokens=output_tokens,
        max_usd=cost,
        max_calls=calls,
    )


def beyond(spent, freed):
    """Return what an amount counts toward each limit beyond what another one frees."""
    # Parts may be negative, so they are read above an amount that has every part.
    above = ALARMS >> 1
    return Counter({limit: part(above + spent - freed, limit) - part(above, limit) for limit in LIMITS})


class Watch:
    """Look at a tree whenever its lock is about to be given back, and remember what was wrong first.

    Args:
        run: The outermost run, which was just entered.
        patch: The `monkeypatch` fixture.
    """

    def __init__(self, run, patch):
        self.run = run
        self.tree = run.tree
        self.lock = self.tree.lock
        self.depth = 0
        self.grants = 0
        self.wrong = []
        self.scopes = {}
        self.folded = {}
        self.holds = set()
        self.unreserved = {}
        self.tree.lock = self.tree.reading = self
        patch.setattr(_reserve, "set_aside", self.watching_grants(_reserve.set_aside))
        patch.setattr(_queue, "set_aside", self.watching_grants(_queue.set_aside))
        for module in (_record, _hold):
            patch.setattr(module, "charge", self.watching_charges(module.charge))
        patch.setattr(_hold, "turn", self.watching_turns(_hold.turn))

    def __enter__(self):
        self.lock.__enter__()
        self.depth += 1

    def __exit__(self, *exc_info):
        try:
            if self.depth == 1 and not self.wrong:
                self.look()
        except AssertionError as error:
            self.wrong.append(error)
        finally:
            self.depth -= 1
            self.lock.__exit__(*exc_info)

    def watching_grants(self, set_aside):
        """Return `set_aside` with a look at the chain of whatever it grants."""

        def watched(meter, hold, output_tokens, priced):
            refused = set_aside(meter, hold, output_tokens, priced)
            if refused is None:
                self.holds.add(hold)
                self.grants += 1
                for scope in chain(meter.scope):
                    for limit, most in scope.limits.items() if scope.limits else ():
                        if most is not None and limit in LIMITS and scope.spent(limit) + scope.aside(limit) > most:
                            self.wrong.append(AssertionError(f"a grant broke {limit} of {scope.name}"))
            return refused

        return watched

    def watching_charges(self, charge):
        """Return `charge` that counts what nobody had reserved."""

        def watched(owner, meter, amount, extra=None, hold=None):
            self.count(meter.scope, beyond(amount, 0 if hold is None else hold.amount))
            return charge(owner, meter, amount, extra, hold)

        return watched

    def watching_turns(self, turn):
        """Return `turn`, which ends a hold otherwise, that counts what is charged beyond what it gives back."""

        def watched(hold, state, owner, spent=0, freed=0, extra=None):
            self.count(hold.scope, beyond(spent, freed))
            return turn(hold, state, owner, spent, freed, extra)

        return watched

    def count(self, scope, over):
        """Count what nobody had reserved, on every scope of a chain."""
        for one in chain(scope):
            counted = self.unreserved.setdefault(one, Counter())
            counted.update({limit: max(0, amount) for limit, amount in over.items()})

    def look(self):
        """Check what must hold in every state that anybody can see."""
        self.scopes.update((scope, None) for scope in tuple(self.tree.open.values()) if scope.status is None)
        held = self.look_at_holds()
        own = self.look_at_sums()
        for scope in self.scopes:
            meter = scope.meter
            if meter is None:
                continue
            aside = held.get(scope, Counter())
            for count, limit in COUNTS.items():
                assert meter.aside(limit) == aside[count], (scope.name, count, "is not what is open")
                if scope.status is None:
                    assert meter.spent(limit) == own[scope][count], (scope.name, count, "is not the sum")
            for limit, most in scope.limits.items() if scope.limits else ():
                if most is not None and limit in LIMITS:
                    over = scope.spent(limit) + scope.aside(limit) - most
                    assert over <= self.unreserved.get(scope, Counter())[limit], (scope.name, limit, over)
        self.look_at_queues()

    def look_at_holds(self):
        """Return what the open and the uncertain holds in and under each scope set aside."""
        held = {}
        for hold in tuple(self.holds):
            if hold.state == "open":
                aside = Counter(input=hold.input_tokens, output=hold.output_tokens, cost=hold.cost, calls=1)
            elif hold.state == "uncertain":
                _, output, cost, _ = unpacked(hold.guessed[2].uncertain)
                aside = Counter(output=output, cost=cost)
            else:
                self.holds.discard(hold)
                continue
            for scope in chain(hold.scope):
                held.setdefault(scope, Counter()).update(aside)
        return held

    def look_at_sums(self):
        """Return what each open scope and everything inside it spent themselves."""
        for scope in [one for one in self.scopes if one.status is not None and one is not self.run]:
            # Its own changes no more: what comes late is its nearest open scope's.
            del self.scopes[scope]
            heir = scope.nearest_open_around()
            mine = self.folded.pop(scope, Counter())
            if scope.meter is not None:
                mine.update(own_of(scope.meter))
            self.folded.setdefault(heir, Counter()).update(mine)
        sums = {scope: Counter() for scope in self.scopes}
        for scope in self.scopes:
            mine = Counter(self.folded.get(scope, ()))
            if scope.meter is not None:
                mine.update(own_of(scope.meter))
            for one in chain(scope):
                if one in sums:
                    sums[one].update(mine)
        return sums

    def look_at_queues(self):
        """Check that whoever waits is in one queue, in order, and that the first is blocked there by somebody's hold."""
        for waiter in self.tree.waiting:
            at = waiter.parked
            tickets = [one.ticket for one in at.queue]
            assert waiter in at.queue
            assert tickets == sorted(tickets)
            if at.queue[0] is not waiter:
                continue
            hold = waiter.hold
            assert any(at in chain(one.scope) for one in self.holds if one.state == "open"), "nothing will wake it"
            needed = toward(hold.input_tokens, hold.asked_output, hold.cost_of(hold.asked_output), 1)
            assert any(
                most is not None and limit in LIMITS and needed[limit] > most - at.spent(limit) - at.aside(limit)
                for limit, most in at.limits.items()
            ), "it was not woken"
