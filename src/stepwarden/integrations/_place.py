"""Where an SDK sends one attempt, and the two ways to guard it: in a copy of one client, or in the SDK's classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from stepwarden.core.errors import DefinitionError

from ._estimate import Estimate
from ._patch import Patch

C = TypeVar("C")


class Rules(Protocol):
    """Tell what an SDK's requests are, and which of those that are not covered go by all the same."""

    allow: frozenset[str]
    estimate: Estimate
    is_active: bool
    """Whether they still hold; once taken back, whoever holds on to what was put in finds it without effect."""


R = TypeVar("R", bound=Rules)


class Place:
    """Be the method of an SDK's clients that sends one attempt, the SDK's own retries included.

    Args:
        sdk: The SDK's name.
        method: The method's name. It is private, so a test for each supported range of versions guards it.
        owners: Imports the SDK, and returns the classes whose method it is.
        make_rules: Makes the rules of what is let by all the same, and of how input is estimated.
        guarding: Puts a guard with these rules around the method, as a function of its class or bound to a client.
        also: The name of another method, where the SDK has it, and what is put around that.
    """

    def __init__(
        self,
        sdk: str,
        method: str,
        owners: Callable[[], tuple[type, ...]],
        make_rules: Callable[[frozenset[str], Estimate], R],
        guarding: Callable[[Callable[..., Any], R], Callable[..., Any]],
        *,
        also: tuple[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        self._sdk = sdk
        self._method = method
        self._owners = owners
        self._make_rules = make_rules
        self._guarding: Callable[[Callable[..., Any], Any], Callable[..., Any]] = guarding
        self._also = also
        self._patches: list[tuple[Patch, Rules]] = []

    def guard(self, client: C, allow: frozenset[str] = frozenset(), estimate: Estimate = "likely") -> C:
        """Return a guarded copy of a client, which shares its connections; the client given stays as it was.

        Args:
            client: A client of the SDK.
            allow: Endpoints that are not covered and go by all the same.
            estimate: How input is estimated.

        Raises:
            TypeError: If the client cannot be guarded or copied.
            DefinitionError: If it is guarded already, and *allow* would widen that, or *estimate* is another one.
        """
        send = getattr(client, self._method, None)
        if send is None:
            raise TypeError(
                f"this version of the {self._sdk} SDK has no {self._method} to guard; see the supported versions"
            )
        there = getattr(send, "rules", None)
        if there is not None:
            if not allow <= there.allow:
                raise DefinitionError(
                    f"allow={sorted(allow)!r}: this client is already guarded, and guards cannot be widened; guard the "
                    "client that it was made from"
                )
            if estimate not in ("likely", there.estimate):
                raise DefinitionError(
                    f"estimate={estimate!r}: this client is already guarded, with estimate={there.estimate!r}; guard "
                    "the client that it was made from"
                )
            return client
        try:
            copied: Any = client.copy()  # type: ignore[attr-defined]
        except TypeError as error:
            kind = type(client).__name__
            raise TypeError(
                f"guard() guards a copy, and {kind}.copy() failed: {error}; give {kind} a copy() that works"
            ) from error
        rules = self._make_rules(allow, estimate)
        copy = copied.copy
        guarded: Any = self._guarding(getattr(copied, self._method), rules)
        guarded.rules = rules
        setattr(copied, self._method, guarded)
        if self._also is not None and hasattr(copied, self._also[0]):
            name, around = self._also
            setattr(copied, name, around(getattr(copied, name)))

        @functools.wraps(copy)
        def guarded_copy(*args: Any, **kwargs: Any) -> Any:
            return self.guard(copy(*args, **kwargs), allow, estimate)

        copied.copy = copied.with_options = guarded_copy
        return copied  # type: ignore[no-any-return]

    def install(self, allow: frozenset[str] = frozenset(), estimate: Estimate = "likely") -> None:
        """Guard every client of the SDK in this process, those made earlier too; again only replaces the arguments.

        Args:
            allow: Endpoints that are not covered and go by all the same.
            estimate: How input is estimated.

        Raises:
            ModuleNotFoundError: If the SDK is not there.
        """
        try:
            owners = self._owners()
        except ModuleNotFoundError as error:
            if error.name != self._sdk:
                raise
            message = f'the {self._sdk} SDK is not installed: pip install "stepwarden[{self._sdk}]"'
            raise ModuleNotFoundError(message, name=self._sdk) from None
        for _, rules in self._patches:
            rules.allow, rules.estimate = allow, estimate
        if self._patches:
            return
        for owner in owners:
            made = self._make_rules(allow, estimate)
            self._patches.append((Patch(owner, self._method, self._around(made)), made))
            if self._also is not None and hasattr(owner, self._also[0]):
                self._patches.append((Patch(owner, *self._also), made))

    def _around(self, rules: Rules) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return lambda send: self._guarding(send, rules)

    def uninstall(self) -> None:
        """Give the SDK back what it had; harmless where nothing is installed."""
        while self._patches:
            patch, rules = self._patches.pop()
            rules.is_active = False
            patch.take_back()
