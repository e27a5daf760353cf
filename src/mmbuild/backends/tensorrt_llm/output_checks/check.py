"""The findings of one command: everything it left, held against what was expected."""

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
    rules,
    tables,
)


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


def stale_ranks(directory: Path, expected: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM651: files beside ``expected`` that end alike. No command empties its directory."""
    endings = {path.suffix for path in expected}
    others = sorted(
        path.name for path in directory.glob("*") if path.suffix in endings and path not in expected
    )
    if others:
        yield ProductError(
            f"{directory} holds {', '.join(others)} beside the {len(expected)} rank(s) of this build: left over "
            "from an earlier one with more ranks or another name",
            code="MM651",
            hint="Remove the directory and run the command again",
        )


def missing_source_ranks(directory: Path, expected: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM661: ranks that the checkpoint lacked from which an engine was built."""
    missing = [path.name for path in expected if not _has_content(path)]
    if missing:
        yield ProductError(
            f"the engine was built from {directory}, which lacks {', '.join(missing)}: up to 0.10 such ranks get "
            "dummy weights, with a warning and no failure",
            code="MM661",
            hint="Convert again, then empty the engine's directory and build again",
        )


def missing_files(paths: tuple[Path, ...]) -> Iterator[ProductError]:
    """MM650: for each directory, the products that are not there or empty."""
    for directory in dict.fromkeys(path.parent for path in paths):
        gone = [path.name for path in paths if path.parent == directory and not _has_content(path)]
        if gone:
            yield ProductError(
                f"{directory} lacks {', '.join(gone)}, and the command ended without a failure",
                code="MM650",
                hint="Read the command's log for the first error, and run it again",
            )


def _has_content(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


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


_RANK = "rank{rank}.safetensors"


def check(expected: Expected, directory: Path) -> tuple[ProductError, ...]:
    """What is wrong with what a command left; empty where nothing is.

    Call it after a command that ended with 0. Files are read, nothing is changed.

    Args:
        expected: From :func:`mmbuild.backends.tensorrt_llm.output_checks.expectations.expect`.
        directory: The directory that the command ran in.

    Returns:
        Findings, not raised: MM650 a product missing, MM651 ranks of an earlier build, MM652 a config.json that is
        none, MM653 to MM658 and MM662 a value in it, MM659 a broken file, MM660 tensors missing, MM661 an engine
        from a checkpoint that lacks ranks.
    """
    return tuple(_findings(expected, directory))


def _findings(expected: Expected, directory: Path) -> Iterator[ProductError]:
    yield from missing_files(tuple(directory / product for product in expected.products))
    for place in expected.places:
        yield from _check_path(place, expected, directory)


def _check_path(place: OutputPath, expected: Expected, directory: Path) -> Iterator[ProductError]:
    where = directory / place.directory
    if place.checkpoint is not None:
        source = directory / place.checkpoint
        yield from missing_source_ranks(
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
            algorithm = value_at(content, "quantization.quant_algo")
    if place.ranks:
        paths = tuple(where / name for name in place.ranks)
        yield from stale_ranks(where, paths)
        for path in paths:
            yield from _checkpoint_file(path, place, expected, algorithm)
    if place.raw is not None and where.is_dir():
        yield from check_raw(where, place.raw, expected.parts, expected.ranks)


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
        yield from check_tensors(path, header, place.tensors, expected.parts)
        if isinstance(algorithm, str):
            yield from check_packed(path, header, place.tensors, expected.parts, algorithm)
