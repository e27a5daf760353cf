"""Reports what a toolchain cannot build, before any work, with the reason and the alternative."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmbuild.backends.tensorrt_llm.toolchains.checkpoint_reader import read_config, release_line
from mmbuild.backends.tensorrt_llm.toolchains.gpu_formats import gpu_objection, multiple_of, unpackable
from mmbuild.backends.tensorrt_llm.toolchains.model import Note, Toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template import fill, holds
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.base.diagnostics import Violation
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.families.facts import ModelFacts
from mmbuild.schema.calibration_rules import is_production_model
from mmbuild.schema.linear_shapes import divides, stacks
from mmbuild.schema.model import WEIGHT_ONLY
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED, ToolchainError

_TOOLCHAIN = "engine.tensorrt_llm.toolchain"
_ALGORITHM = "engine.quantization.algorithm"
_CALIBRATION = "engine.quantization.calibration"
# Recipe keys that determine a key of a checkpoint's config.json.
_BLAMED = {
    "dtype": ("engine.dtype", _ALGORITHM),
    "quantization.group_size": ("engine.quantization.group_size", _ALGORITHM),
}
_WAYS = (1, 2, 4, 8)


def violations(
    variant: ResolvedRecipe, toolchain: Toolchain, *, sm: int | None = None
) -> tuple[Violation, ...]:
    """Why ``toolchain`` cannot build ``variant``, and the recipe keys responsible; empty if it can.

    Args:
        variant: A recipe with all numbers solved; it may still violate schema rules.
        toolchain: A version of TensorRT-LLM.
        sm: Compute capability of the target GPU if the recipe does not set one; None skips GPU checks.
    """
    known = variables(variant, toolchain)
    if known["sm"] is None:
        known["sm"] = sm
    problems = [
        *_unsupported(known, toolchain),
        *_gpu(known, toolchain),
        *_packing(variant, toolchain, known),
    ]
    if not problems:
        problems += [
            *_unreadable(variant, toolchain),
            *_permuted(variant),
            *_rotary(variant, toolchain, known),
        ]
    return tuple(
        Violation(
            item.code,
            (*item.blame, _TOOLCHAIN),
            f"TensorRT-LLM {toolchain.version}: {item.message}",
            item.hint,
        )
        for item in problems
    )


def refusals(
    variant: ResolvedRecipe, toolchain: Toolchain, *, sm: int | None = None
) -> tuple[ToolchainError, ...]:
    """:func:`violations` as errors that name the variant.

    The errors are MM603 (quantization), MM604 (a model in this form), MM605 (a number beyond a limit of the version),
    MM606 (int8 or int4 with calibration data), MM169 (a quantized checkpoint that the version is not known to read),
    MM640 (an unsupported GPU) and MM641 (a layer that cannot be packed).
    """
    return tuple(
        ToolchainError(f"{variant.name} with {fault.message}", code=fault.code, hint=fault.hint)
        for fault in violations(variant, toolchain, sm=sm)
    )


def _unsupported(known: Mapping[str, Any], toolchain: Toolchain) -> Iterator[Violation]:
    family, algorithm = known["family"], known["algorithm"]
    for entry in toolchain.unsupported:
        if entry.of_quantizer and known["calibrated"]:
            continue
        if family in entry.families and algorithm in entry.algorithms and holds(entry.when, known):
            yield Violation(entry.code, entry.blame, fill(entry.reason, known), fill(entry.hint, known))


def _gpu(known: Mapping[str, Any], toolchain: Toolchain) -> Iterator[Violation]:
    sm, formats = known["sm"], (known["algorithm"], known["dtype"])
    objection = gpu_objection(toolchain.version, formats, sm) if sm is not None else None
    if objection is not None:
        reason, hint, culprit = objection
        blame = {None: (), known["dtype"]: ("engine.dtype",)}.get(culprit, (_ALGORITHM,))
        yield Violation("MM640", ("target.sm", *blame), f"{reason}, and the engine is for SM {sm}", hint)


def _packing(variant: ResolvedRecipe, toolchain: Toolchain, known: Mapping[str, Any]) -> Iterator[Violation]:
    facts, algorithm, ranks = variant.facts, known["algorithm"], known["tensor_parallel"]
    layers = unpackable(toolchain.version, facts, algorithm, ranks)
    if not layers:
        return
    sizes = ", ".join(f"{layer.name} {layer.outputs} x {layer.inputs}" for layer in layers)
    possible = [
        str(ways)
        for ways in _WAYS
        if _divides(facts, ways) and not unpackable(toolchain.version, facts, algorithm, ways)
    ]
    yield Violation(
        "MM641",
        ("engine.tensor_parallel", _ALGORITHM),
        f"{algorithm} weights are packed in blocks of {multiple_of(toolchain.version, algorithm)} rows and "
        f"columns, which do not divide {sizes} on {ranks} rank(s)",
        f"set engine.tensor_parallel to {', '.join(possible)}"
        if possible
        else "set engine.quantization to none",
    )


def _unreadable(variant: ResolvedRecipe, toolchain: Toolchain) -> Iterator[Violation]:
    """Keys of a calibrated checkpoint's config.json that the version's checkpoint reader rejects."""
    engine = variant.recipe.engine
    how = ALGORITHMS.get(engine.quantization.algorithm)
    if how is None:
        return
    group = (engine.quantization.group_size or 128) if how.grouped else None
    planned = CheckpointConfig(
        variant.facts.llm, engine.dtype.value, engine.tensor_parallel, how.quant_algo, group
    )
    config = to_json(planned)
    others = [line for line in SUPPORTED if not read_config(line, config)]
    for item in read_config(toolchain.version, config):
        yield Violation(
            "MM169",
            _BLAMED.get(item.key, (_ALGORITHM,)),
            f"its checkpoint reader does not accept `{item.key}`: {item.why}",
            f"use toolchain {' or '.join(map(repr, others))}"
            if others
            else "set engine.dtype to float16 or bfloat16"
            if item.key == "dtype"
            else "set engine.quantization to int8 or int4",
        )


def _rotary(variant: ResolvedRecipe, toolchain: Toolchain, known: Mapping[str, Any]) -> Iterator[Violation]:
    """Rotary settings that the version's own converter would misread from config.json.

    It uses transformers < 5, which reads the base only from ``rope_theta`` and ignores ``rope_parameters``.
    """
    llm = variant.facts.llm
    if llm.rotary_base is None or known["calibrated"]:
        return
    text = _decoder_config(variant.configs["model"])
    base = float(text.get("rope_theta") or _OLD_BASE)
    if base != llm.rotary_base:
        yield Violation(
            "MM604",
            ("model.source",),
            f"its converter reads the rotary base only from `rope_theta`, which gives {base:g}, "
            f"but the model's is {llm.rotary_base:g}",
            f"add `rope_theta: {llm.rotary_base:g}` to the decoder's config in config.json",
        )
    line, scaling = release_line(toolchain.version), llm.rotary_scaling
    if scaling is None:
        return
    written = text.get("rope_scaling") or {}
    kind = scaling["rope_type"]
    if kind not in line.rotary_kinds:
        reason = (
            f"it supports the rope scaling types {', '.join(line.rotary_kinds)}, but the model's is `{kind}`"
        )
        yield Violation("MM604", ("model.source",), reason, "set engine.backend to torch")
    elif line.reads_type_only and "type" not in written:
        yield Violation(
            "MM604",
            ("model.source",),
            "its converter reads the type of rope scaling from `rope_scaling.type`, which config.json does not have",
            f"add `type: {kind}` to `rope_scaling` in config.json, with the values of `rope_parameters`",
        )


_OLD_BASE = 10000.0


def _decoder_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of ``config.json`` that describes the decoder: LLaVA's, VILA-1.5's, else all of it."""
    for key in ("text_config", "llm_cfg"):
        section = config.get(key)
        if isinstance(section, Mapping):
            return section
    return config


