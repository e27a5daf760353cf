"""Visual engines: what turns pixels into rows of the prompt table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mmbuild.visual.llava import LlavaVisual

# By family: the module to export, and the canonical names its weights start with.
MODULES: Mapping[str, tuple[Callable[[Any, Any], nn.Module], tuple[str, ...]]] = {
    "llava": (LlavaVisual, ("vision_tower.", "multi_modal_projector.")),
}
