"""What a journal gives to the writer: a record that has no number yet."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from stepwarden.core._ledger import Ticket

from ._chain import genesis


class Chain:
    """Be one run's records as far as they are written; changed by the writer's thread alone.

    Args:
        run: The run's id.
        process: The name of the lock that tells that its process lives.
    """

    __slots__ = ("count", "head", "is_ended", "process", "row", "run", "sign")

    def __init__(self, run: str, process: str, sign: Callable[[str, int, bytes], str] | None = None) -> None:
        self.run = run
        self.process = process
        self.sign = sign
        self.row = 0
        self.count = 0
        self.head = genesis(run)
        self.is_ended = False


class Entry:
    """Be one record to be written.

    Args:
        chain: The run that it belongs to.
        kind: The kind of the record.
        at_ns: When it happened, in nanoseconds since the epoch.
        fields: Makes its fields, in the writer's thread; or has them.
    """

    __slots__ = ("at_ns", "chain", "fields", "kind")

    def __init__(
        self, chain: Chain, kind: str, at_ns: int, fields: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
    ) -> None:
        self.chain = chain
        self.kind = kind
        self.at_ns = at_ns
        self.fields = fields

    def made_fields(self) -> Mapping[str, Any]:
        """Return its fields, making them where they were left for later."""
        if callable(self.fields):
            self.fields = self.fields()
        return self.fields


class Outlet(Ticket):
    """Take entries, and be waited for until they are durable."""

    __slots__ = ()

    @abstractmethod
    def append(self, entry: Entry) -> bool:
        """Take an entry, to be written soon; tell whether it was taken."""
