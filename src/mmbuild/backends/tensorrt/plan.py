"""What a plan holds of a TensorRT visual engine. Importing this reads no configuration and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.backends.tensorrt.errors import TensorRTError
from mmbuild.base import pins
from mmbuild.base.host import installed_versions


def plan_tensorrt(target: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Parameters of ``build_visual``: the version of TensorRT, which the engine is tied to.

    Args:
        target: ``{"device"}`` of the engine.
        dtype: Number format of the tower.

    Raises:
        TensorRTError: MM578, the target is no GPU; MM565, MM566, there is no TensorRT; MM567, it cannot build that;
            MM564, there is no onnx here.
        MmbuildError: The user's configuration cannot be read, or its interpreter not be asked.
    """
    from mmbuild.backends.tensorrt import interpreter

    settled = pins.package("tensorrt")
    if target["device"] != "cuda":
        raise TensorRTError(
            "visual.backend is tensorrt, and the engine is for a CPU: TensorRT needs CUDA",
            code="MM578",
            hint="Set visual.backend to auto or torch, or apply the recipe on a machine with a GPU",
        )
    if settled is not None:
        return {"version": settled}
    version = interpreter.version(interpreter.find())
    interpreter.check_dtype(version, dtype)
    if not installed_versions(("onnx",)):
        raise TensorRTError(
            "visual.backend is tensorrt, and this Python has no `onnx` to hand TensorRT the model with",
            code="MM564",
            hint="pip install onnx, or set visual.backend to torch",
        )
    return {"version": version}
