"""What a call asked for, and what must become of it by the numbers of the scopes around it: worked out the long way."""

from collections import Counter

import stepwarden as sw

LIMITS = ("max_tokens", "max_input_tokens", "max_output_tokens", "max_usd", "max_calls")
DOLLAR = 10**12


def chain(scope):
    """Return a scope and everything around it, innermost first."""
    around = []
    while scope is not None:
        around.append(scope)
        scope = scope.parent
    return around


def amounts(input_tokens, output_tokens, cost):
    """Return what a usage counts toward each limit."""
    return Counter(
        max_tokens=input_tokens + output_tokens,
        max_input_tokens=input_tokens,
        max_output_tokens=output_tokens,
        max_usd=cost,
        max_calls=1,
    )


class Asked:
    """Be what a call asked for."""

    def __init__(self, scope, input_tokens, output_tokens, min_output_tokens, cost):
        self.scope = scope
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.least = min(min_output_tokens, output_tokens)
        self.cost = cost
        self.hold = None

    def needs(self, output_tokens):
        """Return what it needs of each limit with so much output."""
        cost = (self.input_tokens + 2 * output_tokens) * DOLLAR if self.cost is None else self.cost * DOLLAR
        return amounts(self.input_tokens, output_tokens, cost)

    def lacking(self, output_tokens, taken):
        """Return the scopes around it without room for so much output, outermost first."""
        needed = self.needs(output_tokens)
        return [
            scope
            for scope in reversed(chain(self.scope))
            for limit, value in (scope.limits.items() if scope.limits else ())
            if value is not None and needed[limit] > value - scope.spent(limit) - taken(scope, limit)
        ]

    def largest(self, taken):
        """Return the largest output that fits where *taken* is not to be had, or None where the least does not."""
        for output_tokens in range(self.output_tokens, self.least - 1, -1):
            if not self.lacking(output_tokens, taken):
                return output_tokens
        return None


def spent(usage):
    """Return what a usage counts toward each limit."""
    counted = amounts(usage.input_tokens, usage.output_tokens, int(usage.cost_usd * DOLLAR))
    counted["max_calls"] = usage.calls
    return counted


def is_passed(scope):
    """Tell whether a limit of a scope is passed."""
    limits = scope.limits.items() if scope.limits else ()
    return any(value is not None and scope.spent(limit) > value for limit, value in limits)


def expecting_outermost(scope, operation):
    """Return an operation that must raise for the outermost scope with a limit that is passed after it, if any."""

    def checked():
        try:
            operation()
        except sw.BudgetExceededError as error:
            told = error.scope_id
        else:
            told = None
        assert told == next((one.id for one in reversed(chain(scope)) if is_passed(one)), None)

    return checked


def uncertain(scope, limit):
    """Return what is uncertain in a scope."""
    return scope.uncertain_of(limit)


def aside(scope, limit):
    """Return what is held and uncertain in a scope."""
    return scope.aside(limit)
