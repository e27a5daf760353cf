"""Computes the outputs a command must produce, from the recipe, before it runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmbuild.backends.tensorrt_llm.output_checks.model import (
    Expected,
    ExpectedOutput,
    OutputPart,
    OutputPath,
    PartName,
    Rule,
    rules,
)
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command
from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template import evaluate, fill
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
from mmbuild.schema.resolved import ResolvedRecipe


def expect(command: Command, variant: ResolvedRecipe, toolchain: Toolchain) -> Expected:
    """The output of ``command`` that the recipe requires.

    It depends only on what affects the command's own result: a checkpoint's expectations do not contain lengths.

    Args:
        command: One of :func:`mmbuild.backends.tensorrt_llm.toolchains.commands.commands` of the same variant and
            toolchain.
        variant: The recipe, with the model's facts.
        toolchain: The toolchain of the recipe.
    """
    family, version = variant.facts.family, toolchain.version
    known = variables(variant, toolchain) | {"version": version}
    algorithm = variant.recipe.engine.quantization.algorithm
    # A checkpoint calibrated by mmbuild has one name, whatever the version's quantizer would write.
    known["quant_algos"] = (
        (ALGORITHMS[algorithm].quant_algo,) if known["calibrated"] else rules(version).quant_algos[algorithm]
    )
    parts: dict[PartName, Any] = {"llm": variant.facts.llm}
    if variant.facts.encoder is not None:
        parts["encoder"] = variant.facts.encoder
    matching = [
        rule for rule in rules(version).rules if command.name in rule.commands and family in rule.families
    ]
    places = tuple(_output_path(rule, known | {"part": parts[rule.part]}) for rule in matching)
    ranks = known["tensor_parallel"]
    if not any(rule.ranks or rule.raw or rule.checkpoint for rule in matching):  # no rule checks the LLM
        parts.clear()
        ranks = 1
    return Expected(
        products=command.products,
        places=places,
        parts={
            name: OutputPart(num_hidden_layers=part.num_hidden_layers, mlp_type=part.mlp_type)
            for name, part in parts.items()
        },
        ranks=ranks,
    )


def _output_path(rule: Rule, known: Mapping[str, Any]) -> OutputPath:
    names = {**known, **{name: evaluate(text, known) for name, text in rule.names.items()}}
    ranks = range(names["tensor_parallel"]) if rule.ranks is not None else ()
    return OutputPath(
        directory=fill(rule.directory, names),
        ranks=tuple(fill(rule.ranks or "", {**names, "rank": rank}) for rank in ranks),
        checkpoint=rule.checkpoint and fill(rule.checkpoint, names),
        config=tuple(
            required
            for name, below in rule.config.items()
            for required in _expected_outputs(name, below, names)
        ),
        tensors=rule.tensors,
        raw=rule.raw,
    )


def _expected_outputs(group: str, below: str, names: Mapping[str, Any]) -> Iterator[ExpectedOutput]:
    for item in rules(names["version"]).expectations[group]:
        value = evaluate(item.value, names)
        yield ExpectedOutput(
            key=f"{below}.{item.key}" if below else item.key,
            values=value if isinstance(value, tuple) else (value,),
            begins=item.begins,
            code=item.code,
        )
