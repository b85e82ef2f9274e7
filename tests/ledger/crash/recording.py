"""Work in a ledger, and write down each change that SQLite makes to a file, each flush and each acknowledgement.

SQLite reaches its files through a table of functions, a VFS. The default one is copied here, with the functions that
change a file wrapped: what is recorded is what the very library does that the ledger uses.
"""

import ctypes
import ctypes.util
import json
import sys
from base64 import b64encode
from pathlib import Path

import stepwarden as sw

VOID, TEXT, INT, LONG = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int64
# The name as it came, not a copy of it: SQLite keeps it as long as the file is open, and names the other files by it.
OPEN = ctypes.CFUNCTYPE(INT, VOID, VOID, VOID, INT, VOID)
DELETE = ctypes.CFUNCTYPE(INT, VOID, TEXT, INT)
WRITE = ctypes.CFUNCTYPE(INT, VOID, VOID, INT, LONG)
TRUNCATE = ctypes.CFUNCTYPE(INT, VOID, LONG)
SYNC = ctypes.CFUNCTYPE(INT, VOID, INT)


class Methods(ctypes.Structure):
    """Be what can be done with an open file; only what changes it is named."""

    _fields_ = [
        ("version", INT), ("close", VOID), ("read", VOID), ("write", WRITE), ("truncate", TRUNCATE), ("sync", SYNC),
        ("others", VOID * 13),
    ]  # fmt: skip


class File(ctypes.Structure):
    """Be the beginning of an open file."""

    _fields_ = [("methods", ctypes.POINTER(Methods))]


class Vfs(ctypes.Structure):
    """Be the way to files; only what makes and removes them is named."""

    _fields_ = [
        ("version", INT), ("size_of_file", INT), ("longest_path", INT), ("next", VOID), ("name", TEXT), ("data", VOID),
        ("open", OPEN), ("delete", DELETE), ("others", VOID * 14),
    ]  # fmt: skip


class Recording:
    """Put itself between SQLite and its files, for the rest of the process."""

    def __init__(self):
        self.events = []
        self._kept = []
        self._names = {}
        library = ctypes.CDLL(ctypes.util.find_library("sqlite3"))
        library.sqlite3_vfs_find.restype = ctypes.POINTER(Vfs)
        self._original = library.sqlite3_vfs_find(None).contents
        vfs = Vfs()
        ctypes.pointer(vfs)[0] = self._original
        vfs.name = b"recording"
        vfs.open, vfs.delete = OPEN(self._open), DELETE(self._delete)
        self._kept.append(vfs)
        assert library.sqlite3_vfs_register(ctypes.byref(vfs), 1) == 0

    def note(self, *event):
        """Write down something that happened beside the files."""
        self.events.append(event)

    def _open(self, vfs, name, file, flags, out):
        status = self._original.open(vfs, name, file, flags, out)
        if status == 0 and name:
            opened = File.from_address(file)
            original = opened.methods.contents
            wrapped = Methods()
            ctypes.pointer(wrapped)[0] = original
            path = Path(ctypes.string_at(name).decode()).name

            def write(file, data, size, offset):
                self.note("write", path, offset, b64encode(ctypes.string_at(data, size)).decode())
                return original.write(file, data, size, offset)

            def truncate(file, size):
                self.note("truncate", path, size)
                return original.truncate(file, size)

            def sync(file, flags):
                done = original.sync(file, flags)
                self.note("sync", path)
                return done

            wrapped.write, wrapped.truncate, wrapped.sync = WRITE(write), TRUNCATE(truncate), SYNC(sync)
            self._kept.append(wrapped)
            opened.methods = ctypes.pointer(wrapped)
        return status

    def _delete(self, vfs, name, sync_directory):
        self.note("delete", Path(name.decode()).name, bool(sync_directory))
        return self._original.delete(vfs, name, sync_directory)


def main(path, durability, steps, out):
    """Take some steps with a call each in a new ledger."""
    recording = Recording()
    with sw.SQLiteLedger(path, durability=durability) as ledger, sw.Run(ledger=ledger) as run:
        for number in range(int(steps)):
            with sw.step(f"s{number}") as scope:
                hold = sw.reserve(input_tokens=5, output_tokens=7, cost_usd="0.1", model="m").acquire()
                recording.note("held", number + 1)
                hold.settle(input_tokens=5, output_tokens=1, cost_usd="0.05")
            recording.note("left", scope.id)
    recording.note("ended", run.id)
    Path(out).write_text(json.dumps(recording.events))


if __name__ == "__main__":
    main(*sys.argv[1:])
