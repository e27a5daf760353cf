"""Where VILA's decoder lies: in ``llm/`` since VILA-1.5, before that among the tensors of one directory."""

from __future__ import annotations

from mmbuild.models.families.facts import Naming

NAMINGS = (
    Naming("llm/model.", "llm/lm_head.weight"),
    Naming("model.", "lm_head.weight", others=("mm_projector.", "vision_tower.")),
)
