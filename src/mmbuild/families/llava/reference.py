"""LLaVA as transformers runs it."""

from __future__ import annotations

from mmbuild.families.shared.hugging_face import load_model as load
from mmbuild.families.shared.hugging_face import tensor_shapes

__all__ = ["load", "tensor_shapes"]
