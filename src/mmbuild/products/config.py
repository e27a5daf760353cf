"""A config.json held against what the recipe asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbuild.products.errors import ProductError
from mmbuild.products.load import rules
from mmbuild.products.model import Expectation, Group
from mmbuild.toolchains.template import evaluate


def differences(
    path: Path, content: Mapping[str, Any], groups: tuple[Group, ...], names: Mapping[str, Any]
) -> Iterator[ProductError]:
    """One finding for each code whose values differ (MM653 to MM658, MM662); it names all of them.

    Args:
        path: The file that ``content`` was read from, for the message.
        content: The file.
        groups: What is expected, and below which keys.
        names: What expressions may name.
    """
    found: dict[str, list[str]] = {}
    for group in groups:
        for item in rules().expectations[group.group]:
            key = f"{group.below}.{item.key}" if group.below else item.key
            wanted, there = evaluate(item.value, names), value_at(content, key)
            if not _fits(item, there, wanted):
                found.setdefault(item.code, []).append(f"{key} is {_shown(there)}, not {_wanted(wanted)}")
    for code, parts in found.items():
        telling = rules().tellings[code]  # type: ignore[index]  # the keys are the codes of expectations
        yield ProductError(f"{path}: {', '.join(parts)}: {telling.why}", code=code, hint=telling.way)


def value_at(content: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    found: Any = content
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _fits(item: Expectation, there: Any, wanted: Any) -> bool:
    if item.begins:
        return isinstance(there, str) and (there == wanted or there.startswith((f"{wanted}.", f"{wanted}rc")))
    among = wanted if isinstance(wanted, tuple) else (wanted,)
    return there in among


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _wanted(value: Any) -> str:
    among = value if isinstance(value, tuple) else (value,)
    return " or ".join(_shown(item) for item in among)
