"""Which modules a checkpoint's config calls quantized, and which not.

transformers, vLLM and SGLang give the same module different names: transformers 5 has ``model.language_model.layers``
where the files have ``language_model.model.layers``; vLLM and SGLang run q, k and v as ``qkv_proj``; vLLM's BLIP-2
has a tower without a prefix. So targets are one pattern that matches the decoder's layers under all of these names,
fused ones included, and nothing else; and since SGLang refuses modules that no pattern names, everything else is
listed as ignored. ``consumers/`` checks both against each server's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmbuild.backends.hf.sites import sites
from mmbuild.models.families.facts import LlmFacts

PATTERN = "re:"
"""Start of a pattern in compressed-tensors' lists; the rest is matched from a name's beginning."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a family's modules.

    Attributes:
        decoder: Pattern of what comes before a layer's number.
        ignore: Entries for modules that are not quantized.
        files: How names of tensors in a model's files begin, and how they begin in the files that are written; each
            pair applies to the result of those before it.
    """

    decoder: str
    ignore: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()


FAMILIES: Mapping[str, Names] = {
    "llava": Names(
        r".*language_model\.(model\.)?layers",
        ("re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"),
        (
            (r"model\.language_model\.", "language_model.model."),
            (r"lm_head\.", "language_model.lm_head."),
            (r"model\.(?=vision_tower\.|multi_modal_projector\.)", ""),
            (r"vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
        ),
    ),
    "blip2-opt": Names(
        r".*language_model\.model\.decoder\.layers",
        (
            "re:.*encoder\\.layers\\..*",
            "re:.*qformer.*",
            "re:.*language_projection",
            "re:.*lm_head",
        ),
    ),
}
"""Families that this backend writes."""

FUSED: Mapping[tuple[str, ...], str] = {
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "self_attn.qkv_proj",
    ("mlp.gate_proj", "mlp.up_proj"): "mlp.gate_up_proj",
}
"""What servers call the layers of a site that they run as one."""


def targets(family: str, llm: LlmFacts) -> list[str]:
    """The entries that name the quantized modules."""
    layers = [name for site in sites(llm) for name in (*site.linears, FUSED.get(site.linears)) if name]
    return [rf"{PATTERN}{FAMILIES[family].decoder}\.\d+\.({'|'.join(map(re.escape, layers))})$"]


def ignored(family: str) -> list[str]:
    """The entries that name the other modules."""
    return list(FAMILIES[family].ignore)


def name_in_files(family: str, name: str) -> str:
    """What a tensor is called in the files that are written: as in the first checkpoints of its family.

    transformers 5.17 and vLLM 0.26 read those names; SGLang 0.5.23 does by its sources, and has not been run. vLLM
    does not find the tower of a LLaVA in files that transformers 5 wrote, where ``vision_model`` is left out.
    """
    for pattern, beginning in FAMILIES[family].files:
        name = re.sub(rf"^{pattern}", beginning, name)
    return name


def matches(name: str, entries: Sequence[str]) -> str | None:
    """The first entry that names the module ``name``, as a pattern or literally; None if none does."""
    for entry in entries:
        if entry.startswith(PATTERN):
            if re.match(entry.removeprefix(PATTERN), name):
                return entry
        elif entry == name:
            return entry
    return None
