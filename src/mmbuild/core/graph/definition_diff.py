"""Differences between two definitions of an action."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

WORDS: Final[Mapping[str, str]] = {
    "params": "parameter",
    "target": "target",
    "toolchain": "version of",
    "sources": "source",
    "inputs": "input",
}
"""Parts of a definition in display order: what the user wrote comes before what is derived from it."""

ABSENT: Final = "<absent>"
"""Placeholder for a missing value; compared by identity, so a definition may contain the same text."""

_DIGESTS = ("sources", "inputs")
_LONGEST = 60
_NAMES = ("name", "directory", "key")
"""Keys that identify the items of a list."""


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between two definitions.

    Attributes:
        part: ``step``, ``version`` (of the step), or one of :data:`WORDS`.
        path: Dotted path within the part; the step's name for ``version``.
        old: Value before, or :data:`ABSENT`.
        new: Value now, or :data:`ABSENT`.
    """

    part: str
    path: str
    old: Any
    new: Any

    @property
    def text(self) -> str:
        """The difference as a sentence without a full stop."""
        if self.part == "step":
            return f"step changed from {self.old} to {self.new}"
        if self.part == "version":
            return f"step `{self.path}` changed from version {self.old} to {self.new}"
        name = f"{WORDS[self.part]} `{self.path}`"
        if self.old is ABSENT:
            return f"{name} was added" + ("" if self.part in _DIGESTS else f": {display(self.new)}")
        if self.new is ABSENT:
            return f"{name} was removed"
        if self.part in _DIGESTS:
            return f"{name} changed"
        return f"{name} changed from {display(self.old)} to {display(self.new)}"


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return every difference between two definitions (``step``, ``version`` and the parts in :data:`WORDS`)."""
    result: list[Change] = []
    if earlier.get("step") != now["step"]:
        result.append(Change("step", "", earlier.get("step"), now["step"]))
    elif earlier.get("version") != now["version"]:
        result.append(Change("version", now["step"], earlier.get("version"), now["version"]))
    for part in WORDS:
        result += [
            Change(part, path, old, new)
            for path, (old, new) in different(earlier.get(part) or {}, now[part]).items()
        ]
    return result


def different(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the leaves that differ between two nested mappings: dotted path -> (before, now), sorted.

    An int and a float of equal value are different, because their canonical JSON is.
    """
    before, after = flat(earlier), flat(now)
    pairs = {path: (before.get(path, ABSENT), after.get(path, ABSENT)) for path in sorted({*before, *after})}
    return {
        path: (old, new) for path, (old, new) in pairs.items() if old != new or type(old) is not type(new)
    }


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return leaves by dotted path.

    Empty mappings and lists are leaves, except that a list of named items is flattened by name and a command line
    (``argv``) by option.
    """
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        expanded = _list_as_mapping(key, item)
        if isinstance(expanded, Mapping) and expanded:
            leaves.update(flat(expanded, f"{prefix}{key}."))
        else:
            leaves[prefix + key] = expanded
    return leaves


def _list_as_mapping(key: str, value: Any) -> Any:
    """Return a command line or a list of named items as a mapping; any other value unchanged."""
    if not isinstance(value, (list, tuple)) or not value:
        return value
    if key == "argv" and all(isinstance(item, str) for item in value):
        return _options(value)
    for name in _NAMES:
        if all(isinstance(item, Mapping) and isinstance(item.get(name), str) for item in value):
            named = {item[name]: {part: item[part] for part in item if part != name} for item in value}
            return named if len(named) == len(value) else value
    return value


def _options(argv: Sequence[str]) -> dict[str, str]:
    """Map each option to its values, joined by spaces; ``words`` holds the words before the first option."""
    options: dict[str, list[str]] = {}
    current = "words"
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit():
            current = name
            options.setdefault(name, []).extend([value] if equals else [])
        else:
            options.setdefault(current, []).append(word)
    return {name: " ".join(values) for name, values in options.items()}


def display(value: Any) -> str:
    """Format a value for display, truncated if it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
