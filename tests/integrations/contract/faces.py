"""Every face that keeps the contract."""

from tests.integrations.contract.anthropic_faces import FACES as ANTHROPIC
from tests.integrations.contract.guarded_call_faces import FACES as GUARDED_CALL
from tests.integrations.contract.langchain_faces import FACES as LANGCHAIN
from tests.integrations.contract.openai_agents_faces import FACES as OPENAI_AGENTS
from tests.integrations.contract.openai_faces import FACES as OPENAI
from tests.integrations.contract.pydantic_ai_faces import FACES as PYDANTIC_AI

FACES = (*OPENAI, *ANTHROPIC, *PYDANTIC_AI, *LANGCHAIN, *OPENAI_AGENTS, *GUARDED_CALL)
