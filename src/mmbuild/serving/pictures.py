"""The bytes of the pictures in a request: from data: URLs, and from hosts that are allowed."""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from mmbuild.models.images import PIXELS, Picture, PictureError, open_picture
from mmbuild.serving.errors import ProtocolError

_CHUNK = 1 << 16
_BASE64 = re.compile(r"; *base64 *$", re.IGNORECASE)  # as in the URL standard of WHATWG, with its spaces
_SPACE = b"\t\n\f\r "  # between lines of base64, which that standard ignores
REQUEST_PIXELS = 2 * PIXELS
"""Pixels of all pictures in a request, which are in memory at the same time; ten pictures of a phone."""


@dataclass(frozen=True, slots=True)
class PicturePolicy:
    """Which pictures are taken.

    Attributes:
        hosts: Names of hosts from which pictures are fetched; none by default.
        most: The most pictures in a request: those for which a prompt of the engine has room; None: any number.
        most_pixels: Limit of the pixels of all pictures in a request together.
        most_bytes: Limit of a picture's file.
        seconds: Time limit for fetching one.
        resolve: Finds the addresses of a host; None: :func:`addresses_of`.
        allow_private: Also fetch from addresses that are not public.
    """

    hosts: frozenset[str] = frozenset()
    most: int | None = None
    most_pixels: int = REQUEST_PIXELS
    most_bytes: int = 20_000_000
    seconds: float = 10.0
    resolve: Callable[[str, int], list[str]] | None = None
    allow_private: bool = False


def read_picture(url: str, policy: PicturePolicy, param: str) -> bytes:
    """The file that a URL names.

    Args:
        url: ``data:`` or, if the policy allows its host, ``http:`` or ``https:``.
        policy: What is allowed.
        param: The request's field, for errors.

    Raises:
        ProtocolError: MM875, the URL is invalid, not allowed, too large, or cannot be fetched.
    """
    scheme = url[:8].partition(":")[0].lower()
    if scheme == "data":
        return _from_data(url, policy, param)
    if scheme in ("http", "https"):
        return _fetched(url, policy, param)
    raise _refused("a picture must be a data: URL, or an http: or https: URL of an allowed host", param)


def require_count(count: int, policy: PicturePolicy) -> None:
    """Check the number of pictures in a request, before any of them is read.

    Raises:
        ProtocolError: MM876, there is no room for so many.
    """
    if policy.most is not None and count > policy.most:
        raise ProtocolError(
            f"the request has {count} pictures, but a prompt of this engine has room for {policy.most}",
            code="MM876",
            hint="send fewer pictures",
            param="messages",
        )


def open_pictures(files: Sequence[tuple[str, bytes]], policy: PicturePolicy) -> list[Picture]:
    """Open the pictures of a request.

    Args:
        files: The request's field and the bytes of each.
        policy: What is allowed.

    Raises:
        ProtocolError: MM517, one cannot be read; MM876, all of them have too many pixels.
    """
    opened: list[Picture] = []
    pixels = 0
    for param, content in files:
        try:
            picture = open_picture(content)
        except PictureError as error:
            raise ProtocolError(
                f"the picture of {len(content):,} bytes cannot be read: {error.reason}",
                code=error.code,
                hint="send a PNG, JPEG, WebP, GIF, TIFF or BMP file",
                param=param,
            ) from None
        pixels += picture.image.width * picture.image.height
        if pixels > policy.most_pixels:
            raise ProtocolError(
                f"the pictures of the request have more than {policy.most_pixels:,} pixels together",
                code="MM876",
                hint="scale them down",
                status=413,
                param=param,
            )
        opened.append(picture)
    return opened


def _refused(message: str, param: str, hint: str | None = None) -> ProtocolError:
    return ProtocolError(message, code="MM875", hint=hint, param=param)


def _from_data(url: str, policy: PicturePolicy, param: str) -> bytes:
    head, comma, content = url.partition(",")
    if not comma:
        raise _refused("the data: URL has no data", param)
    if len(content) > policy.most_bytes * 4 / 3 + 4:
        raise _too_large(policy, param)
    try:
        data = unquote_to_bytes(content)
        return base64.b64decode(data.translate(None, _SPACE), validate=True) if _BASE64.search(head) else data
    except (binascii.Error, ValueError) as error:
        raise _refused(f"the data: URL is not base64: {error}", param) from None


def _too_large(policy: PicturePolicy, param: str) -> ProtocolError:
    return _refused(f"the picture is larger than {policy.most_bytes:,} bytes", param)


def _fetched(url: str, policy: PicturePolicy, param: str) -> bytes:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise _refused(f"the picture's URL is not valid: {error}", param) from None
    if host not in policy.hosts:
        raise _refused(
            f"pictures are not fetched from `{host[:100]}`",
            param,
            "send a data: URL, or start the server with --allow-image-host",
        )
    try:
        return _get(parts.scheme, host, port, f"{parts.path or '/'}?{parts.query}".rstrip("?"), policy, param)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise _refused(f"the picture cannot be fetched from `{host}`: {error}", param) from None


def _get(scheme: str, host: str, port: int, path: str, policy: PicturePolicy, param: str) -> bytes:
    deadline = time.monotonic() + policy.seconds
    address = (policy.resolve or addresses_of)(host, port)[0]
    if not policy.allow_private and not ipaddress.ip_address(address).is_global:
        raise _refused(f"`{host}` has the address {address}, which is not public", param)
    # To the address that was checked: another look-up could give another one.
    connection = _Pinned(host, port, address, policy.seconds, tls=scheme == "https")
    try:
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "mmbuild"})
        response = connection.getresponse()
        if response.status != 200:  # redirects would lead to hosts that nobody allowed
            raise _refused(f"`{host}` answers with status {response.status}", param)
        content = bytearray()
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > policy.most_bytes:
                raise _too_large(policy, param)
            if time.monotonic() > deadline:
                raise _refused(f"fetching the picture takes longer than {policy.seconds:g} s", param)
        return bytes(content)
    finally:
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to an address of a host, encrypted or not."""

    def __init__(self, host: str, port: int, address: str, seconds: float, *, tls: bool) -> None:
        super().__init__(host, port, timeout=seconds)
        self._address, self._seconds, self._tls = address, seconds, tls

    def connect(self) -> None:
        """Connect."""
        plain = socket.create_connection((self._address, self.port), self._seconds)
        if not self._tls:
            self.sock = plain
            return
        try:
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses of a host."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
