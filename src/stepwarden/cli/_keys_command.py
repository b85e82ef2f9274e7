"""`stepwarden keys new`: make the keys that runs are signed and checked with."""

from stepwarden import LedgerError
from stepwarden.ledger._sign import write_keys

from ._json import encode
from ._output import say
from ._problem import UsageError


def new_keys(out: str, *, as_json: bool) -> int:
    """Write a pair of keys.

    Args:
        out: The file of the private one; the public one goes to the same name with ``.pub`` behind it.
        as_json: Whether one JSON object names the files.

    Returns:
        The exit status.

    Raises:
        UsageError: If one of the files exists or cannot be written.
    """
    try:
        private, public = write_keys(out)
    except LedgerError as error:
        raise UsageError(str(error)) from error
    if as_json:
        say(encode({"private": str(private), "public": str(public)}))
        return 0
    say(f"{private}: the private key, to sign runs with; keep it secret: anyone who has it can sign as you")
    say(f"{public}: the public key, to verify them with; give it to anyone who verifies")
    return 0
