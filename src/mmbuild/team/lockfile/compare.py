"""Compares two locks and reports the differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import LOCK_TEXT
from mmbuild.base.yaml_nodes import Source
from mmbuild.base.yaml_parser import parse, split_lines
from mmbuild.team.lockfile.model import LockError, Lockfile

_SHOWN = 12
_ABSENT = "nothing"
# Derived from the other parts: reported only if nothing else differs.
_DERIVED = ("variants", "plan")


@dataclass(frozen=True, slots=True)
class LockDifference:
    """A locked fact that has changed.

    Attributes:
        part: Field of the lock.
        name: Path of keys in that field.
        locked: Locked value; None if missing.
        here: Current value; None if missing.
        keys: ``name`` as keys.
    """

    part: str
    name: str
    locked: Any
    here: Any
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.part}: {self.name}: locked {_short(self.locked)}, now {_short(self.here)}"


def differences(locked: Lockfile, here: Lockfile) -> tuple[LockDifference, ...]:
    """Return all facts that differ, by part and name; hashes only if nothing else explains them."""
    then, now = asdict(locked), asdict(here)
    changed = [difference for part in then for difference in _differences(part, then[part], now[part])]
    causes = [difference for difference in changed if difference.part not in _DERIVED]
    return tuple(causes or changed)


def is_explained(changed: Iterable[LockDifference]) -> bool:
    """Whether the differences include a cause, not only hashes of the plan."""
    return any(difference.part not in _DERIVED for difference in changed)


def refuse(path: Path, changed: Iterable[LockDifference], *, hint: str) -> LockError:
    """Return the error (MM802) that lists the differences."""
    lines = [f"{place_in(path, difference)}{difference}" for difference in changed]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    text = "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *more])
    return LockError(f"the current state differs from `{path}`:{text}", code="MM802", hint=hint)


def place_in(path: Path, difference: LockDifference) -> str:
    """``FILE:LINE: `` of the fact in the lock; empty if the lock does not have it."""
    try:
        text = read_file(path, LOCK_TEXT).decode()
    except (OSError, FileRefusedError, UnicodeDecodeError):
        return ""
    node, _ = parse(Source(str(path), split_lines(text)))
    for key in (difference.part, *difference.keys):
        node = node.value.get(key) if node is not None and isinstance(node.value, Mapping) else None
    return "" if node is None or node.key is None else f"{path}:{node.key.line}: "


def _differences(part: str, then: Any, now: Any) -> list[LockDifference]:
    before, after = _flat(then), _flat(now)
    return [
        LockDifference(part, " ".join(name) or part, before.get(name), after.get(name), name)
        for name in sorted({**before, **after})
        if before.get(name) != after.get(name)
    ]


def _flat(value: Any, name: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {
        key: leaf for word, below in value.items() for key, leaf in _flat(below, (*name, str(word))).items()
    }


def _short(value: Any) -> str:
    if value is None:
        return _ABSENT
    text = str(value)
    return text[:12] if len(text) >= 40 and set(text) <= set("0123456789abcdef") else text
