"""Plans a TensorRT visual engine. Importing this module reads no configuration and does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild.backends.tensorrt.errors import TensorRTError
from mmbuild.base.host import installed_versions
from mmbuild.base.pins import NO_PINS, Pins


def plan_tensorrt(target: Mapping[str, Any], dtype: str, pins: Pins = NO_PINS) -> dict[str, Any]:
    """Parameters of ``build_visual``: the TensorRT version, which the engine depends on.

    Args:
        target: ``{"device"}`` of the engine.
        dtype: Number format of the tower.
        pins: May pin the TensorRT version, which then need not be installed.

    Raises:
        TensorRTError: MM578, the target is not a GPU; MM565, MM566, there is no TensorRT; MM567, it does not support
            ``dtype``; MM564, this Python has no onnx.
        MmbuildError: The user's configuration cannot be read, or its interpreter cannot be probed.
    """
    from mmbuild.backends.tensorrt import interpreter

    pinned = pins.package("tensorrt")
    if target["device"] != "cuda":
        raise TensorRTError(
            "visual.backend is tensorrt, but the engine is for a CPU: TensorRT needs CUDA",
            code="MM578",
            hint="set visual.backend to auto or torch, or apply the recipe on a machine with a GPU",
        )
    if pinned is not None:
        return {"version": pinned}
    version = interpreter.version(interpreter.find())
    interpreter.check_dtype(version, dtype)
    if not installed_versions(("onnx",)):
        raise TensorRTError(
            "visual.backend is tensorrt, but this Python has no `onnx`, which exports the model for TensorRT",
            code="MM564",
            hint="pip install onnx, or set visual.backend to torch",
        )
    return {"version": version}
