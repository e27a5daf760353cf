"""Settings of the shared store: the configuration section ``store`` and a few environment variables.

Every plan with work to do reads them, so without a shared store this must cost no more than reading one file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import YAML_TEXT
from mmbuild.config.remote_errors import RemoteError

if TYPE_CHECKING:
    from mmbuild.config.model import SharedStoreConfig

URL = "MMBUILD_REMOTE"
PUSH = "MMBUILD_PUSH"
SIGNING_KEY = "MMBUILD_SIGNING_KEY"
"""Variables that override the configuration: the URL or `off`, when to push, and the key (a path or PEM text)."""

_NOT_CI = ("", "0", "false")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the shared store for a run.

    Attributes:
        url: fsspec URL; may contain a password, and is printed only as :attr:`shown`.
        options: Options of the fsspec file system.
        pull: Whether to pull results.
        push: Whether to push results.
        timeout: Timeout of a small request, and of all lookups of a plan together, seconds.
        transfers: Concurrent requests while files are transferred.
        require_signatures: Whether to use only entries signed by a trusted key.
        trusted_keys: Public keys, 32 bytes each.
        signing_key: Path of a private key or its PEM text; empty for none.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    pull: bool = True
    push: bool = False
    timeout: float = 10.0
    transfers: int = 8
    require_signatures: bool = False
    trusted_keys: tuple[bytes, ...] = ()
    signing_key: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """The URL without user, password and query."""
        return _shown_url(self.url)

    def redact(self, text: str) -> str:
        """Return ``text`` without secrets: userinfo and query of the URL, values of options."""
        text = text.replace(self.url, self.shown)
        parts = urlsplit(self.url)
        secrets = {parts.query, parts.password or "", *_texts(self.options)}
        for secret in sorted((item for item in secrets if len(item) >= 6), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def settings(url: str | None = None) -> Settings | None:
    """Return the settings of the configured shared store, or None if there is none.

    Args:
        url: Overrides the configured URL (``cache push --remote URL``).

    Raises:
        RemoteError: MM820, a URL or variable is invalid.
        RecipeError, MmbuildError: The configuration file has errors.
    """
    override = url if url is not None else os.environ.get(URL)
    if override == "off" or (override is None and not _may_be_configured()):
        return None
    config = _configured()
    chosen = override or (config.remote if config is not None else None)
    if not chosen:
        return None
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://.", chosen) or not _has_parts(chosen):
        raise RemoteError(
            f"`{_shown_url(chosen)}` is not a shared store URL",
            code="MM820",
            hint="use a URL such as file:///srv/mmbuild, s3://bucket/path or https://host/path",
        )
    return _settings(chosen, config)


def _has_parts(url: str) -> bool:
    """Whether host and port of ``url`` can be told apart."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _shown_url(url: str) -> str:
    """Return ``url``, which need not be one, without user, password, query and fragment."""
    scheme, mark, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


def _settings(url: str, config: SharedStoreConfig | None) -> Settings:
    push = os.environ.get(PUSH) or (config.push if config is not None else "auto")
    if push not in ("auto", "always", "never"):
        raise RemoteError(f"{PUSH} is `{push}`", code="MM820", hint="set it to `auto`, `always` or `never`")
    pushes = push == "always" or (push == "auto" and os.environ.get("CI", "").lower() not in _NOT_CI)
    key = os.environ.get(SIGNING_KEY, "")
    if config is None:
        return Settings(url, push=pushes, signing_key=key)
    from mmbuild.base.public_keys import public_bytes

    return Settings(
        url,
        options=_expanded(config.options),
        pull=config.pull == "always",
        push=pushes,
        timeout=config.timeout,
        transfers=config.transfers,
        require_signatures=config.require_signatures,
        trusted_keys=tuple(public_bytes(text) for text in config.trusted_keys),
        signing_key=key or (str(config.signing_key) if config.signing_key else ""),
    )


def _may_be_configured() -> bool:
    """Return whether the configuration file could contain the section, without importing YAML."""
    from mmbuild.config.load import config_path

    try:
        return b"store" in read_file(config_path(), YAML_TEXT)
    except OSError:
        return False
    except FileRefusedError:
        return True  # loading it reports the problem


def _configured() -> SharedStoreConfig | None:
    from mmbuild.config.load import load

    return load().store if _may_be_configured() else None


def _expanded(value: Any) -> Any:
    """Expand ``${NAME}`` in strings to a variable, so that tokens need not be written into the file."""
    if isinstance(value, Mapping):
        return {key: _expanded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_expanded(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda match: _variable(match[1]), value)
    return value


def _variable(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise RemoteError(
            f"the configuration's store.options name the variable `{name}`, which is not set",
            code="MM820",
            hint="set it, or set MMBUILD_REMOTE=off to work without the shared store",
        ) from None


def _texts(value: Any) -> list[str]:
    """Return all strings in plain data."""
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []
