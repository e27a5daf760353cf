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

How a multimodal build with TensorRT-LLM can fail late, or silently give a wrong result, and what mmbuild does about
it. Numbers 1 to 34 were found in the sources of TensorRT-LLM, the others in issues. [The
catalogue](../tests/contracts/traps.yaml) lists the source of each and the tests for it; the codes are explained in
[diagnostics.md](diagnostics.md). No TensorRT-LLM command was executed for this.

- recipe: found in the recipe by `mmbuild validate` and `plan`, before any work
- product: found in the files or the output of a command, right after it ran
- construction: cannot happen, because mmbuild writes the command; tested with every recipe and with random ones
- environment: found by `mmbuild doctor`, and by `apply` before it downloads anything

| | trap | toolchains | found in | codes |
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
