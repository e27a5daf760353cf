"""Command lines read strictly, by flags recorded as data in tests/contracts/.

Nothing of argparse's kindness: no abbreviations, no flag twice, no positional arguments.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONTRACTS = Path(__file__).parents[2] / "contracts"
Flags = Mapping[str, Mapping[str, Any]]


class RejectedError(Exception):
    """A command line that the recorded flags do not allow."""


def contract(version: str) -> Mapping[str, Flags]:
    """Flags of every command of ``version``, by script (below the checkout) or program."""
    content: dict[str, Flags] = json.loads((CONTRACTS / f"{version}.json").read_text("utf-8"))["commands"]
    return content


def program(argv: Sequence[str], workdir: str) -> tuple[str, Sequence[str], int]:
    """Which recorded command ``argv`` calls, with what, and on how many ranks."""
    ranks = 1
    if argv[0] == "mpirun":
        if argv[1] != "-n" or argv[3] != "--allow-run-as-root":
            raise RejectedError(f"mpirun: {argv[:4]}")
        ranks, argv = int(argv[2]), argv[4:]
    if argv[0] == "python":
        return posixpath.normpath(posixpath.join(workdir, argv[1])), argv[2:], ranks
    return argv[0], argv[1:], ranks


def parse(flags: Flags, arguments: Sequence[str]) -> dict[str, Any]:
    """Values by the flag's first name; True for flags without a value.

    Raises:
        RejectedError: Unknown or repeated flag, missing or superfluous value, wrong type or choice, missing flag.
    """
    names = {name: (row, key.split()[0]) for key, row in flags.items() for name in key.split()}
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        name, joined, value = token.partition("=")
        if not token.startswith("-") or name not in names:
            raise RejectedError(f"`{token}` is no flag")
        row, key = names[name]
        if key in found:
            raise RejectedError(f"`{name}` is given twice")
        following = [value] if joined else _values(row, rest)
        found[key] = _read(row, name, following)
    missing = [
        key.split()[0] for key, row in flags.items() if row.get("required") and key.split()[0] not in found
    ]
    if missing:
        raise RejectedError(f"`{missing[0]}` is missing")
    return found


def _values(row: Mapping[str, Any], rest: list[str]) -> list[str]:
    """Takes the values that follow a flag off ``rest``."""
    most = {"flag": 0}.get(row["type"], len(rest) if row.get("nargs") in ("+", "*") else 1)
    taken: list[str] = []
    while rest and len(taken) < most and not rest[0].startswith("-"):
        taken.append(rest.pop(0))
    return taken


def _read(row: Mapping[str, Any], name: str, values: list[str]) -> Any:
    if row["type"] == "flag":
        if values:
            raise RejectedError(f"`{name}` takes no value")
        return True
    if not values:
        if row.get("nargs") in ("?", "*"):
            return True
        raise RejectedError(f"`{name}` lacks a value")
    read = [_convert(row, name, value) for value in values]
    return read if row.get("nargs") in ("+", "*") else read[0]


def _convert(row: Mapping[str, Any], name: str, value: str) -> Any:
    if "choices" in row and value not in map(str, row["choices"]):
        raise RejectedError(f"`{name}` cannot be `{value}`")
    try:
        return {"int": int, "float": float, "str": str}[row["type"]](value)
    except ValueError as error:
        raise RejectedError(f"`{name}` must be {row['type']}, not `{value}`") from error
