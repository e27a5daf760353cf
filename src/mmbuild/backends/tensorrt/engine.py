"""TensorRT visual engines as the rest of mmbuild knows visual engines: building, loading, asking."""

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
"""Most GPU memory that one layer may need while it runs, and that a build tries tactics with."""


@dataclass(frozen=True, slots=True)
class Built:
    """What a TensorRT engine is tied to.

    Attributes:
        version: Of TensorRT; another one does not load it.
        sm: Of the GPU, 90 for 9.0.
        hidden_size: Width of a feature.
        engine_bytes: Size of the file.
        timing_cache: SHA-256 of the timings that the build ended with, a file of that name beside the engine.
        timing_cache_changed: Whether timings were given and the build had to measure more.
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
        module: The visual side, filled. Its weights are given up once they are exported.
        config: What it is for.
        out: Directory that gets the engine, its timings and ``visual.json``.
        target: ``{"device", "sm"}``; the GPU must be of that SM.
        interpreter: That has TensorRT; :func:`interpreters.find` where left out.
        options: Of the request ``build`` (:func:`program.build`): ``version``, ``timing_cache`` and others.

    Returns:
        The program's answer: what :class:`Built` has, and ``seconds`` of the build.

    Raises:
        EngineError: The module cannot be exported.
        TensorRTError: TensorRT refuses.
    """
    interpreter = interpreter or interpreters.find()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="onnx-") as room:
        on_gpu = target["device"] == "cuda" and torch.cuda.is_available()
        exported = export(module, config, Path(room), "cuda" if on_gpu else "cpu")
        module.to("meta")  # the builder wants the memory
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
    """:func:`build` from the exported model on."""
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
    """A loaded engine: a child process that holds it, and the memory that both see."""

    def __init__(
        self, directory: Path, target: Mapping[str, Any], interpreter: Interpreter | None = None
    ) -> None:
        """Load what :func:`build` wrote.

        Args:
            directory: With the engine and ``visual.json``.
            target: ``{"device"}`` that features are given on.
            interpreter: That has TensorRT; :func:`interpreters.find` where left out.

        Raises:
            EngineError: ``visual.json`` is missing or damaged.
            TensorRTError: No interpreter has TensorRT, or it refuses the engine.
        """
        data = read_description(directory)
        if data.get("backend") != BACKEND:
            raise damaged_file_error(directory / CONFIG, f"is not of backend {BACKEND}")
        built = Built(**data["tensorrt"])
        self.config = make_config(data)
        with suppress(FileNotFoundError):  # the program reports that
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
        """The program's answer; ``{"op": "time", "images", "repeats"}`` times the engine alone.

        Raises:
            TensorRTError: It refuses, or is gone.
        """
        return self._child.ask(request)

    def __call__(self, pixels: Tensor) -> Tensor:
        """float [images, 3, H, W], images up to max_batch_size -> [images, num_visual_features, hidden].

        Raises:
            EngineError: Too many images, or of another size.
            TensorRTError: The engine cannot run, or is gone.
        """
        check_pixels(pixels, self.config)
        images = pixels.shape[0]
        self._memory.pixels[:images].copy_(pixels)
        self.ask({"op": "run", "images": images})
        return self._memory.features[:images].to(self._device, copy=True)

    @property
    def pid(self) -> int:
        """Of the child process."""
        return self._child.pid

    def close(self) -> None:
        """End the child process; it ends with this object too."""
        self._child.close()


class _Memory:
    """Memory that this process and the program see: room for pixels, and from the next page on for features."""

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
        if locked:  # faster copies; where it is not allowed they work too
            torch.cuda.cudart().cudaHostRegister(room.data_ptr(), whole, 0)
        starts = {"pixels": 0, "features": self.offset}
        views = {
            name: room[starts[name] : starts[name] + sizes[name]].view(dtype).view(shape)
            for name, (shape, dtype) in shapes.items()
        }
        self.pixels, self.features = views["pixels"], views["features"]


def _own_gpu() -> tuple[str, ...]:
    """UUID of the GPU that this process's torch works on."""
    return (f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}",)
