"""What is published for an action: its result, what it cost, where it was made, and signatures over that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild.canonical import canonical_json
from mmbuild.graph.elsewhere import Shared
from mmbuild.remote.place import is_digest
from mmbuild.store.journal import Record

ENTRY = 1
"""Version of the form below; raised when a field changes its meaning."""

_DIGESTS = ("key", "definition", "artifact", "body")
_NUMBERS = ("size", "seconds", "memory", "at")
_TEXTS = ("label", "host")
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Signature:
    """Who vouches: the public key and the signature, both as text (see :mod:`mmbuild.remote.signatures`)."""

    key: str
    signature: str


def entry_json(record: Record, *, reference: bool) -> dict[str, Any]:
    """``record`` as it is published, without signatures.

    ``{"entry": 1, "key", "definition", "body", "artifact": digests, "inputs": {name: digest}, "label", "host",
    "size": bytes, "seconds", "memory": bytes, "at": seconds since the epoch, "reference"}``; ``reference`` says that
    the artifact is made of files of the user, which are not published.
    """
    return {
        "entry": ENTRY,
        "key": record.key,
        "definition": record.definition,
        "body": record.body,
        "artifact": record.digest,
        "inputs": dict(record.inputs),
        "label": record.label,
        "host": record.host,
        "size": record.size,
        "seconds": record.seconds,
        "memory": record.memory,
        "at": record.at,
        "reference": reference,
    }


def entry_text(entry: Mapping[str, Any], signatures: tuple[Signature, ...] = ()) -> bytes:
    """The file: canonical JSON of the entry with its signatures."""
    signed = [{"key": item.key, "signature": item.signature} for item in signatures]
    return canonical_json({**entry, "signatures": signed}) + b"\n"


def signed_text(entry: Mapping[str, Any]) -> bytes:
    """What signatures are over: canonical JSON of all but them."""
    return canonical_json({key: value for key, value in entry.items() if key != "signatures"})


def parse_entry(text: bytes, key: str) -> tuple[Shared, dict[str, Any], tuple[Signature, ...]]:
    """Read a published entry.

    Args:
        text: The file.
        key: The action key that was asked for.

    Returns:
        The result, the entry as it stands without its signatures, and those.

    Raises:
        ValueError: It is damaged, of another version, or for another key.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("entry") != ENTRY:
        raise ValueError("it is no entry of a version that this mmbuild knows")
    if data.get("key") != key:
        raise ValueError("it is the entry of another action")
    _check(data)
    signatures = tuple(Signature(str(item["key"]), str(item["signature"])) for item in _list(data))
    entry = {name: value for name, value in data.items() if name != "signatures"}
    record = Record(
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
    return Shared(record, reference=data["reference"]), entry, signatures


def _check(data: Mapping[str, Any]) -> None:
    inputs = data.get("inputs")
    good = (
        all(is_digest(data.get(name)) for name in _DIGESTS)
        and all(type(data.get(name)) in (int, float) for name in _NUMBERS)
        and all(isinstance(data.get(name), str) and len(data[name]) <= _LONGEST for name in _TEXTS)
        and isinstance(inputs, dict)
        and all(is_digest(digest) for digest in inputs.values())
        and isinstance(data.get("reference"), bool)
    )
    if not good:
        raise ValueError("a field is missing or of another kind")


def _list(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = data.get("signatures", [])
    if not isinstance(found, list) or not all(
        isinstance(item, dict) and {"key", "signature"} <= item.keys() for item in found
    ):
        raise ValueError("its signatures are damaged")
    return found
