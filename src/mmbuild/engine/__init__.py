"""The embedded PyTorch engine."""

from __future__ import annotations

from mmbuild.engine.engine import Answer, Engine, Generation, Profile
from mmbuild.engine.sampling import Sampling

__all__ = ["Answer", "Engine", "Generation", "Profile", "Sampling"]
