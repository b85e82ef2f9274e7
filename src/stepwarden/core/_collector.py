"""Whether the garbage collector is at work on this thread, where CPython lets it run in the middle of anything.

It says when it starts and when it stops, to functions of C alone: a function of Python there would let signal handlers
run in the middle of anything, too.
"""

from __future__ import annotations

import gc
import sys
from threading import local


class _Collections(list[object]):
    """Hold what the collector said when it started, as the last item, while it is at work on any thread.

    Setting *start* appends that, and setting *stop* begins the list anew, with the names in what it says then.
    """

    start = property(fset=list.append)
    stop = property(fset=list.__init__)


_collections = _Collections([""])
_here = local()
"""Has in *start* what the collector said when it last started on this thread."""
# From 3.12 on, it waits until no C function is under way.
if sys.version_info < (3, 12):  # pragma: no branch - a version decides
    gc.callbacks += [_collections.__setattr__, _here.__setattr__]


def is_collecting() -> bool:
    """Tell whether what runs now may be a finaliser.

    Then it must set no context variable of the context that it finds: the collector may have interrupted the setting
    of another one there, and CPython 3.11 would go on with memory that is no longer its own.
    """
    last = _collections[-1]
    return last.__class__ is dict and last is getattr(_here, "start", None)
