"""What this backend cannot build of a valid recipe, and what servers cannot load of what it builds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from mmbuild.backends.hf import kernels_found, names, names_found
from mmbuild.backends.hf.commands import served_dtype
from mmbuild.backends.hf.consumers.load import NAMES, Consumer, consumer
from mmbuild.backends.hf.forms import FORMS, Form, quantization_config
from mmbuild.backends.hf.sites import linear_names
from mmbuild.base.diagnostics import Severity, Violation
from mmbuild.schema.linear_shapes import divides
from mmbuild.schema.model import VisualBackend
from mmbuild.schema.resolved import ResolvedRecipe

_SERVERS = "engine.hf.servers"
_WHY: Mapping[str, str] = {
    "blip2-t5": "its language model is an encoder-decoder, which vLLM and SGLang do not run",
    "nougat": "its language model is an encoder-decoder, which vLLM and SGLang do not run",
    "vila": "transformers has no class for it, so its checkpoints cannot be loaded without its own code",
}


def violations(variant: ResolvedRecipe) -> Iterator[Violation]:
    """Errors and warnings for ``variant``: what cannot be written, and what programs cannot load.

    What a server cannot load is an error if the recipe lists the server, and a warning otherwise.
    """
    refused = list(_not_built(variant))
    yield from refused
    if not refused:
        for name in NAMES:
            yield from _not_loaded(variant, consumer(name))


def _not_built(variant: ResolvedRecipe) -> Iterator[Violation]:
    recipe, family = variant.recipe, str(variant.recipe.model.family)
    if family not in names.FAMILIES:
        why = _WHY.get(family, "its modules are in none of mmbuild's tables of servers")
        yield Violation(
            "MM880",
            ("engine.backend", "model.family"),
            f"engine.backend hf does not write family {family}: {why}",
            f"use a model of family {' or '.join(names.FAMILIES)}, or engine.backend torch",
        )
        return
    if recipe.model.vision is not None:
        yield Violation(
            "MM881",
            ("model.vision.source",),
            "engine.backend hf writes one Hugging Face model, but the recipe takes its tower from another",
            "set model.source to a complete model, and remove model.vision",
        )
    if recipe.visual.backend is VisualBackend.TENSORRT or recipe.visual.dtype != recipe.engine.dtype:
        key = "visual.backend" if recipe.visual.backend is VisualBackend.TENSORRT else "visual.dtype"
        yield Violation(
            "MM882",
            (key,),
            "engine.backend hf builds no visual engine: the server runs the tower, in engine.dtype "
            f"{recipe.engine.dtype}",
            f"remove {key}",
        )


def _not_loaded(variant: ResolvedRecipe, program: Consumer) -> Iterator[Violation]:
    engine, family = variant.recipe.engine, str(variant.recipe.model.family)
    form = FORMS.get(str(engine.quantization.algorithm))
    listed = program.name in engine.hf.servers
    severity: Severity = "error" if listed or program.name == "transformers" else "warning"
    blame = (_SERVERS,) if listed else ("engine.backend",)
    if family not in program.families:
        yield Violation(
            "MM883",
            blame,
            f"{program.title} {program.version} has no model of family {family}",
            "serve it with another program, or use another model",
            severity,
        )
        return
    if form is None:
        return
    yield from _names(variant, program, form, severity)
    yield from _kernels(variant, program, form, severity)


def _names(variant: ResolvedRecipe, program: Consumer, form: Form, severity: Severity) -> Iterator[Violation]:
    family, llm = str(variant.recipe.model.family), variant.facts.llm
    config = quantization_config(
        form,
        variant.recipe.engine.quantization.group_size,
        names.targets(family, llm),
        names.ignored(family),
    )
    for finding in names_found.findings(program, family, linear_names(llm), config):
        if finding.entry is None:
            yield Violation(
                "MM884",
                ("engine.quantization.algorithm", "engine.backend"),
                finding.message,
                "report it: mmbuild's names do not fit this version",
                severity,
            )


def _kernels(
    variant: ResolvedRecipe, program: Consumer, form: Form, severity: Severity
) -> Iterator[Violation]:
    engine, target, llm = variant.recipe.engine, variant.recipe.target, variant.facts.llm
    if not divides(llm, engine.tensor_parallel):
        return  # a rule of the schema reports that
    request = kernels_found.Request(
        form,
        engine.quantization.group_size,
        engine.dtype.value,
        None if target is None else target.sm,
        engine.tensor_parallel,
    )
    for message in kernels_found.findings(program, llm, request):
        yield Violation(
            "MM886",
            (_SERVERS if severity == "error" else "engine.quantization.algorithm", "engine.backend"),
            message,
            _dtype_hint(program, variant, request)
            or "choose another engine.quantization, engine.dtype (float16 or bfloat16), tensor_parallel or server",
            severity,
        )


def _dtype_hint(program: Consumer, variant: ResolvedRecipe, request: kernels_found.Request) -> str:
    """What to do if ``engine.dtype`` is all that kernels of ``program`` do not take; else empty."""
    served = served_dtype(program, request.dtype, request.form)
    others = kernels_found.findings(program, variant.facts.llm, replace(request, dtype=served))
    if served == request.dtype or any(others):
        return ""
    return (
        f"set engine.dtype to {served}, or serve it with `--dtype {served}`, as the command that `mmbuild script` "
        "writes does"
    )
