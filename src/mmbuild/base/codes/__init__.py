"""Table of diagnostic codes: ``MMnnn`` with title, symptom, cause and cure.

Each part of the tool has one YAML file; they are merged into one table. ``mmbuild explain`` prints an entry and
``docs/diagnostics.md`` lists them all. Importing this package reads no file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import yaml

from mmbuild.base.optional_packages import expand

_COMPLETE = re.compile(r"MM\d{3}")
_FIELDS = ("title", "symptom", "cause", "cure")


@dataclass(frozen=True, slots=True)
class Code:
    """Entry of the table.

    Attributes:
        code: ``MM`` and three digits; stable across releases.
        title: Name of the problem, a few words.
        symptom: What the user sees.
        cause: Why it happens.
        cure: What to do. In the file, ``{install torch}`` expands to the command that installs an extra.
    """

    code: str
    title: str
    symptom: str
    cause: str
    cure: str


@cache
def codes() -> Mapping[str, Code]:
    """Return every entry, sorted by code.

    Raises:
        ValueError: Two files define the same code, or an entry has missing or unknown fields (a bug; tests catch it).
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
    """Return the entry of ``code`` (in any letter case), or None."""
    return codes().get(code.strip().upper())


def nearest(code: str) -> str | None:
    """Return the existing code closest to ``code``, or None."""
    expected = code.strip().upper()
    if expected.isdigit():
        expected = f"MM{expected}"
    if _COMPLETE.fullmatch(expected):  # a code of no entry: a similar number is about something else
        return expected if expected in codes() else None
    completions = [known for known in codes() if known.startswith(expected)]
    matches = completions or difflib.get_close_matches(expected, list(codes()), n=1)
    return matches[0] if matches else None
