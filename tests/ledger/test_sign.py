"""Keys and signatures: the holder of the key can sign, and everybody can check."""

import stat
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

import stepwarden as sw
from stepwarden.ledger import _chain, _sign

HEAD = _chain.genesis("r")


@pytest.fixture
def keys(tmp_path):
    return _sign.write_keys(tmp_path / "key")


def test_a_head_that_was_signed_is_recognized(keys):
    """A signature holds for the run, the count and the head that were signed, and for nothing else."""
    private, public = keys
    key = _sign.read_public_key(public)

    signed = _sign.SignedHead.parse(_sign.sign_head(private, "r", 3, HEAD))

    assert (signed.count, signed.head, signed.key) == (3, HEAD, key)
    assert signed.is_signed_by(key, "r")
    assert not signed.is_signed_by(key, "s")
    assert not _sign.SignedHead(4, signed.head, key, signed.signature).is_signed_by(key, "r")
    assert not _sign.SignedHead(3, bytes(32), key, signed.signature).is_signed_by(key, "r")
    assert not signed.is_signed_by(bytes(32), "r")


def test_what_is_signed_is_pinned():
    """The signed bytes are four lines: their format, the run, the count and the head."""
    assert _sign.signed_text("r\u00e9", 3, bytes(32)) == b"stepwarden-head-1\nr\xc3\xa9\n3\n" + b"0" * 64 + b"\n"


def test_a_signature_is_the_same_each_time(keys):
    """A signer that read its key once signs as one that reads it each time."""
    sign = _sign.signer(keys[0])

    assert sign("r", 1, HEAD) == sign("r", 1, HEAD) == _sign.sign_head(keys[0], "r", 1, HEAD)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are of POSIX")
def test_nobody_else_can_read_the_private_key(keys):
    """The private key is its owner's alone, and the public one everybody's to read."""
    private, public = keys

    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert public.name == "key.pub"
    assert public.stat().st_mode & 0o400
    assert b"PRIVATE" in private.read_bytes()
    assert b"PRIVATE" not in public.read_bytes()


@pytest.mark.parametrize("taken", ["key", "key.pub"])
def test_a_key_is_never_written_over(tmp_path, taken):
    """If one of the two files is there, it is an error, that file stays as it was, and the other is not left behind."""
    (tmp_path / taken).write_text("mine")

    with pytest.raises(sw.LedgerError, match=rf"{taken} already exists"):
        _sign.write_keys(tmp_path / "key")

    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    """A place that cannot be written to is named."""
    with pytest.raises(sw.LedgerError, match=r"missing/key cannot be written: No such file"):
        _sign.write_keys(tmp_path / "missing" / "key")


def pem_of(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "content", [b"", b"hello", pem_of(generate_private_key(SECP256R1()))], ids=["empty", "text", "another kind"]
)
def test_a_file_without_such_a_key_is_refused(tmp_path, content):
    """A file with no key of the right kind is named, with what would be right."""
    file = tmp_path / "key"
    file.write_bytes(content)

    with pytest.raises(sw.LedgerError, match=r"key has no Ed25519 private key.*keys new"):
        _sign.signer(file)
    with pytest.raises(sw.LedgerError, match=r"key has no Ed25519 public key"):
        _sign.read_public_key(file)


def test_a_private_key_is_no_public_one(keys):
    """Who gives the private key where the public one belongs is told where that is; and the other way about."""
    private, public = keys

    with pytest.raises(sw.LedgerError, match=r"the public one is in .*key\.pub"):
        _sign.read_public_key(private)
    with pytest.raises(sw.LedgerError, match="no Ed25519 private key"):
        _sign.signer(public)


def test_a_key_file_that_is_missing_is_an_error(tmp_path):
    """A file that cannot be read is named."""
    with pytest.raises(sw.LedgerError, match=r"nowhere cannot be read: No such file"):
        _sign.signer(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "1.2.3", "2.0." + "0" * 64 + "." + "0" * 64 + "." + "0" * 128])
def test_what_is_no_signature_is_refused(text):
    """A stored signature that is none is an error, not a signature that does not fit."""
    with pytest.raises(sw.LedgerError, match=r"must be `1\.COUNT\.HEAD\.KEY\.SIGNATURE`"):
        _sign.SignedHead.parse(text)


def test_signing_says_what_to_install(monkeypatch, tmp_path):
    """Without the package that signs, the error names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)

    with pytest.raises(sw.LedgerError, match=r"stepwarden\[sign\]"):
        _sign.write_keys(tmp_path / "key")
