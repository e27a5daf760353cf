"""A config.json held against what the recipe asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.backends.tensorrt_llm.output_checks.errors import ProductError
from mmbuild.backends.tensorrt_llm.output_checks.load import rules
from mmbuild.backends.tensorrt_llm.output_checks.model import Code, ExpectedOutput


def differences(
    path: Path, content: Mapping[str, Any], expected: Sequence[ExpectedOutput]
) -> Iterator[ProductError]:
    """One finding for each code whose values differ (MM653 to MM658, MM662); it names all of them.

    Args:
        path: The file that ``content`` was read from, for the message.
        content: The file.
        expected: Its keys and values.
    """
    found: dict[Code, list[str]] = {}
    for item in expected:
        there = value_at(content, item.key)
        if not _fits(item, there):
            found.setdefault(item.code, []).append(
                f"{item.key} is {_shown(there)}, not {' or '.join(map(_shown, item.values))}"
            )
    for code, parts in found.items():
        telling = rules().tellings[code]
        yield ProductError(f"{path}: {', '.join(parts)}: {telling.why}", code=code, hint=telling.way)


def value_at(content: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    found: Any = content
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _fits(item: ExpectedOutput, there: Any) -> bool:
    if item.begins and isinstance(there, str):
        return any(there == value or there.startswith((f"{value}.", f"{value}rc")) for value in item.values)
    return there in item.values


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
