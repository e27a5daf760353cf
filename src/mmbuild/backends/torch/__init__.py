"""The embedded PyTorch engine.

Names are imported on first use, because reading the layout of an engine directory needs no torch. Without torch,
using a name raises MM230.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbuild.backends.torch.beam_search import Beams
    from mmbuild.backends.torch.engine import Engine
    from mmbuild.backends.torch.outputs import Answer, Generation, Profile
    from mmbuild.backends.torch.sampling import Sampling

__all__ = ["Answer", "Beams", "Engine", "Generation", "Profile", "Sampling"]

_LAZY = {
    "Answer": "mmbuild.backends.torch.outputs",
    "Beams": "mmbuild.backends.torch.beam_search",
    "Engine": "mmbuild.backends.torch.engine",
    "Generation": "mmbuild.backends.torch.outputs",
    "Profile": "mmbuild.backends.torch.outputs",
    "Sampling": "mmbuild.backends.torch.sampling",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'mmbuild.backends.torch' has no attribute {name!r}")
    from mmbuild.base.optional_packages import require

    require("torch", "transformers", needed_by="running an engine")
    return getattr(importlib.import_module(_LAZY[name]), name)
