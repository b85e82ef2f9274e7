"""How much input a request has, before anybody has counted it: what is likely, what is the most, or what you say.

An integration describes what its API takes as input once, as an `Asked`, reads what its users choose with
`parse_estimate`, and asks `input_tokens` for the number to reserve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from stepwarden.core._accounting import whole
from stepwarden.core._callable import Kind, kind_of
from stepwarden.core.errors import DefinitionError

BYTES_PER_TOKEN = 3
"""English text has about four bytes a token; three leaves a margin, and fits text in other scripts."""

Estimate: TypeAlias = Literal["likely", "upper_bound"] | Callable[[Mapping[str, Any]], int]
"""What `guard`, `install` and their like take: how the input of a request is estimated."""


class Asked(Protocol):
    """Tell what one request has as input."""

    @property
    def request(self) -> Mapping[str, Any]:
        """The request, as it is sent."""

    def likely(self) -> int:
        """Return the tokens that it is likely to have."""

    def most(self) -> int:
        """Return the tokens that it has at most.

        Raises:
            PolicyViolationError: If nothing in the request bounds them.
        """


def parse_estimate(estimate: object) -> Estimate:
    """Read how input is to be estimated.

    Args:
        estimate: ``"likely"``, ``"upper_bound"``, or a function of a request that returns tokens.

    Raises:
        DefinitionError: If it is anything else.
    """
    if estimate == "likely":
        return "likely"
    if estimate == "upper_bound":
        return "upper_bound"
    if not callable(estimate):
        raise DefinitionError(
            "estimate must be 'likely', 'upper_bound' or a function of the request that returns tokens, "
            f"not {estimate!r}"
        )
    if kind_of(estimate) is not Kind.FUNCTION:
        raise DefinitionError(f"estimate must be a plain function, which {estimate!r} is not: nothing waits for it")
    return estimate


def input_tokens(asked: Asked, estimate: Estimate) -> int:
    """Estimate the input of a request.

    Args:
        asked: The request.
        estimate: As `parse_estimate` returned it.

    Raises:
        PolicyViolationError: If it is to be bounded, and nothing in the request bounds it.
        TypeError: If a function of the user's returns no int.
        ValueError: If it returns a negative one.
    """
    if estimate == "likely":
        return asked.likely()
    if estimate == "upper_bound":
        return asked.most()
    tokens = whole(estimate(asked.request), "what estimate returns")
    if tokens < 0:
        raise ValueError(f"estimate must return tokens, at least 0, not {tokens}")
    return tokens


def prompt_tokens(prompt: object) -> int:
    """Estimate the tokens of what is completed or embedded: a text, token numbers, or a list of either."""
    if isinstance(prompt, int):
        return 1
    if isinstance(prompt, list):
        return sum(prompt_tokens(one) for one in prompt)
    return text_tokens(prompt) if isinstance(prompt, str) else 0


def text_tokens(text: str) -> int:
    """Estimate the tokens of a text."""
    return tokens_in(len(text.encode("utf-8", "surrogatepass")))


def tokens_in(size: int) -> int:
    """Estimate the tokens in so many bytes of text."""
    return -(-size // BYTES_PER_TOKEN)
