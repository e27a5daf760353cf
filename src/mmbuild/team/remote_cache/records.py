"""The published form of a result: the artifact, its cost, its origin, and signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.base.canonical_json import canonical_json
from mmbuild.base.field_checks import (
    digest,
    flag,
    inner_path,
    integer,
    list_of,
    mapping_of,
    number,
    record,
    text,
)
from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import SHARED_ENTRY, STORE_TREE
from mmbuild.core.graph.remote_lookup import RemoteResult
from mmbuild.core.store.action_cache import Record
from mmbuild.core.store.manifest import ManifestEntry, Tree, make_tree, tree_json

ENTRY = 1
"""Version of the format below; increased when a field changes its meaning."""

_BYTES = number(0, 1 << 50)
_ENTRY = record(
    {
        "key": digest,
        "definition": digest,
        "artifact": digest,
        "body": digest,
        "inputs": mapping_of(digest, 10_000, key=text(300)),
        "label": text(300),
        "host": text(300),
        "size": _BYTES,
        "seconds": number(0, 1e9),
        "memory": _BYTES,
        "at": number(0, 1e11),
        "reference": flag,
        "signatures": list_of(record({"key": text(300), "signature": text(300)}, closed=False), 100),
    },
    may_lack=("signatures",),
    closed=False,
)
_FILE = record(
    {"path": inner_path, "digest": digest, "size": integer(0, 1 << 50), "executable": flag},
    may_lack=("executable",),
)
_TREE = record({"tree": integer(1, 1), "entries": list_of(_FILE, 1_000_000)})


class EntryError(ValueError):
    """A damaged or malicious entry or manifest in a shared store."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A public key and a signature, both as text (see :mod:`mmbuild.team.remote_cache.signatures`)."""

    key: str
    signature: str


def entry_json(result: Record, *, reference: bool) -> dict[str, Any]:
    """Return the published form of ``result``, without signatures.

    ``{"entry": 1, "key", "definition", "body", "artifact": digests, "inputs": {name: digest}, "label", "host",
    "size": bytes, "seconds", "memory": bytes, "at": seconds since the epoch, "reference"}``; ``reference`` means that
    the artifact consists of references to user files, which are not published.
    """
    return {
        "entry": ENTRY,
        "key": result.key,
        "definition": result.definition,
        "body": result.body,
        "artifact": result.digest,
        "inputs": dict(result.inputs),
        "label": result.label,
        "host": result.host,
        "size": result.size,
        "seconds": result.seconds,
        "memory": result.memory,
        "at": result.at,
        "reference": reference,
    }


def entry_text(entry: Mapping[str, Any], signatures: tuple[Signature, ...] = ()) -> bytes:
    """Return the content of the file: canonical JSON of the entry with its signatures."""
    signed = [{"key": item.key, "signature": item.signature} for item in signatures]
    return canonical_json({**entry, "signatures": signed}) + b"\n"


def signed_text(entry: Mapping[str, Any]) -> bytes:
    """Return the text that is signed: canonical JSON of the entry without signatures."""
    return canonical_json({key: value for key, value in entry.items() if key != "signatures"})


def parse_entry(content: bytes, key: str) -> tuple[RemoteResult, dict[str, Any], tuple[Signature, ...]]:
    """Parse a published entry.

    Args:
        content: The file.
        key: The requested action key.

    Returns:
        The result, the entry without its signatures, and the signatures.

    Raises:
        EntryError: It is damaged, has another version, or belongs to another key.
    """
    try:
        data = parse_json(content, SHARED_ENTRY)
    except JsonProblemError as error:
        raise EntryError(str(error)) from None
    if not isinstance(data, dict) or type(data.get("entry")) is not int or data["entry"] != ENTRY:
        raise EntryError("it is not an entry, or has a version that this mmbuild does not support")
    if data.get("key") != key:
        raise EntryError("it belongs to another action")
    problem = _ENTRY(data, "")
    if problem is not None:
        raise EntryError(problem)
    signatures = tuple(Signature(item["key"], item["signature"]) for item in data.get("signatures", ()))
    entry = {name: value for name, value in data.items() if name != "signatures"}
    result = Record(
        key=key,
        definition=data["definition"],
        inputs=data["inputs"],
        digest=data["artifact"],
        label=data["label"],
        body=data["body"],
        size=int(data["size"]),
        seconds=float(data["seconds"]),
        memory=int(data["memory"]),
        at=float(data["at"]),
        host=data["host"],
    )
    return RemoteResult(result, reference=data["reference"]), entry, signatures


def parse_manifest(content: bytes, name: str) -> Tree:
    """Parse the manifest of a published artifact. It is untrusted, so every name and size is checked.

    Args:
        content: The manifest.
        name: The requested artifact.

    Raises:
        EntryError: The problem, as the end of a sentence whose subject is the manifest.
    """
    from blake3 import blake3

    if blake3(content).hexdigest() != name:
        raise EntryError("is damaged")
    try:
        data = parse_json(content, STORE_TREE)
    except JsonProblemError as error:
        raise EntryError(str(error)) from None
    problem = _TREE(data, "")
    if problem is not None:
        raise EntryError(f"is invalid: {problem}")
    try:
        tree = make_tree(ManifestEntry(**item) for item in data["entries"])
    except ValueError as error:
        raise EntryError(f"is invalid: {error}") from None
    if tree_json(tree) != content:
        raise EntryError("is not in canonical form, so its digest does not match its files")
    return tree
