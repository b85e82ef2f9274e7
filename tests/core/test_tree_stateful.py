"""Random trees of open scopes, entered, left and spent in, in legal and illegal order, against a simple model."""

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import stepwarden as sw

CENT = Decimal("0.01")
AMOUNT = st.integers(0, 9)


class Expected:
    """Be what the model knows of one scope."""

    def __init__(self, scope, block, parent):
        self.scope = scope
        self.block = block
        self.parent = parent
        self.own = Counter()
        self.total = Counter()
        self.held = Counter()
        self.uncertain = Counter()
        self.status = None

    def chain(self):
        at = self
        while at is not None:
            yield at
            at = at.parent

    def nearest_open(self):
        return next(one for one in self.chain() if one.status is None)


class Promise:
    """Be what the model knows of one hold."""

    def __init__(self, hold, at, reserved):
        self.hold = hold
        self.at = at
        self.reserved = reserved
        self.charged = Counter()
        self.owner = None
        self.state = "open"


def counted(usage):
    """Return what a usage counts, in cents, without what is 0."""
    numbers = Counter(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cents=int(usage.cost_usd / CENT),
        calls=usage.calls,
    )
    return {name: value for name, value in numbers.items() if value}


def plain(counter):
    """Return a counter without what is 0."""
    return {name: value for name, value in counter.items() if value}


