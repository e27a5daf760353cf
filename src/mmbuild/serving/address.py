"""The address of a server and the key that its clients send: checked before the engine is loaded, without torch."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from mmbuild.base.errors import UsageError


def require_key(host: str, api_key: str | None) -> None:
    """Without a key, listen only where nobody else can connect.

    Raises:
        UsageError: MM879.
    """
    if api_key is None and not _is_loopback(host):
        raise UsageError(
            f"listening at `{host}` without a key would answer anybody who can connect",
            code="MM879",
            hint="give a file with a key: --api-key-file FILE",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listener(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket for an address.

    Raises:
        UsageError: MM873, the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol, or asyncio would not send small pieces at once (TCP_NODELAY).
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(backlog)
    except OSError as error:
        made.close()
        raise UsageError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            code="MM873",
            hint="choose another --port, or an address of this host",
        ) from error
    return made


def read_key(path: Path) -> str:
    """The key in a file: its text without white space at the ends.

    Raises:
        UsageError: MM879, the file cannot be read or has no key.
    """
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"cannot read the key `{path}`: {error}", code="MM879", hint="check the path"
        ) from None
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(
            f"`{path}` holds no key", code="MM879", hint="write one line of printable ASCII characters to it"
        )
    return key
