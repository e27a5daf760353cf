"""The tables of docs/toolchains.md that follow from the files of the versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mmbuild.backends.tensorrt_llm.toolchains.gpu_formats import tables
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.memory_model import Factors, Table, table
from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

BEGIN = "<!-- {name}: written by tools/make_docs.py -->"
END = "<!-- end -->"
_ANY_SM = 199


def with_tables(page: str) -> str:
    """``page`` with what stands between the marks of each table replaced.

    Raises:
        ValueError: A mark is missing.
    """
    toolchains = [load_toolchain(version) for version in SUPPORTED]
    written = {
        "versions": _versions(toolchains),
        "refusals": _refusals(toolchains),
        "gpus": _gpus(),
        "packing": _packing(),
        "memory": _memory(),
    }
    for name, rows in written.items():
        page = replace_table(page, name, rows, "docs/toolchains.md")
    return page


def replace_table(page: str, name: str, rows: Iterable[Sequence[str]], path: str) -> str:
    """``page`` with the table called ``name`` replaced; the first of ``rows`` is its head.

    Raises:
        ValueError: A mark is missing.
    """
    begin = BEGIN.format(name=name)
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{path} lacks `{begin}` ... `{END}`")
    return f"{before}{begin}\n\n{_table(rows)}\n{END}{after}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _versions(toolchains: Sequence[Toolchain]) -> Iterator[Sequence[str]]:
    yield ["toolchain", "example scripts at", "Python", "packages", "what the file was made from"]
    for chain in toolchains:
        packages = ", ".join(
            f"{name} {pin}".strip() for name, pin in chain.pins.items() if name != "tensorrt_llm"
        )
        yield [
            f"`{chain.version}`",
            f"`{chain.source.revision[:12]}`",
            f"`{chain.python}`",
            packages,
            chain.facts,
        ]


def _refusals(toolchains: Sequence[Toolchain]) -> Iterator[Sequence[str]]:
    yield ["code", "families", "what", "toolchains", "evidence"]
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for chain in toolchains:
        for entry in chain.unsupported:
            algorithms = "" if len(entry.algorithms) > 5 else f"{', '.join(entry.algorithms)}: "
            if entry.of_quantizer:
                algorithms = f"{algorithms.removesuffix(': ')} without calibration data: "
            what = algorithms + entry.reason.replace("{{ ", "`").replace(" }}", "`")
            key = (entry.code, ", ".join(entry.families), what, entry.evidence)
            rows.setdefault(key, []).append(f"`{chain.version}`")
    for (code, families, what, evidence), versions in sorted(rows.items()):
        yield [code, families, what, ", ".join(versions), evidence]


def _gpus() -> Iterator[Sequence[str]]:
    yield ["number formats", "toolchains", "SM", "reason", "evidence"]
    for row, versions in _by_row(lambda version: tables(version).gpus):
        yield [
            ", ".join(row.formats) or "all",
            "all" if len(versions) == len(SUPPORTED) else ", ".join(f"`{version}`" for version in versions),
            ", ".join(f"{low}-{high}" if high < _ANY_SM else f"{low} and newer" for low, high in row.sm),
            row.reason.replace("{{ format }}", "the format"),
            row.evidence,
        ]


def _packing() -> Iterator[Sequence[str]]:
    yield ["number formats", "rows and columns on a rank are a multiple of", "evidence"]
    for row, _ in _by_row(lambda version: tables(version).packing):
        yield [", ".join(row.formats), str(row.multiple), row.evidence]


def _memory() -> Iterator[Sequence[str]]:
    yield ["step", "families", "host", "GPU", "how it is known", "evidence"]
    for step in Table.model_fields:
        rows = [row for row, _ in _by_row(lambda version, step=step: getattr(table(version), step))]
        for row in rows:
            families = ", ".join(row.families) or ("the others" if len(rows) > 1 else "all")
            yield [step, families, _sum(row.host), _sum(row.gpu), row.kind, row.evidence]


def _by_row(rows: Callable[[str], Iterable[Any]]) -> Iterable[tuple[Any, list[str]]]:
    """Each row of the versions' tables, with the versions that have it."""
    found: dict[str, tuple[Any, list[str]]] = {}
    for version in SUPPORTED:
        for row in rows(version):
            found.setdefault(repr(row), (row, []))[1].append(version)
    return found.values()


def _sum(factors: Factors) -> str:
    words = {
        "model": "the model as it is loaded",
        "checkpoint": "the checkpoint",
        "rank": "the checkpoint of one rank",
        "tower": "the tower in float16",
    }
    parts = [f"{factors['base'] / 1e9:g} GB"] if "base" in factors else []
    parts += [f"{factor:g} x {words[name]}" for name, factor in factors.items() if name in words]
    return " + ".join(parts) or "none"
