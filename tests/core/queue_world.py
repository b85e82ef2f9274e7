"""A small world around the queue's state machine, without threads: every move of every actor is chosen from outside.

An actor follows a program, a tuple of operations: ``("reserve", scope, tokens, least)``, ``("settle", tokens)``,
``("release",)``, ``("lose",)``, ``("record", scope, tokens)`` and ``("extend", scope, tokens)``. One whose reservation
has no room now is parked, and moves again when the queue has granted or refused it. It may be cancelled instead, also
when it was granted and has not noticed yet.
"""

import contextlib
import contextvars
from functools import cache

import stepwarden as sw
from stepwarden.core._amount import CALL, OUTPUT
from stepwarden.core._charge import charge
from stepwarden.core._hold import Hold
from stepwarden.core._kinds import StepScope
from stepwarden.core._meter import meter_of
from stepwarden.core._plan import Plan
from stepwarden.core._queue import Waiter, admit, look, park, withdraw

NAMES = ("run", "a", "b")
SHAPES = ("beside", "inside")
"""Whether scope ``"b"`` lies beside ``"a"`` or in it."""


@cache
def plan(name, limit):
    """Return what a step with a token limit declares."""
    return Plan(sw.StepDefinition(name, budget=sw.Budget(max_tokens=limit)))


class Player:
    """Be one actor."""

    def __init__(self, program):
        self.program = program
        self.at = 0
        self.hold = None
        self.waiter = None

    @property
    def is_waiting(self):
        """Whether it can do nothing until the queue has answered."""
        return self.waiter is not None and not self.waiter.is_over


