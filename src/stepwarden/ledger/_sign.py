"""Ed25519 keys, and the signature over a run's head that nobody without the key can make."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwarden.core.errors import LedgerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Sign = Callable[[str, int, bytes], str]
"""Signs a run's id, its count of records and its head."""

_FORM = re.compile(r"1\.(0|[1-9][0-9]{0,15})\.([0-9a-f]{64})\.([0-9a-f]{64})\.([0-9a-f]{128})")


@dataclass(frozen=True, slots=True)
class SignedHead:
    """Be a head with its signature, as it is stored.

    Args:
        count: How many records it covers.
        head: The head of their chain, 32 bytes.
        key: The public key that it names, 32 bytes; which one is trusted decides whoever verifies.
        signature: 64 bytes.
    """

    count: int
    head: bytes
    key: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"1.{self.count}.{self.head.hex()}.{self.key.hex()}.{self.signature.hex()}"

    @classmethod
    def parse(cls, text: str) -> SignedHead:
        """Read what `str` wrote.

        Raises:
            LedgerError: If it is anything else.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise LedgerError(f"a signature must be `1.COUNT.HEAD.KEY.SIGNATURE`, not {text[:80]!r}")
        count, *parts = found.groups()
        return cls(int(count), *(bytes.fromhex(part) for part in parts))

    def is_signed_by(self, key: bytes, run: str) -> bool:
        """Tell whether *key* has signed this head for this run.

        Args:
            key: A public key, 32 bytes.
            run: The run's id.

        Raises:
            LedgerError: If the package that checks signatures is not installed.
        """
        _need_cryptography()
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(key).verify(self.signature, signed_text(run, self.count, self.head))
        except InvalidSignature:
            return False
        return True


def signed_text(run: str, count: int, head: bytes) -> bytes:
    """Return the bytes that are signed: what kind of thing it is, the run, how many records, and their head."""
    return f"stepwarden-head-1\n{run}\n{count}\n{head.hex()}\n".encode()


def signer(key_file: str | os.PathLike[str]) -> Sign:
    """Read a private key once, to sign many heads.

    Args:
        key_file: The file that `write_keys` wrote.

    Returns:
        What signs a run's id, its count of records and its head, as a stored signature.

    Raises:
        LedgerError: If the file cannot be read or has no Ed25519 private key.
    """
    private = _read_private_key(Path(key_file))
    key = private.public_key().public_bytes_raw()

    def sign(run: str, count: int, head: bytes) -> str:
        return str(SignedHead(count, head, key, private.sign(signed_text(run, count, head))))

    return sign


def sign_head(key_file: str | os.PathLike[str], run: str, count: int, head: bytes) -> str:
    """Sign a run's head.

    Args:
        key_file: The file that `write_keys` wrote.
        run: The run's id.
        count: How many records there are.
        head: The head of their chain.

    Returns:
        The stored signature, which `SignedHead.parse` reads.

    Raises:
        LedgerError: If the file cannot be read or has no Ed25519 private key.
    """
    return signer(key_file)(run, count, head)


def read_public_key(file: str | os.PathLike[str]) -> bytes:
    """Read a public key.

    Args:
        file: A PEM file, such as the FILE.pub of `write_keys`.

    Returns:
        32 bytes.

    Raises:
        LedgerError: If the file cannot be read or has no Ed25519 public key.
    """
    path = Path(file)
    data = _read(path)
    serialization = _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        found = serialization.load_pem_public_key(data)
    except ValueError:
        found = None
    if not isinstance(found, Ed25519PublicKey):
        hint = f"; the public one is in {path}.pub" if b"PRIVATE KEY" in data else ""
        raise LedgerError(f"{path} has no Ed25519 public key in PEM{hint}")
    return found.public_bytes_raw()


def write_keys(file: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Make a pair of keys: the private one in *file*, that only its owner can read, the public one in ``FILE.pub``.

    Args:
        file: Where; neither file may exist.

    Returns:
        The two files.

    Raises:
        LedgerError: If one of them exists or cannot be written; then nothing is left behind.
    """
    serialization = _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = _pem(key.public_key())
    secret, shared = Path(file), Path(f"{file}.pub")
    _create(secret, private, 0o600)
    try:
        _create(shared, public, 0o644)
    except LedgerError:
        secret.unlink()
        raise
    return secret, shared


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        # Never over a file that is there, and never readable to others, not even for a moment.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise LedgerError(f"{path} already exists, and keys are never overwritten; choose another file") from None
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        path.unlink()
        raise LedgerError(f"{path} cannot be written: {error.strerror}") from error


def _pem(key: Ed25519PublicKey) -> bytes:
    serialization = _need_cryptography()
    pem: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LedgerError(f"the key file {path} cannot be read: {error.strerror}") from error


def _read_private_key(path: Path) -> Ed25519PrivateKey:
    data = _read(path)
    serialization = _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        found = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):  # a TypeError, if it wants a password
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise LedgerError(
            f"{path} has no Ed25519 private key in PEM without a password; `stepwarden keys new` makes one"
        )
    return found


def _need_cryptography() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ModuleNotFoundError:
        raise LedgerError('signatures need the package `cryptography`: pip install "stepwarden[sign]"') from None
    return serialization