class Trees(RuleBasedStateMachine):
    """Open, leave, record, hold, settle, release and lose, and compare every scope after each step."""

    def __init__(self):
        super().__init__()
        self.run = sw.Run(name="root")
        self.root = self.leaf = Expected(self.run.__enter__(), self.run, None)
        self.scopes = [self.root]
        self.ended = {self.run: []}
        self.promises = []

    def open(self):
        """Return the open scopes of the model, outermost first, but for the root."""
        return [one for one in self.leaf.chain() if one is not self.root][::-1]

    def add(self, at, amount, owner=None):
        """Charge a scope, or another owner in its place, and everything around the scope."""
        (owner or at).own.update(amount)
        for one in at.chain():
            # What is late belongs to the nearest open scope: a closed one is frozen.
            if one.status is None or isinstance(one.scope, sw.Run):
                one.total.update(amount)

    def close(self, one, status):
        """End a scope in the model, and give its promises and its run's log what they get."""
        if isinstance(one.scope, sw.Run):
            for promise in self.promises:
                if promise.state == "open" and promise.keeper is one:
                    self.lose(promise)
        else:
            run = next(around for around in one.chain() if isinstance(around.scope, sw.Run))
            self.ended[run.scope].append((one.scope.id, status))
        one.status = status
        for promise in self.promises:
            if promise.state == "open" and promise.keeper is one:
                promise.keeper = one.nearest_open()

    def lose(self, promise):
        """Charge the input of a call whose cost is unknown, and set the rest aside."""
        promise.state = "uncertain"
        promise.charged = Counter(input=promise.reserved["input"], calls=1)
        rest = Counter(output=promise.reserved["output"], cents=promise.reserved["cents"])
        for one in promise.at.chain():
            one.held.subtract(promise.reserved)
            if one.status is None or isinstance(one.scope, sw.Run):
                one.uncertain.update(rest)
        promise.owner = promise.at.nearest_open()
        self.add(promise.at, promise.charged, promise.owner)

    def charge_late(self, at, amount):
        """Charge a scope that may have ended: its own is then the nearest open one's."""
        self.add(at, amount, at.nearest_open())

    @rule(kind=st.sampled_from(["step", "persona", "run"]))
    def enter(self, kind):
        """Open a scope inside the innermost."""
        block = sw.Run() if kind == "run" else {"step": sw.step, "persona": sw.persona}[kind](kind)
        opened = Expected(block.__enter__(), block, self.leaf)
        assert opened.scope.parent is self.leaf.scope
        if kind == "run":
            self.ended[opened.scope] = []
        self.scopes.append(opened)
        self.leaf = opened

    def leave(self, one, error):
        """Leave a scope; what is open inside it is abandoned, and that is said."""
        inside = [other for other in self.leaf.chain() if one in list(other.chain())[1:]]
        kind, failure = (None, None) if error is None else (type(error), error)
        for other in inside:
            self.close(other, "abandoned")
        self.close(one, "failed" if inside or error else "completed")
        self.leaf = one.parent
        if inside:
            with pytest.raises(sw.ScopeOrderError) as caught:
                one.block.__exit__(kind, failure, None)
            assert caught.value.__cause__ is error
        else:
            assert not one.block.__exit__(kind, failure, None)

    @precondition(lambda self: self.leaf is not self.root)
    @rule(error=st.none() | st.builds(KeyError))
    def leave_innermost(self, error):
        """Leave the innermost scope, alone or with an error."""
        self.leave(self.leaf, error)

    @precondition(lambda self: self.leaf is not self.root)
    @rule(data=st.data(), error=st.none() | st.builds(KeyError))
    def leave_any(self, data, error):
        """Leave any open scope, with those inside it still open."""
        self.leave(data.draw(st.sampled_from(self.open())), error)

    @precondition(lambda self: any(one.status and not isinstance(one.scope, sw.Run) for one in self.scopes))
    @rule(data=st.data())
    def leave_again(self, data):
        """Leave a block that has ended: an error, and nothing changes."""
        over = [one for one in self.scopes if one.status and not isinstance(one.scope, sw.Run)]
        with pytest.raises(sw.ScopeOrderError):
            data.draw(st.sampled_from(over)).block.__exit__(None, None, None)

    @rule(tokens=AMOUNT, output=AMOUNT, cents=AMOUNT)
    def record(self, tokens, output, cents):
        """Record a call in the innermost scope."""
        sw.record_usage(input_tokens=tokens, output_tokens=output, cost_usd=cents * CENT)
        self.add(self.leaf, Counter(input=tokens, output=output, cents=cents, calls=1))

    @rule(tokens=AMOUNT, output=AMOUNT, cents=AMOUNT)
    def hold(self, tokens, output, cents):
        """Take a hold in the innermost scope."""
        hold = sw.reserve(input_tokens=tokens, output_tokens=output, cost_usd=cents * CENT).acquire()
        promise = Promise(hold, self.leaf, Counter(input=tokens, output=output, cents=cents, calls=1))
        promise.keeper = self.leaf
        self.promises.append(promise)
        for one in self.leaf.chain():
            one.held.update(promise.reserved)

    @precondition(lambda self: any(promise.state == "open" for promise in self.promises))
    @rule(data=st.data(), tokens=AMOUNT, output=AMOUNT, cents=AMOUNT, gives_back=st.booleans())
    def end_hold(self, data, tokens, output, cents, gives_back):
        """Settle or release an open hold, of this scope or another, closed or not."""
        promise = data.draw(st.sampled_from([one for one in self.promises if one.state == "open"]))
        for one in promise.at.chain():
            one.held.subtract(promise.reserved)
        promise.state = "closed"
        if gives_back:
            promise.hold.release()
        else:
            promise.hold.settle(input_tokens=tokens, output_tokens=output, cost_usd=cents * CENT)
            self.charge_late(promise.at, Counter(input=tokens, output=output, cents=cents, calls=1))

    @precondition(lambda self: any(promise.state == "uncertain" for promise in self.promises))
    @rule(data=st.data(), tokens=AMOUNT, output=AMOUNT, cents=AMOUNT)
    def settle_uncertain(self, data, tokens, output, cents):
        """Settle a hold whose cost was unknown: what was charged and set aside for it is replaced."""
        promise = data.draw(st.sampled_from([one for one in self.promises if one.state == "uncertain"]))
        promise.state = "closed"
        promise.hold.settle(input_tokens=tokens, output_tokens=output, cost_usd=cents * CENT)
        rest = Counter(output=promise.reserved["output"], cents=promise.reserved["cents"])
        for one in promise.at.chain():
            if one.status is None:
                one.uncertain.subtract(rest)
        change = Counter(input=tokens, output=output, cents=cents, calls=1)
        change.subtract(promise.charged)
        if promise.owner.status is None or isinstance(promise.owner.scope, sw.Run):
            self.add(promise.at, change, promise.owner)
        else:  # a receipt keeps its estimate: only what is above it goes to an heir
            self.charge_late(promise.at, +change)

    @precondition(lambda self: any(promise.state == "closed" for promise in self.promises))
    @rule(data=st.data(), gives_back=st.booleans())
    def end_hold_again(self, data, gives_back):
        """Settle or release a hold a second time: an error, and nothing is counted."""
        hold = data.draw(st.sampled_from([one for one in self.promises if one.state == "closed"])).hold
        with pytest.raises(sw.HoldClosedError):
            hold.release() if gives_back else hold.settle(input_tokens=1, output_tokens=1, cost_usd=1)

    @invariant()
    def numbers_agree(self):
        """Every open scope has the model's numbers; every ended step or persona keeps those of its end."""
        for one in self.scopes:
            if one.status is None:
                assert counted(one.scope.own) == plain(one.own)
                assert counted(one.scope.total) == plain(one.total)
                assert counted(one.scope.held) == plain(one.held)
                assert counted(one.scope.uncertain) == plain(one.uncertain)
            elif not isinstance(one.scope, sw.Run):
                assert counted(one.scope.receipt.own) == counted(one.scope.own) == plain(one.own)
                assert counted(one.scope.receipt.total) == counted(one.scope.total) == plain(one.total)

    @invariant()
    def what_is_open_is_what_the_model_has_open(self):
        """The scopes in force are the model's, and each ended activation left one receipt in its run, in order."""
        names = {"step": sw.current_step(), "persona": sw.current_persona(), "run": sw.current_run()}
        for kind, found in names.items():
            assert found is next((one.scope for one in self.leaf.chain() if one.scope.kind == kind), None)
        for run, ended in self.ended.items():
            assert [(receipt.step_id, str(receipt.status)) for receipt in run.receipts] == ended

    def teardown(self):
        """Close the root: whatever was open is abandoned, and nothing stays held."""
        inside = self.open()
        try:
            self.run.__exit__(None, None, None)
        except sw.ScopeOrderError:
            assert inside
        else:
            assert not inside
        assert self.run.held == sw.Usage()
        assert self.run.open_scopes == ()
        owns = [receipt.own for run in self.ended for receipt in run.receipts] + [run.own for run in self.ended]
        summed = Counter()
        for usage in owns:
            summed.update(counted(usage))
        assert plain(summed) == counted(self.run.total)
        super().teardown()


TestTrees = Trees.TestCase
TestTrees.settings = settings(max_examples=100, stateful_step_count=30)
