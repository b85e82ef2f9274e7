"""A lock that the operating system lets go of when its process dies: who holds it, lives."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepwarden.core.errors import LedgerError

if sys.platform != "win32":
    import fcntl

_INFIX = "-live-"


class LiveLock:
    """Hold a lock of this process's own beside a ledger's file, for as long as the process lives.

    It is a file of its own, locked as a whole, since such a lock belongs to one open file: another ledger that this
    process opens or closes does not touch it. A forked child must call `disown`.

    Args:
        path: The ledger's file.

    Raises:
        LedgerError: If it cannot be taken.
    """

    def __init__(self, path: Path) -> None:
        while True:
            self.name = os.urandom(8).hex()
            self._path = _lock_path(path, self.name)
            try:
                self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            except OSError as error:
                raise LedgerError(
                    f"{path} cannot be opened for writing: no lock beside it ({error.strerror})"
                ) from error
            # Who looks for dead processes may have met the file before it was locked, and taken it away.
            if _try_lock(self._file) and os.fstat(self._file).st_nlink:
                return
            os.close(self._file)

    def release(self) -> None:
        """Let go of it, and take its file away."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._file)

    def disown(self) -> None:
        """Let go of what a forked child has inherited; the parent process keeps it."""
        os.close(self._file)


@contextmanager
def claim(path: Path, name: str) -> Iterator[bool]:
    """Take the lock of a process that may have died, and its file away at the end.

    Args:
        path: The ledger's file.
        name: The name of the lock.

    Returns:
        A context manager that gives whether it is dead; if not, nothing is taken.
    """
    try:
        file = os.open(_lock_path(path, name), os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        is_dead = _try_lock(file)
        yield is_dead
        if is_dead:
            with contextlib.suppress(FileNotFoundError):
                _lock_path(path, name).unlink()
    finally:
        os.close(file)


def names(path: Path) -> list[str]:
    """Return the names of the locks beside a ledger's file, those of dead processes included."""
    start = f"{path.name}{_INFIX}"
    return sorted(one.name.removeprefix(start) for one in path.parent.iterdir() if one.name.startswith(start))


def _lock_path(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}{_INFIX}{name}")


def _try_lock(file: int) -> bool:
    if sys.platform == "win32":
        raise LedgerError("a ledger on disk needs the file locks of a POSIX system, which Windows does not have")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
