"""Audio and image tokens: priced at the list's own rates, and counted as unpriced where it has none."""

from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price

import stepwarden as sw
from stepwarden import prices
from stepwarden.testing import Reply
from tests.integrations.faces import PRICES, ask, guarded, play, read_out

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "prompt_tokens_details": {"audio_tokens": 40, "cached_tokens": 10},
    "completion_tokens_details": {"audio_tokens": 30},
}


def spent(server, kind, usage, *, streams=False, model="m", **run):
    """Make one call whose reply reports *usage*, and return what the run spent."""
    server.default = Reply(usage=usage)

    async def scenario():
        async with guarded(kind, server) as client:
            with sw.Run(**run) as opened:
                reply = await ask(client, model=model, stream=streams)
                if streams:
                    await read_out(reply)
        return opened.total

    return play(scenario)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_audio_is_priced_at_its_own_rates(server, kind, streams):
    """Audio in and out costs what the list says of audio, the rest of the call what it says of text."""
    budget = sw.Budget(max_tokens=9_999)
    total = spent(server, kind, USAGE, streams=streams, model="openai:gpt-audio", budget=budget)
    expected = calc_price(
        Usage(input_tokens=100, output_tokens=50, input_audio_tokens=40, output_audio_tokens=30, cache_read_tokens=10),
        "gpt-audio",
        provider_id="openai",
    ).total_price
    assert (total.cost_usd, total.unpriced_calls) == (expected, 0)
    assert (total.input_tokens, total.output_tokens, total.cache_read_tokens) == (100, 50, 10)


def test_tokens_without_a_rate_of_their_own_cost_what_text_does_and_show_as_unpriced(server, kind):
    """Where the list has no price of audio, the call is charged as text and counted as unpriced."""
    total = spent(server, kind, USAGE, model="gpt-5-mini", budget=sw.Budget(max_usd=1))
    rates = prices.lookup("gpt-5-mini")
    text = rates.cost(input_tokens=100, output_tokens=50, cache_read_tokens=10)
    assert (total.cost_usd * 10**12, total.unpriced_calls) == (text, 1)


def test_a_price_table_of_ones_own_prices_text(server, kind):
    """The user's table has no price of audio: it is charged as text at those prices, and counted as unpriced."""
    usage = {**USAGE, "prompt_tokens_details": {"audio_tokens": 40}}
    total = spent(server, kind, usage, prices=PRICES, budget=sw.Budget(max_usd=9_999))
    assert (total.cost_usd, total.unpriced_calls) == (Decimal(200), 1)


def test_image_tokens_are_priced_where_the_list_has_a_rate():
    """Image input is charged at its own rate, of a model that has one."""
    tokens = {"input_tokens": 100, "output_tokens": 10}
    cost, is_whole = prices.other_cost("gpt-image-1.5", {"input_image": 60}, **tokens)
    expected = calc_price(Usage(**tokens, input_image_tokens=60), "gpt-image-1.5", provider_id="openai").total_price
    assert (Decimal(cost) / 10**12, is_whole) == (expected, True)


def test_what_the_list_does_not_know_is_not_priced(server, kind):
    """A model that nobody can price is counted as unpriced, once."""
    assert prices.other_cost("nobody-knows", {"input_audio": 1}, input_tokens=1, output_tokens=1) is None
    total = spent(server, kind, USAGE, model="nobody-knows", budget=sw.Budget(max_tokens=9_999))
    assert (total.cost_usd, total.unpriced_calls) == (0, 1)


def test_a_part_larger_than_its_whole_is_the_whole():
    """A report that contradicts itself prices no more tokens than there were."""
    tokens = {"input_tokens": 10, "output_tokens": 0}
    cost, _ = prices.other_cost("gpt-audio", {"input_audio": 99}, **tokens)
    exact, _ = prices.other_cost("gpt-audio", {"input_audio": 10}, **tokens)
    assert cost == exact
