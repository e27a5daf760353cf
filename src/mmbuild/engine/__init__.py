"""The embedded PyTorch engine.

Names are imported when they are used: the layout of an engine directory is read without torch. Where torch is not
installed, a name is MM230.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbuild.engine.answers import Answer, Generation, Profile
    from mmbuild.engine.beams import Beams
    from mmbuild.engine.engine import Engine
    from mmbuild.engine.sampling import Sampling

__all__ = ["Answer", "Beams", "Engine", "Generation", "Profile", "Sampling"]

_LAZY = {
    "Answer": "mmbuild.engine.answers",
    "Beams": "mmbuild.engine.beams",
    "Engine": "mmbuild.engine.engine",
    "Generation": "mmbuild.engine.answers",
    "Profile": "mmbuild.engine.answers",
    "Sampling": "mmbuild.engine.sampling",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'mmbuild.engine' has no attribute {name!r}")
    from mmbuild.base.install import require

    require("torch", "transformers", needed_by="running an engine")
    return getattr(importlib.import_module(_LAZY[name]), name)
