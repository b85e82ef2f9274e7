"""Where the runtime meets what teams already use: guarded clients, and threads that carry the scope."""

from ._guard import guard
from ._install import install, uninstall

__all__ = ["guard", "install", "uninstall"]
