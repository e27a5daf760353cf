"""What a toolchain cannot build: told before any work, with the reason and what to do instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmbuild.backends.tensorrt_llm.toolchains.gpu_formats import gpu_objection, multiple_of, unpackable
from mmbuild.backends.tensorrt_llm.toolchains.model import Note, Toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template import fill, holds
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.base.diagnostics import Violation
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
from mmbuild.models.checkpoint.config import CheckpointConfig, to_json
from mmbuild.models.checkpoint.reader_compatibility import facts as accepted
from mmbuild.models.checkpoint.reader_compatibility import read_config
from mmbuild.models.families.facts import ModelFacts
from mmbuild.schema import tensorrt_llm_versions
from mmbuild.schema.calibration_rules import is_production_model
from mmbuild.schema.linear_shapes import divides, stacks
from mmbuild.schema.model import WEIGHT_ONLY
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import ToolchainError

_TOOLCHAIN = "engine.tensorrt_llm.toolchain"
_ALGORITHM = "engine.quantization.algorithm"
_CALIBRATION = "engine.quantization.calibration"
# Keys of a checkpoint's config.json, and those of a recipe that they follow from.
_BLAMED = {
    "dtype": ("engine.dtype", _ALGORITHM),
    "quantization.group_size": ("engine.quantization.group_size", _ALGORITHM),
}
_WAYS = (1, 2, 4, 8)


def violations(
    variant: ResolvedRecipe, toolchain: Toolchain, *, sm: int | None = None
) -> tuple[Violation, ...]:
    """Why ``toolchain`` cannot build ``variant``, and the keys to blame; empty where it can.

    Args:
        variant: A recipe with all numbers solved; rules of recipes may still object to it.
        toolchain: A version of TensorRT-LLM.
        sm: Compute capability of the GPU that is to run it, where the recipe states none; None: not looked at.
    """
    known = variables(variant, toolchain)
    if known["sm"] is None:
        known["sm"] = sm
    found = [*_unsupported(known, toolchain), *_gpu(known, toolchain), *_packing(variant, known)]
    if not found:
        found += [*_unread(variant, toolchain), *_permuted(variant), *_rotary(variant, toolchain, known)]
    return tuple(
        Violation(
            item.code,
            (*item.blame, _TOOLCHAIN),
            f"TensorRT-LLM {toolchain.version}: {item.message}",
            item.hint,
        )
        for item in found
    )


def refusals(
    variant: ResolvedRecipe, toolchain: Toolchain, *, sm: int | None = None
) -> tuple[ToolchainError, ...]:
    """:func:`violations` as errors that name the variant.

    The errors are MM603 (quantization), MM604 (a model in this form), MM605 (a number beyond a limit of the version),
    MM606 (int8 or int4 with calibration data), MM169 (a quantized checkpoint that the version is not known to read),
    MM640 (a GPU that does not run it) and MM641 (a layer that cannot be packed).
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
            yield Violation(entry.code, entry.blame, fill(entry.reason, known), fill(entry.way, known))


def _gpu(known: Mapping[str, Any], toolchain: Toolchain) -> Iterator[Violation]:
    sm, formats = known["sm"], (known["algorithm"], known["dtype"])
    objection = gpu_objection(toolchain.version, formats, sm) if sm is not None else None
    if objection is not None:
        reason, way, culprit = objection
        blame = {None: (), known["dtype"]: ("engine.dtype",)}.get(culprit, (_ALGORITHM,))
        yield Violation("MM640", ("target.sm", *blame), f"{reason}, and the engine is for SM {sm}", way)


def _packing(variant: ResolvedRecipe, known: Mapping[str, Any]) -> Iterator[Violation]:
    facts, algorithm, ranks = variant.facts, known["algorithm"], known["tensor_parallel"]
    wrong = unpackable(facts, algorithm, ranks)
    if not wrong:
        return
    sizes = ", ".join(f"{layer.name} {layer.outputs} x {layer.inputs}" for layer in wrong)
    possible = [str(ways) for ways in _WAYS if _whole(facts, ways) and not unpackable(facts, algorithm, ways)]
    yield Violation(
        "MM641",
        ("engine.tensor_parallel", _ALGORITHM),
        f"{algorithm} weights are packed in blocks of {multiple_of(algorithm)} rows and columns, which on "
        f"{ranks} rank(s) do not divide {sizes}",
        f"Set engine.tensor_parallel to {', '.join(possible)}"
        if possible
        else "Set engine.quantization to none",
    )


