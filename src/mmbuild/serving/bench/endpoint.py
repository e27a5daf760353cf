"""Which server is measured: its URL, key, model and version."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from mmbuild.base.errors import MmbuildError, UsageError
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import SERVER_EVENT
from mmbuild.serving.bench.answer_stream import failure_of

_LOOKUP_SECONDS = 30.0
_LONGEST_KEY = 4_096


class ServerError(MmbuildError):
    """The server cannot be measured (MM861), or its key cannot be read (MM863)."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server.

    Attributes:
        url: Ends with ``/v1``.
        model: Model name; None until :func:`identify` found it.
        key: API key; None: none is sent.
        timeout: Seconds for a whole answer.
        version: Version of vLLM, if the server reports one.
        most_tokens: Tokens that an answer can have, from a server of mmbuild's; None: not known.
    """

    url: str
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    timeout: float = 600.0
    version: str | None = None
    most_tokens: int | None = None

    def client(self) -> httpx.AsyncClient:
        """A client without limits on connections; proxies of the environment are used except on this machine."""
        return httpx.AsyncClient(
            base_url=f"{self.url}/",
            headers={} if self.key is None else {"Authorization": f"Bearer {self.key}"},
            timeout=None,  # `ask` has one for the whole answer
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=not _is_local(httpx.URL(self.url).host),
        )


def base_url(text: str) -> str:
    """``text`` with ``/v1`` at its end.

    Raises:
        UsageError: MM860, it is not an http or https URL, or it holds a password.
    """
    try:
        url = httpx.URL(text)
        good = (
            url.scheme in ("http", "https") and url.host and not (url.userinfo or url.query or url.fragment)
        )
        url.host.encode("idna")  # as the look-up of its address does, which would fail with this error
    except (httpx.InvalidURL, UnicodeError):
        good = False
    if not good:
        raise UsageError(
            f"`{text}` is not the URL of a server",
            code="MM860",
            hint="give one such as `--url http://localhost:8000`; a key goes into `--api-key-file`",
        )
    bare = text.rstrip("/")
    return bare if bare.endswith("/v1") else f"{bare}/v1"


def read_key(path: Path) -> str:
    """The API key in a file that holds nothing else.

    Raises:
        ServerError: MM863, the file cannot be read or holds no key.
    """
    try:
        key = read_file(path, _LONGEST_KEY).strip()
    except FileRefusedError as error:
        problem = error.problem
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    else:
        if key and all(0x21 <= byte <= 0x7E for byte in key):
            return key.decode("ascii")
        problem = "does not hold one key: a line of printable ASCII characters without spaces"
    raise ServerError(f"`{path}` {problem}", code="MM863", hint="write only the key to the file")


def target_of(server: Server) -> dict[str, Any]:
    """The ``target`` of a result: everything but the key."""
    facts = {"url": server.url, "model": server.model, "version": server.version, "timeout": server.timeout}
    return {"kind": "server", "name": str(server.model), **facts}


def identify(server: Server) -> Server:
    """``server`` with its model and, where it reports them, its version and the length of its answers.

    Raises:
        ServerError: MM861, it does not answer, or serves no model or several.
    """
    with httpx.Client(
        headers={} if server.key is None else {"Authorization": f"Bearer {server.key}"},
        timeout=_LOOKUP_SECONDS,
        trust_env=not _is_local(httpx.URL(server.url).host),
    ) as http:
        entry = {"id": server.model} if server.model else _only_model(server, _listed(http, server))
        most = entry.get("max_output_len")
        most_tokens = most if type(most) is int and most > 0 else None
        return replace(server, model=entry["id"], version=_version(http, server), most_tokens=most_tokens)


def _listed(http: httpx.Client, server: Server) -> Any:
    url = f"{server.url}/models"
    try:
        response = http.get(url)
    except httpx.HTTPError as error:
        raise _unusable(
            f"`{url}` does not answer: {error}", "check the URL, and that the server runs"
        ) from None
    try:
        body = parse_json(response.content, SERVER_EVENT)
    except JsonProblemError:
        body = None
    if response.status_code != httpx.codes.OK:
        failure = failure_of("http", body, response.status_code)
        message = f": {failure.message}" if failure.message else ""
        raise _unusable(
            f"`{url}` answers with HTTP {response.status_code}{message}",
            "check the URL and the key; `--model` skips this request",
        )
    return body


def _only_model(server: Server, body: Any) -> Mapping[str, Any]:
    entries = body.get("data") if isinstance(body, Mapping) else None
    models = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    names = [entry.get("id") for entry in models]
    if len(names) != 1 or not isinstance(names[0], str):
        listed = ", ".join(f"`{name}`" for name in names[:5]) or "none"
        raise _unusable(
            f"`{server.url}/models` lists {len(names)} models: {listed}", "choose one with `--model`"
        )
    return models[0]


def _version(http: httpx.Client, server: Server) -> str | None:
    """What vLLM says at ``/version``."""
    try:
        status, body = _get(http, f"{server.url.removesuffix('/v1')}/version")
    except httpx.HTTPError:
        return None
    version = body.get("version") if status == httpx.codes.OK and isinstance(body, Mapping) else None
    return version[:64] if isinstance(version, str) else None


def _get(http: httpx.Client, url: str) -> tuple[int, Any]:
    """Status and JSON of an answer; None instead of what is no JSON, or too long."""
    body = b""
    with http.stream("GET", url) as response:
        for data in response.iter_bytes():
            body += data
            if len(body) > SERVER_EVENT.size:
                break
    try:
        return response.status_code, parse_json(body, SERVER_EVENT)
    except JsonProblemError:
        return response.status_code, None


def _unusable(message: str, hint: str) -> ServerError:
    return ServerError(message, code="MM861", hint=hint)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
