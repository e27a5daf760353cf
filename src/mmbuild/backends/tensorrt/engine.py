"""Builds, loads and runs TensorRT visual engines, with the common interface of visual engines."""

from __future__ import annotations

import json
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.backends.tensorrt import interpreter as interpreters
from mmbuild.backends.tensorrt.child import Child
from mmbuild.backends.tensorrt.export import Exported, export, node_names
from mmbuild.backends.visual.config import (
    CONFIG,
    VisualConfig,
    check_pixels,
    damaged_file_error,
    make_config,
    read_description,
)
from mmbuild.base.files import require_regular
from mmbuild.config.model import Interpreter
from mmbuild.models.dtypes import DTYPES

BACKEND = "tensorrt"
ENGINE = "visual.engine"
WORKSPACE_BYTES = 8 << 30
"""Limit of GPU memory for one layer at run time, and for trying tactics at build time."""


@dataclass(frozen=True, slots=True)
class Built:
    """Properties of a built TensorRT engine.

    Attributes:
        version: TensorRT version; other versions cannot load the engine.
        sm: Compute capability of the GPU, 90 for 9.0.
        hidden_size: Width of a feature.
        engine_bytes: Size of the file.
        timing_cache: SHA-256 of the timing cache after the build, which is a file of that name next to the engine.
        timing_cache_changed: Whether a timing cache was given and the build added timings.
    """

    version: str
    sm: int
    hidden_size: int
    engine_bytes: int
    timing_cache: str
    timing_cache_changed: bool