class World:
    """Be one state, made from the beginning by the moves that lead to it.

    Args:
        case: The shape of the tree, the token limits of its three scopes, and the program of each actor.
        loops: Whether an actor begins again when it is through.
    """

    def __init__(self, case, *, loops=False):
        shape, limits, programs = case
        self.loops = loops
        run = sw.Run(budget=sw.Budget(max_tokens=limits[0]))
        contextvars.copy_context().run(run.__enter__)
        a = StepScope().open_under(plan("a", limits[1]), run, run)
        around_b = run if shape == "beside" else a
        b = StepScope().open_under(plan("b", limits[2]), around_b, around_b)
        self.scopes = {"run": run, "a": a, "b": b}
        self.around = {run: {run}, a: {run, a}, b: {run, b} if shape == "beside" else {run, a, b}}
        self.unreserved = dict.fromkeys(self.around, 0)
        self.tree = run.tree
        self.players = [Player(program) for program in programs]
        self.lost = []

    def moves(self, *, cancels):
        """Return what can happen next: who goes on, and who is cancelled."""
        able = [("go", one) for one, player in enumerate(self.players) if self.can_go(player)]
        if cancels:
            able += [("cancel", one) for one, player in enumerate(self.players) if player.waiter is not None]
        return able

    def can_go(self, player):
        """Tell whether an actor can move by itself."""
        return not player.is_waiting and (self.loops or player.at < len(player.program))

    def do(self, move):
        """Make a move, and check that it served those who wait in the order in which they came."""
        player = self.players[move[1]]
        asks = move[0] == "go" and player.waiter is None
        waiting = {other.waiter for other in self.players if other.is_waiting}
        stood = {waiter.parked for waiter in waiting}
        before = player.hold
        self.make(move)
        if asks and player.hold is not None and player.hold is not before:
            assert not stood & self.around[player.hold.scope], "it did not queue behind those who wait"
        for waiter in waiting:
            if waiter.is_over and waiter.error is None and waiter.hold.is_open:
                around = self.around[waiter.hold.scope]
                earlier = [one for one in self.tree.waiting if one.ticket < waiter.ticket]
                assert not any(one.parked in around for one in earlier), "it overtook an earlier one"

    def make(self, move):
        """Make a move."""
        kind, number = move
        player = self.players[number]
        if kind == "cancel":
            with self.tree.lock:
                withdraw(player.waiter)
            player.waiter = None
            self.step(player)
        elif player.waiter is not None:
            player.hold = player.waiter.hold if player.waiter.error is None else None
            player.waiter = None
            self.step(player)
        else:
            self.operate(player, *player.program[player.at])

    def step(self, player):
        """Go on to the next operation of a program."""
        player.at += 1
        if self.loops:
            player.at %= len(player.program)

    def operate(self, player, operation, *operands):
        """Do one operation of a program; one that has no hold to end does nothing."""
        if operation == "reserve":
            self.reserve(player, *operands)
            return
        self.step(player)
        hold = player.hold
        scope = self.scopes[operands[0]] if operation in {"record", "extend"} else hold and hold.scope
        if operation == "record":
            self.count(scope, operands[1])
            with self.tree.lock:
                charge(meter_of(scope), meter_of(scope), operands[1] * OUTPUT + CALL)
                look(scope)
        elif operation == "extend":
            scope.extend(sw.Budget(max_tokens=scope.budget.max_tokens + operands[1]))
        elif hold is not None:
            self.end(player, operation, *operands)
        if scope is not None:
            self.check_looked_at(scope)

    def end(self, player, operation, *operands):
        """End the hold of an actor."""
        hold, player.hold = player.hold, None
        if operation == "settle":
            self.count(hold.scope, max(0, operands[0] - hold.output_tokens))
            with contextlib.suppress(sw.BudgetExceededError):
                hold.settle(input_tokens=0, output_tokens=operands[0])
        elif operation == "release":
            hold.release()
        else:
            hold.leave()
            self.lost.append(hold)

    def reserve(self, player, name, tokens, least):
        """Ask for room: granted, refused, or parked until the queue answers."""
        hold = Hold()
        hold.scope = hold.keeper = self.scopes[name]
        hold.input_tokens, hold.output_tokens, hold.asked_output, hold.min_output = 0, tokens, tokens, least
        hold.priced, hold.model, hold.rates, hold.state = CALL, None, None, "pending"
        with self.tree.lock:
            try:
                blocked = admit(hold, never_waits=False)
            except sw.BudgetExceededError:
                assert not self.fits(hold, hold.min_output, "uncertain_of"), "it was refused what may still fit"
                self.step(player)
                return
            if blocked is None:
                player.hold = hold
                self.step(player)
            else:
                player.waiter = Waiter(hold)
                player.waiter.wake = lambda: None
                park(player.waiter, *blocked)

    def count(self, scope, tokens):
        """Know of tokens that nobody had reserved."""
        for one in self.around[scope]:
            self.unreserved[one] += tokens

    def lacks(self, scope, tokens, taken="aside"):
        """Tell whether a scope has no room for so many tokens where what is *taken* cannot be had."""
        left = scope.limits.tokens - scope.spent("max_tokens") - getattr(scope, taken)("max_tokens")
        return tokens > left

    def fits(self, hold, tokens, taken):
        """Tell whether so many tokens fit in every scope around a hold."""
        return not any(self.lacks(scope, tokens, taken) for scope in self.around[hold.scope])

    def check(self):
        """Check what must hold in every state."""
        held = [player.hold for player in self.players if player.hold is not None]
        held += [player.waiter.hold for player in self.players if player.waiter and player.waiter.hold.is_open]
        for scope in self.around:
            inside = [hold.output_tokens for hold in held + self.lost if scope in self.around[hold.scope]]
            assert scope.aside("max_tokens") == sum(inside), "what is held is not what is open"
            over = scope.spent("max_tokens") + sum(inside) - scope.limits.tokens
            assert over <= self.unreserved[scope], "a limit is passed by what was reserved"
        waiting = [player.waiter for player in self.players if player.is_waiting]
        assert set(waiting) == self.tree.waiting
        assert sum(len(scope.queue or ()) for scope in self.around) == len(waiting)
        for waiter in waiting:
            self.check_waiter(waiter, held)

    def check_looked_at(self, scope):
        """Check that whoever is first in a queue on a chain that changed still waits for what it can get some day."""
        for waiter in self.tree.waiting:
            at, hold = waiter.parked, waiter.hold
            if at in self.around[scope] and at.queue[0] is waiter:
                outputs = range(hold.asked_output, min(hold.min_output, hold.asked_output) - 1, -1)
                output = next((one for one in outputs if self.fits(hold, one, "uncertain_of")), None)
                assert output is not None, "it was not refused"
                assert self.lacks(at, output), "it was not given what is left"

    def check_waiter(self, waiter, held):
        """Check that one who waits cannot go on, and that something which is under way will make it go on."""
        at, hold = waiter.parked, waiter.hold
        around = self.around[hold.scope]
        assert at in around
        tickets = [one.ticket for one in at.queue]
        assert tickets == sorted(tickets)
        if at.queue[0] is waiter:
            # Usage elsewhere may have lowered what it can still get, or left it no room at all: then it is told
            # when the hold ends that it waits for.
            assert self.lacks(at, hold.asked_output), "it was not woken"
            assert any(at in self.around[one.scope] for one in held), "nothing will wake it"
        earlier = [one for one in self.tree.waiting if one.ticket < waiter.ticket]
        is_rigid = hold.min_output >= hold.asked_output
        if is_rigid and not any(one.parked in around for one in earlier):
            assert not self.fits(hold, hold.asked_output, "aside"), "it could go on"

    @property
    def key(self):
        """What tells this state from others: two with equal keys go on alike."""
        waiting = sorted(self.tree.waiting, key=lambda one: one.ticket)
        place = {waiter: number for number, waiter in enumerate(waiting)}
        players = tuple(
            (
                player.at,
                player.hold and player.hold.output_tokens,
                player.waiter
                and (place.get(player.waiter), player.waiter.parked and player.waiter.parked.name,
                     player.waiter.error is None, player.waiter.hold.output_tokens),
            )
            for player in self.players
        )  # fmt: skip
        scopes = tuple(
            (scope.spent("max_tokens"), scope.aside("max_tokens"), scope.uncertain_of("max_tokens"),
             scope.limits.tokens)
            for scope in self.around
        )  # fmt: skip
        return players, scopes


def explore(case, *, cancels=0, loops=False):
    """Go every way from the beginning, and check every state.

    Args:
        case: The world.
        cancels: How many times somebody may be cancelled on one way; with *loops*, any number or none.
        loops: Whether actors begin again when they are through.

    Returns:
        For each state, what each move leads to: ``{key: {move: key}}``; and the states in which each actor waits.
    """
    graph, waiting, seen, to_do = {}, {}, set(), []

    def arrive(path, world, left):
        """Note a state, and check it where it is new."""
        key = world.key
        if (key, left) not in seen:
            seen.add((key, left))
            world.check()
            waiting[key] = {number for number, player in enumerate(world.players) if player.is_waiting}
            moves = world.moves(cancels=left)
            if not any(kind == "go" for kind, _ in moves):
                assert not waiting[key], "nobody can move, and somebody still waits"
            to_do.append((path, key, left, moves))
        return key

    arrive((), World(case, loops=loops), cancels)
    while to_do:
        path, key, left, moves = to_do.pop()
        steps = graph.setdefault(key, {})
        for move in moves:
            world = World(case, loops=loops)
            for one in (*path, move):
                world.do(one)
            steps[move] = arrive((*path, move), world, left - (move[0] == "cancel" and not loops))
    return graph, waiting
