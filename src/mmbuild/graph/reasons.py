"""Why an action runs: what is different from the last build of the same label."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmbuild.graph.action import Action
from mmbuild.graph.decide import Why
from mmbuild.store.faults import disk_errors
from mmbuild.store.files import write_whole
from mmbuild.store.layout import Store

_PARTS = (
    ("params", "parameter"),
    ("target", "target"),
    ("toolchain", "version of"),
    ("sources", "source"),
    ("inputs", "input"),
)
"""Parts of a definition in the order of telling: what the user wrote comes before what follows from it."""

_DIGESTS = ("sources", "inputs")
_ABSENT = object()


def definition_of(action: Action) -> dict[str, Any]:
    """The content of the definition key as plain data."""
    return {
        "step": action.step,
        "version": action.version,
        **{part: dict(getattr(action, part)) for part, _ in _PARTS},
    }


def remember_definition(store: Store, action: Action) -> None:
    """Keep what a definition key stands for, so that a later plan can say what changed."""
    path = store.definition(action.definition_key)
    if not path.exists():
        with disk_errors(path):
            write_whole(path, json.dumps(definition_of(action)).encode())


def reasons_from(store: Store) -> Why:
    """A function that tells why an action runs, reading earlier definitions from the store."""

    def why(action: Action, last: str | None) -> str:
        if last is None:
            return "never built"
        if last == action.definition_key:
            return "an input came out different from the last build"
        earlier = _read_definition(store, last)
        if earlier is None:
            return "its definition changed"
        return difference(earlier, definition_of(action))

    return why


def difference(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference of two definitions in one sentence, with a count of the others."""
    found: list[str] = []
    if earlier.get("step") != now["step"]:
        found.append(f"step changed from {earlier.get('step')} to {now['step']}")
    elif earlier.get("version") != now["version"]:
        found.append(
            f"step `{now['step']}` changed from version {earlier.get('version')} to {now['version']}"
        )
    for part, word in _PARTS:
        found += _changes(part, word, earlier.get(part) or {}, now[part])
    if not found:
        return "its definition changed"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return found[0] + more


def _changes(part: str, word: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for path in sorted(set(flat := _flatten(now)) | set(before := _flatten(earlier))):
        old, new = before.get(path, _ABSENT), flat.get(path, _ABSENT)
        if old == new and type(old) is type(new):
            continue
        if old is _ABSENT:
            told = "was added" if part in _DIGESTS else f"was added: {_show(new)}"
        elif new is _ABSENT:
            told = "was removed"
        elif part in _DIGESTS:
            told = "changed"
        else:
            told = f"changed from {_show(old)} to {_show(new)}"
        found.append(f"{word} `{path}` {told}")
    return found


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat.update(_flatten(item, f"{prefix}{key}."))
        else:
            flat[prefix + key] = item
    return flat


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_definition(store: Store, key: str) -> Mapping[str, Any] | None:
    try:
        data: Mapping[str, Any] = json.loads(store.definition(key).read_bytes())
    except (OSError, ValueError):
        return None
    return data