def build(
    module: nn.Module,
    config: VisualConfig,
    out: Path,
    target: Mapping[str, Any],
    *,
    interpreter: Interpreter | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Export ``module`` (pixels [B, 3, H, W] -> features) and build its engine.

    Args:
        module: The visual module with weights. The weights are freed after the export.
        config: Configuration of the engine.
        out: Output directory for the engine, its timing cache and ``visual.json``.
        target: ``{"device", "sm"}``; the GPU must have that SM.
        interpreter: The Python that has TensorRT; default: :func:`interpreters.find`.
        options: More fields of the ``build`` request (:func:`program.build`): ``version``, ``timing_cache`` etc.

    Returns:
        The program's answer: the fields of :class:`Built`, and the ``seconds`` of the build.

    Raises:
        EngineError: The module cannot be exported.
        TensorRTError: TensorRT rejects the model.
    """
    interpreter = interpreter or interpreters.find()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="onnx-") as room:
        on_gpu = target["device"] == "cuda" and torch.cuda.is_available()
        exported = export(module, config, Path(room), "cuda" if on_gpu else "cpu")
        module.to("meta")  # frees the memory for the builder
        if on_gpu:
            torch.cuda.empty_cache()
        return build_exported(interpreter, exported, config, out, target, options)


def build_exported(
    interpreter: Interpreter,
    exported: Exported,
    config: VisualConfig,
    out: Path,
    target: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The part of :func:`build` after the export."""
    request = {
        "op": "build",
        "onnx": str(exported.path.absolute()),
        "engine": str((out / ENGINE).absolute()),
        "nodes": node_names(exported.path),
        "timing_cache_out": str(out.absolute()),
        "workspace_bytes": WORKSPACE_BYTES,
        "sm": target.get("sm"),
        **asdict(config),
        **(options or {}),
    }
    child = Child(interpreter, inherit_log=True)
    try:
        answer = child.ask(request)
    finally:
        child.close()
    timings = answer["timing_cache"]
    built = Built(
        version=answer["version"],
        sm=answer["sm"],
        hidden_size=exported.hidden_size,
        engine_bytes=answer["engine_bytes"],
        timing_cache=timings["sha256"],
        timing_cache_changed=timings["changed"],
    )
    described = {**asdict(config), "backend": BACKEND, "tensorrt": asdict(built)}
    (out / CONFIG).write_text(json.dumps(described, indent=2, sort_keys=True), encoding="utf-8")
    return answer


class VisualEngine:
    """A loaded engine: a child process that runs it, and memory shared with it."""

    def __init__(
        self, directory: Path, target: Mapping[str, Any], interpreter: Interpreter | None = None
    ) -> None:
        """Load what :func:`build` wrote.

        Args:
            directory: Directory with the engine and ``visual.json``.
            target: ``{"device"}`` for the returned features.
            interpreter: The Python that has TensorRT; default: :func:`interpreters.find`.

        Raises:
            EngineError: ``visual.json`` is missing or damaged.
            TensorRTError: No Python has TensorRT, or TensorRT rejects the engine.
        """
        data = read_description(directory)
        if data.get("backend") != BACKEND:
            raise damaged_file_error(directory / CONFIG, f"is not for backend {BACKEND}")
        built = Built(**data["tensorrt"])
        self.config = make_config(data)
        with suppress(FileNotFoundError):  # reported by the program
            require_regular(directory / ENGINE)
        self._device = torch.device(target["device"])
        self._memory = _Memory(self.config, built.hidden_size, locked=self._device.type == "cuda")
        self._child = Child(
            interpreter or interpreters.find(),
            descriptors=(self._memory.descriptor,),
            gpus=_own_gpu() if self._device.type == "cuda" else (),
        )
        self.ask(
            {
                "op": "serve",
                "engine": str((directory / ENGINE).absolute()),
                "memory": self._memory.descriptor,
                "output_offset": self._memory.offset,
                **asdict(self.config),
                **asdict(built),
            }
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request to the program; ``{"op": "time", "images", "repeats"}`` times the engine alone.

        Raises:
            TensorRTError: The program refuses or has exited.
        """
        return self._child.ask(request)

    def __call__(self, pixels: Tensor) -> Tensor:
        """float [images, 3, H, W], images up to max_batch_size -> [images, num_visual_features, hidden].

        Raises:
            EngineError: Too many images, or wrong image size.
            TensorRTError: The engine fails, or its process has exited.
        """
        check_pixels(pixels, self.config)
        images = pixels.shape[0]
        self._memory.pixels[:images].copy_(pixels)
        self.ask({"op": "run", "images": images})
        return self._memory.features[:images].to(self._device, copy=True)

    def prepare(self) -> None:
        """Nothing: TensorRT has loaded its kernels."""

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def close(self) -> None:
        """End the child process; it also ends with this object."""
        self._child.close()


class _Memory:
    """Memory shared with the program: a buffer for pixels, then, page-aligned, one for features."""

    def __init__(self, config: VisualConfig, hidden_size: int, *, locked: bool) -> None:
        images, height, width = config.max_batch_size, *config.image_size
        shapes = {
            "pixels": ((images, 3, height, width), DTYPES[config.dtype]),
            "features": ((images, config.num_visual_features, hidden_size), DTYPES[config.feature_dtype]),
        }
        sizes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in shapes.items()}
        self.offset = -(-sizes["pixels"] // mmap.PAGESIZE) * mmap.PAGESIZE
        self.descriptor = os.memfd_create("mmbuild-visual")
        weakref.finalize(self, os.close, self.descriptor)
        whole = self.offset + sizes["features"]
        os.truncate(self.descriptor, whole)
        room = torch.frombuffer(mmap.mmap(self.descriptor, whole), dtype=torch.uint8)
        if locked:  # page-locked memory makes copies faster; if it is not allowed, they still work
            torch.cuda.cudart().cudaHostRegister(room.data_ptr(), whole, 0)
        starts = {"pixels": 0, "features": self.offset}
        views = {
            name: room[starts[name] : starts[name] + sizes[name]].view(dtype).view(shape)
            for name, (shape, dtype) in shapes.items()
        }
        self.pixels, self.features = views["pixels"], views["features"]


def _own_gpu() -> tuple[str, ...]:
    """UUID of the GPU that torch uses in this process."""
    return (f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}",)
