"""Where the runtime meets what teams already use: guarded clients and calls, and threads that carry the scope."""

from ._guard import guard
from ._guarded_call import guarded_call
from ._install import install, uninstall
from ._llm import Reply, llm_call, llm_call_async

__all__ = ["Reply", "guard", "guarded_call", "install", "llm_call", "llm_call_async", "uninstall"]
