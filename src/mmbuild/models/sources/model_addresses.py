"""Recognizes addresses of hub models that are not ``hf://owner/name``, and suggests the correct form."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_NAME = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
# The model's page, or a file or branch below it; ignores query and fragment.
_PAGE = re.compile(rf"(?P<repo>{_NAME})(/(?:tree|blob|resolve|commit|raw)/(?P<revision>[^/?#]+))?([/?#].*)?")
_AT = re.compile(rf"(?P<repo>{_NAME})@(?P<revision>[\w./-]+)")
_REPO = re.compile(_NAME)
_SCHEME = re.compile(r"(hf|https?|huggingface|hub):/{0,2}", re.IGNORECASE)
_SSH = re.compile(r"git@([\w.-]+):")


def hub_address(source: str) -> str | None:
    """A hint with ``source`` as ``hf://owner/name``; None if it is not an address on the hub.

    Recognizes URLs of pages, files and clones on the hub (or on the mirror in ``HF_ENDPOINT``), with or without
    ``https://``, and ``hf:`` forms that include a revision.

    Args:
        source: As written in a recipe.
    """
    found = repository_of(source)
    return None if found is None else _written(*found)


def repository_of(address: str) -> tuple[str, str | None] | None:
    """``owner/name`` and the revision, if it states one, of an address as for :func:`hub_address`; else None."""
    address = _SSH.sub(r"https://\1/", address, count=1)
    scheme = _SCHEME.match(address)
    rest = address[scheme.end() :] if scheme else address
    host = next((host for host in _hosts() if rest.startswith(f"{host}/")), None)
    if host is None and (scheme is None or scheme[1].lower().startswith("http")):
        return None
    path = rest if host is None else rest.removeprefix(f"{host}/")
    if path.startswith(("datasets/", "spaces/")):
        return None
    match = _AT.fullmatch(path) or _PAGE.fullmatch(path.removeprefix("models/"))
    if match is None:
        return None
    # No name on the hub ends with `.git`, but the addresses that people clone do.
    return match["repo"].removesuffix(".git"), None if match["revision"] is None else unquote(
        match["revision"]
    )


def _hosts() -> tuple[str, ...]:
    mirror = os.environ.get("HF_ENDPOINT", "").partition("://")[2].rstrip("/")
    return (*_HOSTS, mirror) if mirror else _HOSTS


def _written(repo: str, revision: str | None) -> str:
    pinned = "" if revision in (None, "main") else f", and `revision: {revision}` below it"
    return f"write `source: hf://{repo}`{pinned}"


def missing_directory(written: str, directory: Path) -> str | None:
    """A hint for a missing directory that looks like a model's name on the hub; else None.

    Args:
        written: As written in the recipe.
        directory: The absolute directory.
    """
    if not _REPO.fullmatch(written) or written.startswith(_hosts()):
        return hub_address(written)
    # `models/llava` next to a directory `models` is more likely a mistyped path.
    if directory.parent.is_dir():
        return None
    return f"for the model on the hub, {_written(written, None)}; a directory is relative to the file that names it"