def _permuted(variant: ResolvedRecipe) -> Iterator[Violation]:
    """Calibration data for weights whose layout only the version's converters can write."""
    quantization = variant.recipe.engine.quantization
    if quantization.calibration is not None and quantization.algorithm in WEIGHT_ONLY:
        name = quantization.algorithm.value
        yield Violation(
            "MM606",
            (_CALIBRATION,),
            f"its converter permutes {name} weights for one GPU architecture, and would misread the plain ones that "
            "mmbuild calibrates",
            f"remove {_CALIBRATION}, or set engine.backend to torch",
        )


def _divides(facts: ModelFacts, ranks: int) -> bool:
    return all(divides(llm, ranks) for llm in stacks(facts))


def cautions(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[Violation, ...]:
    """Warnings to report before anything runs: MM642 (notes), MM175 (calibration on text)."""
    warnings = tuple(
        Violation(
            "MM642",
            (note.warn,),
            f"TensorRT-LLM {toolchain.version}: {text.removesuffix('.')}",
            severity="warning",
        )
        for note, text in _matching_notes(variant, toolchain)
        if note.warn is not None
    )
    return (*warnings, *_text_only(variant, toolchain))


def _text_only(variant: ResolvedRecipe, toolchain: Toolchain) -> Iterator[Violation]:
    """MM175: the version's own quantizer calibrates a vision-language model without images."""
    recipe, quantization = variant.recipe, variant.recipe.engine.quantization
    if quantization.algorithm not in ALGORITHMS or quantization.calibration is not None:
        return
    if is_production_model(recipe, variant.facts) and not violations(variant, toolchain):
        yield Violation(
            "MM175",
            (_ALGORITHM,),
            f"TensorRT-LLM {toolchain.version}: its own quantizer calibrates {quantization.algorithm} on text, so "
            f"`{recipe.model.source}` would see no images",
            f"list images and prompts in {_CALIBRATION}.data; mmbuild then calibrates",
            severity="warning",
        )


def notes(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[str, ...]:
    """Notes for readers of the commands for ``variant``."""
    return tuple(text for _, text in _matching_notes(variant, toolchain))


def _matching_notes(variant: ResolvedRecipe, toolchain: Toolchain) -> Iterator[tuple[Note, str]]:
    known = variables(variant, toolchain)
    for note in toolchain.notes:
        if known["family"] in note.families and holds(note.when, known):
            yield note, fill(note.text, known)
