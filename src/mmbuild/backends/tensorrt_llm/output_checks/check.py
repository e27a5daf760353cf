"""The findings of one command: everything it left, held against what was expected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmbuild.backends.tensorrt_llm.output_checks.config import differences, value_at
from mmbuild.backends.tensorrt_llm.output_checks.errors import ProductError
from mmbuild.backends.tensorrt_llm.output_checks.files import read_header, read_json
from mmbuild.backends.tensorrt_llm.output_checks.model import Expected, OutputPath
from mmbuild.backends.tensorrt_llm.output_checks.ranks import missing_files, missing_source_ranks, stale_ranks
from mmbuild.backends.tensorrt_llm.output_checks.tensors import check_packed, check_raw, check_tensors

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
