"""Keys that nobody knows: refused, with the known one that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import DefinitionError

# What a word means to a reader; nothing, where it tells no two fields apart: a limit, a maximum and a budget are one.
_WORDS = (
    "dollar=usd cost=usd price=usd money=usd spend=usd sec=seconds time=seconds timeout=seconds duration=seconds "
    "deadline=seconds request=calls prompt=input completion=output out=output day=daily hour=hourly "
    "max= maximum= limit= cap= budget= total= allowed= default= error= level= llm= model="
)
_MEANS = dict(pair.split("=") for pair in _WORDS.split())
_UNITS = {"tokens", "calls"}  # `max_input` can only mean `max_input_tokens`


def refuse_unknown_keys(
    what: str, given: Iterable[object], known: Iterable[str], error: type[Exception] = DefinitionError
) -> None:
    """Raise for the first key that is not known, with the known one that was probably meant.

    Args:
        what: The path that the message names, such as ``budget``.
        given: The keys that were given.
        known: The keys that exist.
        error: The class of the error raised.

    Raises:
        DefinitionError: As *error*, if a key is unknown.
    """
    names = tuple(known)
    for key in given:
        if key not in names:
            meant = _meant(str(key), names)
            hint = "." if meant is None else f"; did you mean {meant!r}?"
            raise error(f"{what} has no field {key!r}{hint} Known: {', '.join(names)}")


def _meant(key: str, names: tuple[str, ...]) -> str | None:
    import difflib  # here, since most processes never need it

    vocabulary = {word for name in names for word in name.split("_")} | _MEANS.keys()
    words: set[str] = set()
    for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", key):
        words.update(difflib.get_close_matches(word.lower(), vocabulary, n=1, cutoff=0.8) or [word])
    meaning = _meaning(words)
    for name in names:
        if meaning == _meaning(set(name.split("_"))):
            return name
    if words <= vocabulary:
        return None  # it is understood, and is no field: one that is spelt alike would mean something else
    # A wrong guess is worse than none.
    return next(iter(difflib.get_close_matches(key, names, n=1, cutoff=0.82)), None)


def _meaning(words: set[str]) -> set[str]:
    telling = {_MEANS.get(word, word) for word in words} - {""}
    return telling - _UNITS or telling or words
