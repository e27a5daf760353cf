"""Which tensors a checkpoint holds, by the headers of its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mmbuild.backends.tensorrt_llm.output_checks.errors import ProductError
from mmbuild.backends.tensorrt_llm.output_checks.files import Stored
from mmbuild.backends.tensorrt_llm.output_checks.load import tables
from mmbuild.backends.tensorrt_llm.output_checks.model import Names, OutputPart, PartName

_SHOWN = 3

Parts = Mapping[PartName, OutputPart]


def check_tensors(
    path: Path, header: Mapping[str, Stored], table: str, parts: Parts
) -> Iterator[ProductError]:
    """MM660: what ``table`` lists and a rank's file lacks.

    Args:
        path: The file, for the message.
        header: Its tensors.
        table: Name of a table in ``tensors.yaml``.
        parts: Facts of the model's parts.
    """
    gone = [name for name in expected_names(table, parts, 1) if name not in header]
    if gone:
        yield _missing_tensors(path, gone, "tensors")


def check_packed(
    path: Path, header: Mapping[str, Stored], table: str, parts: Parts, algorithm: str
) -> Iterator[ProductError]:
    """MM657: layers that config.json calls ``algorithm`` and that lie there unpacked or without scales."""
    ending = tables().scales.get(algorithm)
    if ending is None:
        return
    plain = []
    for item in tables().tables[table]:
        linears = item.linears + (item.gated_linears if _gated(item, parts) else ())
        for linear in _filled(linears, parts[item.part].num_hidden_layers, 1):
            weight = header.get(f"{linear}.weight")
            if weight is None:
                continue  # MM660 tells of it
            if weight.dtype not in tables().packed or f"{linear}.{ending}" not in header:
                plain.append(linear)
    if plain:
        yield ProductError(
            f"{path}: {_some(plain)} not {algorithm}, which config.json beside it says: weights are plain or their "
            f"`{ending}` is missing",
            code="MM657",
            hint="Empty the directory and convert again with the command as mmbuild shows it",
        )


def check_raw(directory: Path, table: str, parts: Parts, ranks: int) -> Iterator[ProductError]:
    """MM660: raw files that ``table`` lists and ``directory`` lacks, or that are empty."""
    there = {item.name for item in directory.glob("*.bin") if item.stat().st_size > 0}
    gone = [name for name in expected_names(table, parts, ranks) if name not in there]
    if gone:
        yield _missing_tensors(directory, gone, "raw tensors")


def expected_names(table: str, parts: Parts, ranks: int) -> tuple[str, ...]:
    """Names that ``table`` lists for a model of these parts, each once."""
    found: dict[str, None] = {}
    for item in tables().tables[table]:
        patterns = item.names + (item.gated if _gated(item, parts) else ())
        found |= dict.fromkeys(_filled(patterns, parts[item.part].num_hidden_layers, ranks))
    return tuple(found)


def _gated(item: Names, parts: Parts) -> bool:
    return parts[item.part].mlp_type == "GatedMLP"


def _filled(patterns: tuple[str, ...], layers: int, ranks: int) -> Iterator[str]:
    for pattern in patterns:
        for layer in range(layers if "{layer}" in pattern else 1):
            for rank in range(ranks if "{rank}" in pattern else 1):
                yield pattern.format(layer=layer, rank=rank)


def _missing_tensors(path: Path, gone: list[str], what: str) -> ProductError:
    return ProductError(
        f"{path} lacks {len(gone)} of its {what}: {_some(gone)}; "
        "a converter's worker failed, or it read another model",
        code="MM660",
        hint="Look for tracebacks in the converter's log, remove the directory, and convert again",
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
