"""Every face that keeps the contract."""

from tests.integrations.contract.anthropic_faces import FACES as ANTHROPIC
from tests.integrations.contract.openai_faces import FACES as OPENAI

FACES = (*OPENAI, *ANTHROPIC)
