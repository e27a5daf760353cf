"""VILA's files: in one directory with a second source for the tower, or in three directories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mmbuild.models.families.facts import Config
from mmbuild.models.families.vila import layout
from mmbuild.models.files.expected_files import ExpectedFiles

_CLASSES = {"clip_vision_model": "CLIP", "siglip_vision_model": "Siglip"}
_SQUARING: Mapping[str, Literal["pad", "resize"]] = {"pad": "pad", "resize": "resize"}
_COPIES = (("llm", "llm_cfg"), ("vision_tower", "vision_tower_cfg"), ("mm_projector", "mm_projector_cfg"))


def expected(config: Config, vision: Config | None = None) -> ExpectedFiles:
    """See :class:`~mmbuild.models.files.expected_files.ExpectedFiles`."""
    read = layout.read(config, vision)
    inner = bool(read.directories)
    return ExpectedFiles(
        vocab_size=f"{read.where}vocab_size",
        hidden_size=f"{read.where}hidden_size",
        image_size="vision_tower_cfg.image_size" if inner else "image_size of model.vision",
        image_class=_CLASSES[str(read.tower["model_type"])],
        tokenizer="llm" if inner else "",
        images=("model", "vision_tower") if inner else ("vision", ""),
        squaring=_SQUARING.get(read.aspect),
        template="tokenizer",
        copies=_COPIES if inner else (),
    )
