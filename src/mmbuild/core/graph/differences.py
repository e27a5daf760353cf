"""What is different between two definitions of an action."""

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
"""Parts of a definition in the order of telling: what the user wrote comes before what follows from it."""

ABSENT: Final = "<absent>"
"""Stands for a value on the side that lacks it; no value of a definition is this very object."""

_DIGESTS = ("sources", "inputs")
_LONGEST = 60
_NAMES = ("name", "directory", "key")
"""Keys that tell the items of a list apart."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

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
        """A sentence without a full stop."""
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
    """Every difference of two definitions (``step``, ``version`` and the parts of :data:`WORDS`)."""
    found: list[Change] = []
    if earlier.get("step") != now["step"]:
        found.append(Change("step", "", earlier.get("step"), now["step"]))
    elif earlier.get("version") != now["version"]:
        found.append(Change("version", now["step"], earlier.get("version"), now["version"]))
    for part in WORDS:
        found += [
            Change(part, path, old, new)
            for path, (old, new) in different(earlier.get(part) or {}, now[part]).items()
        ]
    return found


def different(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Leaves of two nested mappings that differ: dotted path -> (before, now), sorted.

    An int that became a float of the same value differs: the canonical JSON does.
    """
    before, after = flat(earlier), flat(now)
    pairs = {path: (before.get(path, ABSENT), after.get(path, ABSENT)) for path in sorted({*before, *after})}
    return {
        path: (old, new) for path, (old, new) in pairs.items() if old != new or type(old) is not type(new)
    }


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted path. Lists are leaves, and so are empty mappings; but of a list of things with names each has
    its own leaves, and of a command line (``argv``) each option."""
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        opened = _opened(key, item)
        if isinstance(opened, Mapping) and opened:
            leaves.update(flat(opened, f"{prefix}{key}."))
        else:
            leaves[prefix + key] = opened
    return leaves


def _opened(key: str, value: Any) -> Any:
    """A list as the mapping that it stands for, where it does."""
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
    """Option -> its values in one text; ``words`` are those before the first option."""
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
    """A value for a person, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
