"""What of a call's tokens was no text, and what that cost: at the price list's own rates, where it has them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from stepwarden.core._money import dollars
from stepwarden.core._run import Run


@dataclass(frozen=True, slots=True)
class OtherTokens:
    """Count what is part of a call's input and output and is no text.

    Args:
        audio_input: Input tokens of audio.
        audio_output: Output tokens of audio.
        image_input: Input tokens of images.
        image_output: Output tokens of images.
    """

    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0

    @property
    def is_any(self) -> bool:
        """Whether there are any."""
        return bool(self.audio_input or self.audio_output or self.image_input or self.image_output)


def cost_of_other(
    run: Run,
    model: str | None,
    called: str | None,
    other: OtherTokens,
    *,
    input_tokens: int,
    output_tokens: int,
    **parts: int,
) -> tuple[Decimal | None, bool]:
    """Price a call that had more than text in it.

    Args:
        run: The run, whose own price table comes before the list.
        model: The model that answered.
        called: The name that it was called by.
        other: What was no text.
        input_tokens: All input.
        output_tokens: All output.
        parts: What else the input and the output contain, as `Hold.settle` takes it.

    Returns:
        The cost in dollars, or None where the run's own prices of text are all that there is; and whether everything
        has a price of its own.
    """
    from stepwarden import prices

    rates = None if model is None else run.rates(model, called)
    if model is None or (rates is not None and rates != prices.lookup(model)):
        return None, False  # a table of the user's, which prices text
    kinds = {
        "input_audio": other.audio_input,
        "output_audio": other.audio_output,
        "input_image": other.image_input,
        "output_image": other.image_output,
    }
    found = prices.other_cost(model, kinds, input_tokens=input_tokens, output_tokens=output_tokens, **parts)
    if found is None:
        return None, False
    cost, is_whole = found
    return dollars(cost), is_whole
