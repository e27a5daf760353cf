"""The text of a new recipe, with comments that say why a value is what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from mmbuild.base.formatting import size_text
from mmbuild.models.families import family
from mmbuild.pipeline.new_recipe.limits import Limits, Machine
from mmbuild.pipeline.new_recipe.model import ChosenModel, Named
from mmbuild.schema.model import Algorithm, Backend

_QUESTION = "What is in this picture?"
_COLUMN = 36


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the recipe is for.

    Attributes:
        name: Name of the build.
        backend: ``engine.backend``.
        machine: Where the engine is to run.
        host_memory: Bytes of this machine's memory.
        is_this_machine: Whether that is this machine, so that ``target`` need not say it.
    """

    name: str
    backend: str
    machine: Machine
    host_memory: int
    is_this_machine: bool = True


def render(model: ChosenModel, limits: Limits, wanted: Wanted) -> str:
    """The recipe as YAML."""
    lines = [
        f"# {model.main.short_name}: {_title(model)}. `mmbuild plan` shows what it builds.",
        "version: 1",
        f"name: {_scalar(wanted.name)}",
        "model:",
        f"  family: {model.facts.family}",
        *_source(model.main, "  "),
        *(["  vision:", *_source(model.vision, "    ")] if model.vision else []),
        *([] if wanted.is_this_machine else ["target:", f"  device: {wanted.machine.device}"]),
        "engine:",
        *_engine(model, limits, wanted),
        *_verify(model, fits=limits.verify_memory <= wanted.host_memory, memory=limits.verify_memory),
    ]
    return "\n".join(lines) + "\n"


def _title(model: ChosenModel) -> str:
    kind = (
        "pages to markup" if family(model.facts.family).TRAITS.cross_attention else "questions about pictures"
    )
    return f"{kind}, {model.facts.llm.num_hidden_layers} layers of {model.facts.llm.hidden_size:,}"


def _source(one: Named, indent: str) -> Iterator[str]:
    yield f"{indent}source: {_scalar(one.source)}"
    if one.revision is not None:
        yield f"{indent}revision: {_scalar(one.revision)}"
    elif one.source.startswith("hf://"):
        yield _commented(f"{indent}# revision:", "unknown offline: pin it with `mmbuild lock`")


def _engine(model: ChosenModel, limits: Limits, wanted: Wanted) -> Iterator[str]:
    features, traits = model.facts.visual.num_visual_features, family(model.facts.family).TRAITS
    others = [name for name in Backend if name != wanted.backend]
    yield _commented(f"  backend: {wanted.backend}", f"or {', '.join(others)}")
    yield f"  dtype: {limits.dtype}"
    choices = ", ".join(Algorithm) if not traits.encoder_decoder else "none is all that the family allows"
    yield _commented(f"  quantization: {limits.quantization}", choices)
    yield _commented(f"  max_batch_size: {limits.max_batch_size}", "prompts answered together")
    room = (
        f"{features} visual features and {limits.text} tokens of text" if limits.text else "the start token"
    )
    yield _commented(f"  max_input_len: {limits.max_input_len}", room)
    yield _commented(f"  max_output_len: {limits.max_output_len}", "tokens of an answer")
    needs = limits.needs
    memory = f" of {size_text(wanted.machine.memory)}" if wanted.machine.memory else ""
    yield f"  # Takes about {size_text(needs.total)}{memory} of memory to run: {needs.text()}."


def _verify(model: ChosenModel, *, fits: bool, memory: int) -> Iterator[str]:
    lines = ["verify:", *_questions(model)]
    if not fits:
        yield f"# Comparing with transformers takes about {size_text(memory)} of memory, more than this machine has:"
    yield from (line if fits else f"# {line}" for line in lines)


def _questions(model: ChosenModel) -> Iterator[str]:
    yield "  # images: [picture.png]             # yours, relative to this file; without them pictures are generated"
    if not family(model.facts.family).TRAITS.cross_attention:
        yield "  prompts:"
        yield f"    - {_scalar(_QUESTION)}"
    yield "  max_new_tokens: 32"


def _commented(line: str, comment: str) -> str:
    return f"{line:<{_COLUMN}}  # {comment}"


def _scalar(value: str) -> str:
    """``value`` as YAML on one line, quoted if need be."""
    return yaml.safe_dump(value, allow_unicode=True, width=10_000).removesuffix("\n...\n").strip()