def _unread(variant: ResolvedRecipe, toolchain: Toolchain) -> Iterator[Violation]:
    """What the version's reader of checkpoints would not take of a calibrated one."""
    engine = variant.recipe.engine
    how = ALGORITHMS.get(engine.quantization.algorithm)
    if how is None:
        return
    group = (engine.quantization.group_size or 128) if how.grouped else None
    planned = CheckpointConfig(
        variant.facts.llm, engine.dtype.value, engine.tensor_parallel, how.quant_algo, group
    )
    config = to_json(planned)
    others = [line for line in accepted().lines if not read_config(line, config)]
    for item in read_config(toolchain.version, config):
        yield Violation(
            "MM169",
            _BLAMED.get(item.key, (_ALGORITHM,)),
            f"its reader of checkpoints does not take `{item.key}`: {item.why}",
            f"Use toolchain {' or '.join(map(repr, others))}"
            if others
            else "Set engine.dtype to float16 or bfloat16"
            if item.key == "dtype"
            else "Set engine.quantization to int8 or int4",
        )


def _rotary(variant: ResolvedRecipe, toolchain: Toolchain, known: Mapping[str, Any]) -> Iterator[Violation]:
    """Rotary positions that the version's own converter would read otherwise; it reads config.json itself.

    Its transformers is of before 5: it takes the base from ``rope_theta`` alone and knows no ``rope_parameters``.
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
            f"its converter reads the rotary base from `rope_theta` alone, which gives {base:g}, "
            f"and the model's is {llm.rotary_base:g}",
            f"Write `rope_theta: {llm.rotary_base:g}` at the top of the decoder's config in config.json",
        )
    kinds, scaling = accepted().lines[toolchain.version].rotary_kinds, llm.rotary_scaling
    if scaling is None:
        return
    written = text.get("rope_scaling") or {}
    kind = scaling["rope_type"]
    if kind not in kinds:
        reason = f"it knows rope scaling of the kinds {', '.join(kinds)}, and the model's is `{kind}`"
        yield Violation("MM604", ("model.source",), reason, "Set engine.backend to torch")
    elif "type" not in written and toolchain.version != tensorrt_llm_versions.SUPPORTED[-1]:
        yield Violation(
            "MM604",
            ("model.source",),
            "its converter looks up the kind of rope scaling as `rope_scaling.type`, which config.json does not have",
            f"Write `type: {kind}` into `rope_scaling` in config.json, with the numbers of `rope_parameters`",
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
    """Data for weights that the version's converters alone can lay out."""
    quantization = variant.recipe.engine.quantization
    if quantization.calibration is not None and quantization.algorithm in WEIGHT_ONLY:
        name = quantization.algorithm.value
        yield Violation(
            "MM606",
            (_CALIBRATION,),
            f"its converter permutes {name} weights for one GPU, and the plain ones that mmbuild calibrates would be "
            "read as nonsense",
            f"Remove {_CALIBRATION}, or set engine.backend to torch",
        )


def _whole(facts: ModelFacts, ranks: int) -> bool:
    return all(divides(llm, ranks) for llm in stacks(facts))


def cautions(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[Violation, ...]:
    """What should be told before anything runs: warnings, MM642 (notes), MM175 (calibration on text)."""
    noted = tuple(
        Violation(
            "MM642",
            (note.warn,),
            f"TensorRT-LLM {toolchain.version}: {text.removesuffix('.')}",
            severity="warning",
        )
        for note, text in _matching_notes(variant, toolchain)
        if note.warn is not None
    )
    return (*noted, *_text_alone(variant, toolchain))


def _text_alone(variant: ResolvedRecipe, toolchain: Toolchain) -> Iterator[Violation]:
    """The version's own quantizer, which shows a vision-language model no picture."""
    recipe, quantization = variant.recipe, variant.recipe.engine.quantization
    if quantization.algorithm not in ALGORITHMS or quantization.calibration is not None:
        return
    if is_production_model(recipe, variant.facts) and not violations(variant, toolchain):
        yield Violation(
            "MM175",
            (_ALGORITHM,),
            f"TensorRT-LLM {toolchain.version}: its own quantizer calibrates {quantization.algorithm} on texts, and "
            f"`{recipe.model.source}` would see no picture",
            f"Name pictures and prompts in {_CALIBRATION}.data: mmbuild then calibrates",
            severity="warning",
        )


def notes(variant: ResolvedRecipe, toolchain: Toolchain) -> tuple[str, ...]:
    """What a reader of the commands for ``variant`` should know."""
    return tuple(text for _, text in _matching_notes(variant, toolchain))


def _matching_notes(variant: ResolvedRecipe, toolchain: Toolchain) -> Iterator[tuple[Note, str]]:
    known = variables(variant, toolchain)
    for note in toolchain.notes:
        if known["family"] in note.families and holds(note.when, known):
            yield note, fill(note.text, known)
