"""Signatures of published entries: ed25519 (RFC 8032) over the canonical JSON of an entry.

Public keys have the format of :mod:`mmbuild.base.public_keys`. Private keys are PEM (PKCS #8, not encrypted), as also
written by ``openssl genpkey -algorithm ed25519``. The package ``cryptography`` is imported only to sign and verify.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.optional_packages import install_hint
from mmbuild.base.public_keys import public_bytes, public_text
from mmbuild.config.remote_errors import RemoteError
from mmbuild.team.remote_cache.records import Signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_KEY_FILE_BYTES = 65_536
_NEW_KEY = "`mmbuild cache keygen FILE` writes a new one"


def make_key(path: Path) -> str:
    """Write a new private key to ``path``, readable only by its owner; return the public key. Makes its directory.

    Raises:
        RemoteError: MM825, ``cryptography`` is not installed, or the file exists or cannot be written.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey as Private
    except ImportError as error:
        raise _not_installed() from error
    key = Private.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RemoteError(
            f"the key cannot be written to `{path}`: {error.strerror}",
            code="MM825",
            hint="name a new file in a directory that you can write to",
        ) from error
    with open(descriptor, "wb") as stream:
        stream.write(text)
    return _public(key)


def read_key(given: str) -> Ed25519PrivateKey:
    """Load a private key from a path or from PEM text.

    Raises:
        RemoteError: MM825, it cannot be read or has another type.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey as Private
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise _not_installed() from error
    inline = "PRIVATE KEY" in given
    shown = "in MMBUILD_SIGNING_KEY" if inline else f"`{given}`"
    try:
        text = given.encode() if inline else read_file(Path(given).expanduser(), _KEY_FILE_BYTES)
        key = load_pem_private_key(text, password=None)
    except (OSError, ValueError, TypeError, RuntimeError, FileRefusedError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not an unencrypted PEM key"
        if isinstance(error, FileRefusedError):
            reason = f"it {error.problem}"
        raise RemoteError(
            f"the signing key {shown} cannot be used: {reason}",
            code="MM825",
            hint=_NEW_KEY,
        ) from None
    if not isinstance(key, Private):
        raise RemoteError(
            f"the signing key {shown} is not an ed25519 key",
            code="MM825",
            hint=_NEW_KEY,
        )
    return key


def sign(text: bytes, key: Ed25519PrivateKey) -> Signature:
    """Sign ``text``."""
    return Signature(_public(key), base64.b64encode(key.sign(text)).decode("ascii"))


def is_signed(text: bytes, signatures: Iterable[Signature], trusted: Collection[bytes]) -> bool:
    """Return whether one of ``signatures`` is valid and by a trusted key.

    Raises:
        RemoteError: MM825, ``cryptography`` is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise _not_installed() from error
    for item in signatures:
        try:
            key = public_bytes(item.key)
            if key in trusted:
                Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(item.signature), text)
                return True
        except (InvalidSignature, ValueError):
            continue
    return False


def _public(key: Ed25519PrivateKey) -> str:
    return public_text(key.public_key().public_bytes_raw())


def _not_installed() -> RemoteError:
    return RemoteError(
        "signatures need the package `cryptography`, which is not installed",
        code="MM825",
        hint=install_hint("remote"),
    )
