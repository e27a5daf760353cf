"""The findings of one command: everything it left, held against the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbuild.products.config import differences, value_at
from mmbuild.products.errors import ProductError
from mmbuild.products.files import read_header, read_json
from mmbuild.products.load import rules
from mmbuild.products.model import Rule
from mmbuild.products.ranks import lacking, missing, rank_files, stale
from mmbuild.products.tensors import Parts, packed, raw, tensors
from mmbuild.schema.load import ResolvedRecipe
from mmbuild.toolchains.commands import Command
from mmbuild.toolchains.model import Toolchain
from mmbuild.toolchains.template import evaluate, fill
from mmbuild.toolchains.variables import variables


def check(
    command: Command, variant: ResolvedRecipe, toolchain: Toolchain, directory: Path
) -> tuple[ProductError, ...]:
    """What is wrong with what ``command`` left; empty where nothing is.

    Call it after a command that ended with 0. Files are read, nothing is changed.

    Args:
        command: One of :func:`mmbuild.toolchains.commands.commands` of the same variant and toolchain.
        variant: The recipe, with the model's facts.
        toolchain: The version.
        directory: The directory that the command ran in.

    Returns:
        Findings, not raised: MM650 a product missing, MM651 ranks of an earlier build, MM652 a config.json that is
        none, MM653 to MM658 and MM662 a value in it, MM659 a broken file, MM660 tensors missing, MM661 an engine
        from a checkpoint that lacks ranks.
    """
    return tuple(_findings(command, variant, toolchain, directory))


def _findings(
    command: Command, variant: ResolvedRecipe, toolchain: Toolchain, directory: Path
) -> Iterator[ProductError]:
    yield from missing(tuple(directory / product for product in command.products))
    family = variant.facts.family
    known = variables(variant, toolchain) | {"version": toolchain.version}
    known["quant_algos"] = rules().quant_algos[variant.recipe.engine.quantization.algorithm]
    parts: dict[Any, Any] = {"llm": variant.facts.llm, "encoder": variant.facts.encoder}
    for rule in rules().rules:
        if command.name in rule.commands and family in rule.families and toolchain.version in rule.toolchains:
            names = known | {"part": parts[rule.part]}
            names |= {name: evaluate(text, names) for name, text in rule.names.items()}
            yield from _rule(rule, names, parts, directory)


def _rule(rule: Rule, names: Mapping[str, Any], parts: Parts, directory: Path) -> Iterator[ProductError]:
    place = directory / fill(rule.directory, names)
    if rule.checkpoint is not None:
        source = directory / fill(rule.checkpoint, names)
        yield from lacking(source, rank_files(source, "rank{{ rank }}.safetensors", names))
    algorithm = None
    config = place / "config.json"
    if rule.config and config.is_file() and config.stat().st_size > 0:
        try:
            content = read_json(config)
        except ProductError as error:
            yield error
        else:
            yield from differences(config, content, rule.config, names)
            algorithm = value_at(content, "quantization.quant_algo")
    if rule.ranks is not None:
        expected = rank_files(place, rule.ranks, names)
        yield from stale(place, expected)
        for path in expected:
            yield from _checkpoint_file(path, rule, parts, algorithm)
    if rule.raw is not None and place.is_dir():
        yield from raw(place, rule.raw, parts, names["tensor_parallel"])


def _checkpoint_file(path: Path, rule: Rule, parts: Parts, algorithm: object) -> Iterator[ProductError]:
    if path.suffix != ".safetensors" or not path.is_file() or path.stat().st_size == 0:
        return
    try:
        header = read_header(path)
    except ProductError as error:
        yield error
        return
    if rule.tensors is not None:
        yield from tensors(path, header, rule.tensors, parts)
        if isinstance(algorithm, str):
            yield from packed(path, header, rule.tensors, parts, algorithm)
