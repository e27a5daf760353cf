"""A shared store on a web server, which is read-only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.team.remote_cache.object_store import (
    PIECE_BYTES,
    READ_ONLY,
    Arrived,
    ObjectStore,
    ignore_progress,
)
from mmbuild.team.remote_cache.retrying_client import WINDOW_SECONDS, MalformedError

_REDIRECT = (301, 302, 303, 307, 308)
_REDIRECTS = 10
_OURS = ("Range", "Accept-Encoding")
"""Request headers set by mmbuild, not by the configuration."""

_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416


class Web(ObjectStore):
    """A directory on a web server. Reads no more than requested, whatever the server sends."""

    streams = True

    def read(self, name: str, start: int, end: int, arrived: Arrived = ignore_progress) -> bytes:
        """As :meth:`ObjectStore.read`."""
        from fsspec.asyn import sync

        data: bytes = sync(self.files.loop, self._get, self._path(name), start, end, arrived)
        return data

    async def _get(self, url: str, start: int, end: int, arrived: Arrived) -> bytes:
        from aiohttp import ClientTimeout

        if start >= end:
            return b""
        options = dict(self.files.kwargs)
        headers = {
            **options.pop("headers", {}),
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        options.setdefault("timeout", ClientTimeout(total=None, sock_read=WINDOW_SECONDS))
        session = await self.files.set_session()
        request_options = {**options, "headers": headers}
        async with await _get_following(session, self.files.encode_url(url), request_options) as response:
            if response.status == _RANGE_NOT_SATISFIABLE:
                return b""
            self.files._raise_not_found_for_status(response, url)
            # A server without range support sends the whole file.
            to_skip = 0 if response.status == _PARTIAL else start
            data = bytearray()
            while len(data) < end - start and (part := await response.content.read(PIECE_BYTES)):
                arrived(len(part))
                data += part
                if to_skip:
                    cut = min(to_skip, len(data))
                    del data[:cut]
                    to_skip -= cut
            return bytes(data[: end - start])


async def _get_following(session: Any, address: Any, options: Mapping[str, Any]) -> Any:
    """Return the response for ``address`` after its redirects.

    Configured headers and passwords are sent only to the original host, and an https request is never redirected to
    http.

    Raises:
        MalformedError: A redirect leads to a scheme other than http or https, or from https to http, or there are
            too many.
    """
    from yarl import URL

    target = start = URL(address) if isinstance(address, str) else address
    for _ in range(_REDIRECTS):
        response = await session.get(target, allow_redirects=False, **options)
        location = response.headers.get("Location")
        if response.status not in _REDIRECT or not location:
            return response
        response.release()
        try:
            target = target.join(URL(location))
        except ValueError:
            raise MalformedError("is redirected to an invalid address") from None
        if target.scheme not in READ_ONLY or not target.host:
            raise MalformedError(f"is redirected to `{target.scheme}:`, which is not supported")
        if (start.scheme, target.scheme) == ("https", "http"):
            raise MalformedError("is redirected from https to http, where anyone could replace it")
        if target.origin() != start.origin():
            kept = {name: options["headers"][name] for name in _OURS}
            options = {"headers": kept, "timeout": options["timeout"]}
    raise MalformedError(f"is redirected more than {_REDIRECTS} times")
