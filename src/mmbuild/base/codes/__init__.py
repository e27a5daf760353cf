"""The codes of everything mmbuild says is wrong: ``MMnnn`` with title, symptom, cause and cure.

One YAML file for each part of the tool, merged into one table. ``mmbuild explain`` prints an entry and
``docs/diagnostics.md`` lists them all. Importing this package reads nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import yaml

from mmbuild.base.optional_packages import expand

_FIELDS = ("title", "symptom", "cause", "cure")


@dataclass(frozen=True, slots=True)
class Code:
    """One entry.

    Attributes:
        code: ``MM`` and three digits; stable across releases.
        title: What it is called, a few words.
        symptom: What a person sees.
        cause: Why that happens.
        cure: What to do. In the file, ``{install torch}`` stands for how to install an extra.
    """

    code: str
    title: str
    symptom: str
    cause: str
    cure: str


@cache
def codes() -> Mapping[str, Code]:
    """Every code, in order.

    Raises:
        ValueError: Two files define one code, or an entry lacks a field (a mistake of ours, found by tests).
    """
    table: dict[str, Code] = {}
    for file in sorted(files("mmbuild.base.codes").iterdir(), key=lambda item: item.name):
        if not file.name.endswith(".yaml"):
            continue
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        for code, entry in yaml.load(file.read_text(encoding="utf-8"), Loader=loader).items():
            if code in table:
                raise ValueError(f"{code} is defined twice, the second time in {file.name}")
            if set(entry) != set(_FIELDS):
                raise ValueError(f"{code} in {file.name} needs exactly {', '.join(_FIELDS)}")
            table[code] = Code(code, *(expand(" ".join(str(entry[field]).split())) for field in _FIELDS))
    return MappingProxyType(dict(sorted(table.items())))


def lookup(code: str) -> Code | None:
    """The entry of ``code`` (any letter case), or None."""
    return codes().get(code.strip().upper())


def nearest(code: str) -> str | None:
    """The code that looks most like ``code``, or None."""
    expected = code.strip().upper()
    if expected.isdigit():
        expected = f"MM{expected}"
    begun = [known for known in codes() if known.startswith(expected)]
    found = begun or difflib.get_close_matches(expected, list(codes()), n=1)
    return found[0] if found else None
