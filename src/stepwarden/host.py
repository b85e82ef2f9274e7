"""For hosts that keep call frames of their own: interpreters and graph runners."""

from .core._boundary import Raised, Returned
from .core.host import StepHost

__all__ = ["Raised", "Returned", "StepHost"]
