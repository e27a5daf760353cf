"""docs/traps.md, from the catalogue of traps in tests/contracts/traps.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmbuild.base.codes import codes

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "tests/contracts/traps.yaml"

HEAD = """\
# Traps

<!-- Written by tools/make_docs.py from tests/contracts/traps.yaml; change the entries there. -->

Ways in which a multimodal build with TensorRT-LLM fails late, or comes out silently wrong, and what mmbuild does
about each. 1 to 34 were found in the sources of TensorRT-LLM, the others in issues. Each is held by tests that are
named in [the catalogue](../tests/contracts/traps.yaml), with where it is known from; the codes are explained in
[diagnostics.md](diagnostics.md). No TensorRT-LLM command was executed for this.

- recipe: found in what a user writes, by `mmbuild validate` and `plan`, before any work
- product: found in what a command left or said, right after it
- construction: cannot happen, because mmbuild writes the command; held over every recipe and drawn ones
- environment: found by `mmbuild doctor`, and by `apply` before it downloads anything

| | trap | toolchains | found as | codes |
|---|---|---|---|---|
"""


def traps() -> list[Mapping[str, Any]]:
    """Every entry."""
    found: list[Mapping[str, Any]] = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    return found


def trap_page() -> str:
    """docs/traps.md."""
    return HEAD + "".join(_rows())


def _rows() -> Iterator[str]:
    for trap in traps():
        cells = (
            str(trap["id"]),
            trap["trap"],
            ", ".join(f"`{version}`" for version in trap.get("toolchains", ())) or "all",
            ", ".join(trap["kind"]),
            ", ".join(f"[{code}](diagnostics.md#{_anchor(code)})" for code in trap.get("codes", ())),
        )
        yield f"| {' | '.join(cells)} |\n"


def _anchor(code: str) -> str:
    """The heading's anchor as Markdown viewers make it."""
    heading = f"{code}: {codes()[code].title}".lower()
    return "".join(
        letter if letter.isalnum() or letter in "-_" else "-" if letter == " " else "" for letter in heading
    )
