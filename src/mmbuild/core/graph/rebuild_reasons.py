"""Reasons why an action runs: what changed since the last build with the same label."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import STORE_NOTE
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.definition_diff import WORDS, changes
from mmbuild.core.graph.planner import Explain
from mmbuild.core.store.atomic_files import write_whole
from mmbuild.core.store.disk_errors import disk_errors
from mmbuild.core.store.layout import Store
from mmbuild.core.store.record_fields import OBJECT, TEXT, FieldKind, require_fields

_DEFINITION: Mapping[str, FieldKind] = {"step": TEXT, "version": TEXT, **dict.fromkeys(WORDS, OBJECT)}


def definition_of(action: Action) -> dict[str, Any]:
    """Return the content of the definition key as plain data."""
    return {
        "step": action.step,
        "version": action.version,
        **{part: dict(getattr(action, part)) for part in WORDS},
    }


def remember_definition(store: Store, action: Action) -> None:
    """Save the content of a definition key, so that a later plan can say what changed."""
    path = store.definition(action.definition_key)
    if not os.path.lexists(path):
        with disk_errors(path):
            write_whole(path, json.dumps(definition_of(action)).encode())


def reasons_from(store: Store) -> Explain:
    """Return a function that says why an action runs, using earlier definitions saved in the store."""

    def explain(action: Action, last: str | None) -> str:
        if last is None:
            return "never built"
        if last == action.definition_key:
            return "an input differs from the last build"
        earlier = read_definition(store, last)
        if earlier is None:
            return "its definition changed"
        return difference(earlier, definition_of(action))

    return explain


def difference(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first difference between two definitions as a sentence, with the number of others."""
    differences = changes(earlier, now)
    if not differences:
        return "its definition changed"
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    return differences[0].text + more


def read_definition(store: Store, key: str) -> Mapping[str, Any] | None:
    """Return the saved content of a definition key, or None if the store does not have it."""
    try:
        return require_fields(read_object(store.definition(key), STORE_NOTE), _DEFINITION)
    except (OSError, ValueError, FileRefusedError):
        return None
