"""Compares the files that a command wrote with the expected ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.backends.tensorrt_llm.output_checks.files import ProductError, Stored, read_header, read_json
from mmbuild.backends.tensorrt_llm.output_checks.model import (
    Code,
    Expected,
    ExpectedOutput,
    Names,
    OutputPart,
    OutputPath,
    PartName,
    explanations,
    tables,
)


def differences(
    path: Path, content: Mapping[str, Any], expected: Sequence[ExpectedOutput]
) -> Iterator[ProductError]:
    """One finding per code (MM653 to MM658, MM662), listing all values with that code that differ.

    Args:
        path: Path of the config.json, for the message.
        content: Its content.
        expected: Expected keys and values.
    """
    mismatches: dict[Code, list[str]] = {}
    for item in expected:
        actual = _value_at(content, item.key)
        if not _matches(item, actual):
            mismatches.setdefault(item.code, []).append(
                f"{item.key} is {_shown(actual)}, not {' or '.join(map(_shown, item.values))}"
            )
    for code, parts in mismatches.items():
        explanation = explanations()[code]
        yield ProductError(f"{path}: {', '.join(parts)}: {explanation.why}", code=code, hint=explanation.hint)


def _value_at(content: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None if it is missing."""
    value: Any = content
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _matches(item: ExpectedOutput, actual: Any) -> bool:
    if item.begins and isinstance(actual, str):
        return any(actual == value or actual.startswith((f"{value}.", f"{value}rc")) for value in item.values)
    return actual in item.values


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _stale_ranks(directory: Path, expected: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM651: other files with the suffixes of ``expected``. No command empties its output directory."""
    suffixes = {path.suffix for path in expected}
    others = sorted(
        path.name for path in directory.glob("*") if path.suffix in suffixes and path not in expected
    )
    if others:
        yield ProductError(
            f"{directory} contains {', '.join(others)} in addition to the {len(expected)} rank(s) of this build: "
            "left over from an earlier build with more ranks or another name",
            code="MM651",
            hint="remove the directory and run the command again",
        )


def _missing_source_ranks(directory: Path, expected: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM661: ranks missing from the checkpoint that an engine was built from."""
    missing = [path.name for path in expected if not _has_content(path)]
    if missing:
        yield ProductError(
            f"the engine was built from {directory}, where {', '.join(missing)} is missing: up to 0.10 such ranks "
            "get dummy weights with only a warning",
            code="MM661",
            hint="convert again, then empty the engine's directory and build again",
        )


def _missing_files(paths: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM650: for each directory, the products that are missing or empty."""
    for directory in dict.fromkeys(path.parent for path in paths):
        missing = [path.name for path in paths if path.parent == directory and not _has_content(path)]
        if missing:
            yield ProductError(
                f"{', '.join(missing)} missing from {directory} although the command succeeded",
                code="MM650",
                hint="look for the first error in the command's log, and run it again",
            )


def _has_content(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


_SHOWN = 3

Parts = Mapping[PartName, OutputPart]


def _check_tensors(
    path: Path, header: Mapping[str, Stored], table: str, parts: Parts
) -> Iterator[ProductError]:
    """MM660: tensors in ``table`` that are missing from a rank's file.

    Args:
        path: The file, for the message.
        header: Its tensors.
        table: Name of a table in ``tensors.yaml``.
        parts: Facts of the model's parts.
    """
    missing = [name for name in _expected_names(table, parts, 1) if name not in header]
    if missing:
        yield _missing_tensors(path, missing, "tensors")


def _check_packed(
    path: Path, header: Mapping[str, Stored], table: str, parts: Parts, algorithm: str
) -> Iterator[ProductError]:
    """MM657: layers that are unpacked or have no scales although config.json says ``algorithm``."""
    suffix = tables().scales.get(algorithm)
    if suffix is None:
        return
    unpacked = []
    for item in tables().tables[table]:
        linears = item.linears + (item.gated_linears if _gated(item, parts) else ())
        for linear in _filled(linears, parts[item.part].num_hidden_layers, 1):
            weight = header.get(f"{linear}.weight")
            if weight is None:
                continue  # reported as MM660
            if weight.dtype not in tables().packed or f"{linear}.{suffix}" not in header:
                unpacked.append(linear)
    if unpacked:
        yield ProductError(
            f"{path}: {_some(unpacked)} not quantized to {algorithm} as config.json says: weights are not packed or "
            f"their `{suffix}` is missing",
            code="MM657",
            hint="empty the directory and convert again with the command that mmbuild shows",
        )


def _check_raw(directory: Path, table: str, parts: Parts, ranks: int) -> Iterator[ProductError]:
    """MM660: raw files in ``table`` that are missing from ``directory`` or empty."""
    existing = {item.name for item in directory.glob("*.bin") if item.stat().st_size > 0}
    missing = [name for name in _expected_names(table, parts, ranks) if name not in existing]
    if missing:
        yield _missing_tensors(directory, missing, "raw tensors")


def _expected_names(table: str, parts: Parts, ranks: int) -> tuple[str, ...]:
    """Names in ``table`` for a model with these parts, without duplicates."""
    names: dict[str, None] = {}
    for item in tables().tables[table]:
        patterns = item.names + (item.gated if _gated(item, parts) else ())
        names |= dict.fromkeys(_filled(patterns, parts[item.part].num_hidden_layers, ranks))
    return tuple(names)


def _gated(item: Names, parts: Parts) -> bool:
    return parts[item.part].mlp_type == "GatedMLP"


def _filled(patterns: tuple[str, ...], layers: int, ranks: int) -> Iterator[str]:
    for pattern in patterns:
        for layer in range(layers if "{layer}" in pattern else 1):
            for rank in range(ranks if "{rank}" in pattern else 1):
                yield pattern.format(layer=layer, rank=rank)


def _missing_tensors(path: Path, names: list[str], kind: str) -> ProductError:
    return ProductError(
        f"{path}: {len(names)} {kind} missing: {_some(names)}; a converter worker failed, or it read another model",
        code="MM660",
        hint="look for tracebacks in the converter's log, remove the directory, and convert again",
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


_RANK = "rank{rank}.safetensors"


def check(expected: Expected, directory: Path) -> tuple[ProductError, ...]:
    """Check the output of a command that exited with 0. Only reads files.

    Args:
        expected: From :func:`mmbuild.backends.tensorrt_llm.output_checks.expectations.expect`.
        directory: Working directory of the command.

    Returns:
        Findings, not raised; empty if all is correct. MM650 a missing product, MM651 ranks of an earlier build, MM652
        an unreadable config.json, MM653 to MM658 and MM662 a wrong value in it, MM659 a broken file, MM660 missing
        tensors, MM661 an engine from a checkpoint with missing ranks.
    """
    return tuple(_findings(expected, directory))


def _findings(expected: Expected, directory: Path) -> Iterator[ProductError]:
    yield from _missing_files(tuple(directory / product for product in expected.products))
    for place in expected.places:
        yield from _check_path(place, expected, directory)


def _check_path(place: OutputPath, expected: Expected, directory: Path) -> Iterator[ProductError]:
    where = directory / place.directory
    if place.checkpoint is not None:
        source = directory / place.checkpoint
        yield from _missing_source_ranks(
            source, tuple(source / _RANK.format(rank=rank) for rank in range(expected.ranks))
        )
    algorithm = None
    config = where / "config.json"
    if place.config and config.is_file() and config.stat().st_size > 0:
        try:
            content = read_json(config)
        except ProductError as error:
            yield error
        else:
            yield from differences(config, content, place.config)
            algorithm = _value_at(content, "quantization.quant_algo")
    if place.ranks:
        paths = tuple(where / name for name in place.ranks)
        yield from _stale_ranks(where, paths)
        for path in paths:
            yield from _checkpoint_file(path, place, expected, algorithm)
    if place.raw is not None and where.is_dir():
        yield from _check_raw(where, place.raw, expected.parts, expected.ranks)


def _checkpoint_file(
    path: Path, place: OutputPath, expected: Expected, algorithm: object
) -> Iterator[ProductError]:
    if path.suffix != ".safetensors" or not path.is_file() or path.stat().st_size == 0:
        return
    try:
        header = read_header(path)
    except ProductError as error:
        yield error
        return
    if place.tensors is not None:
        yield from _check_tensors(path, header, place.tensors, expected.parts)
        if isinstance(algorithm, str):
            yield from _check_packed(path, header, place.tensors, expected.parts, algorithm)
