"""What differs between two locks, and telling it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbuild.team.lockfile.model import LockError, Lockfile

_SHOWN = 12
_ABSENT = "nothing"
# What follows from the rest: told only where nothing else differs.
_DERIVED = ("variants", "plan")


@dataclass(frozen=True, slots=True)
class LockDifference:
    """One fact.

    Attributes:
        part: Field of the lock.
        name: What it is about, below that.
        locked: What the lock says; None where it says nothing.
        here: What is so now.
    """

    part: str
    name: str
    locked: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.part}: {self.name}: locked {_short(self.locked)}, now {_short(self.here)}"


def differences(locked: Lockfile, here: Lockfile) -> tuple[LockDifference, ...]:
    """All facts that are not the same, by part and name; hashes only where nothing else explains them."""
    then, now = asdict(locked), asdict(here)
    found = [item for part in then for item in _differences(part, then[part], now[part])]
    causes = [item for item in found if item.part not in _DERIVED]
    return tuple(causes or found)


def refuse(path: Path, found: Iterable[LockDifference], *, hint: str) -> LockError:
    """The error that tells them.

    Returns:
        LockError: MM802.
    """
    lines = [str(item) for item in found]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    text = "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *more])
    return LockError(f"what is here is not what `{path}` says:{text}", code="MM802", hint=hint)


def _differences(part: str, then: Any, now: Any) -> list[LockDifference]:
    one, other = _flat(then), _flat(now)
    return [
        LockDifference(part, " ".join(name) or part, one.get(name), other.get(name))
        for name in sorted({**one, **other})
        if one.get(name) != other.get(name)
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
