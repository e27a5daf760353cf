"""Public keys as text: ``ed25519:<base64 of 32 bytes>``."""

from __future__ import annotations

import base64
import binascii

_SCHEME = "ed25519:"
_KEY_BYTES = 32


def public_bytes(text: str) -> bytes:
    """Return the 32 bytes of a public key.

    Raises:
        ValueError: ``text`` is not a public key.
    """
    scheme, _, key = text.strip().rpartition(":")
    try:
        data = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != _KEY_BYTES or f"{scheme}:" != _SCHEME:
        raise ValueError("is not a public key: expected `ed25519:` and the base64 of 32 bytes")
    return data


def public_text(key: bytes) -> str:
    """Format the bytes of a public key; the inverse of :func:`public_bytes`."""
    return _SCHEME + base64.b64encode(key).decode("ascii")
