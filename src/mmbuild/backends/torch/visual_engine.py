"""Visual engines of the torch backend: compiled packages of a tower's parts, called one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.backends.torch import visual_calls
from mmbuild.backends.torch.aot_package import LoadedPackage, load_package
from mmbuild.backends.torch.cuda_graphs import BatchGraphs
from mmbuild.backends.torch.host_copy import to_device
from mmbuild.backends.torch.package_shapes import Sizes, check_sizes, compiled_sizes, mismatch
from mmbuild.backends.torch.visual_calls import Call
from mmbuild.backends.torch.weights import load_rank_file, select
from mmbuild.backends.visual.config import check_pixels, make_config, read_description
from mmbuild.backends.visual.tensors import WEIGHTS
from mmbuild.models.dtypes import DTYPES
from mmbuild.models.errors import EngineError

_GRAPHED = 4
"""The largest batch that runs as a graph. More pictures take the GPU longer than the host takes to launch kernels."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a package, ready to run.

    Attributes:
        path: The package's file.
        sizes: Sizes of its inputs.
        run: Runs it.
        values: Numbers of the activations that it takes.
        weights: Tensors that it takes after them.
        outputs: Number of its outputs.
        last: Numbers of the values that no later call takes.
    """

    path: Path
    sizes: tuple[Sizes, ...]
    run: LoadedPackage
    values: tuple[int, ...]
    weights: list[Tensor]
    outputs: int
    last: tuple[int, ...]

    def __call__(self, values: Mapping[int, Tensor]) -> list[Tensor]:
        """Outputs of the package, for the values so far.

        Raises:
            EngineError: MM786, they have other sizes than those that the package was compiled for.
        """
        given = [values[value] for value in self.values]
        named = zip(self.values, given, strict=True)
        unknown = [None] * len(self.weights)
        check_sizes(self.path, [*((f"value {number}", x.shape) for number, x in named), *unknown], self.sizes)
        outputs = self.run([*given, *self.weights])
        if len(outputs) != self.outputs:
            raise mismatch(self.path, f"{len(outputs)} outputs", f"{self.outputs}")
        return outputs


class VisualEngine:
    """A loaded visual engine."""

    def __init__(self, directory: Path, target: Mapping[str, Any]) -> None:
        """Load what steps ``build_visual`` and ``convert_visual`` wrote; check the target first
        (:func:`~mmbuild.backends.torch.aot_package.check_target`).

        Raises:
            EngineError: A file is missing or damaged; MM505, a tensor is missing or of another dtype; MM786, one has
                another shape.
        """
        self.config = make_config(read_description(directory))
        self._device = str(target["device"])
        listed = visual_calls.read(directory)
        self._result = listed.result
        tensors = load_rank_file(directory / WEIGHTS, self._device)
        sizes: dict[Path, tuple[Sizes, ...]] = {}
        loaded: dict[Path, LoadedPackage] = {}
        self._calls = []
        for call, last in zip(listed.calls, listed.last_uses(), strict=True):
            path = directory / f"{call.package}.pt2"
            if path not in sizes:
                sizes[path] = compiled_sizes(path)
            given = self._select(tensors, call, path)
            check_sizes(path, self._shapes(call, given), sizes[path])
            if path not in loaded:
                loaded[path] = load_package(path, self._device)
            self._calls.append(_Call(path, sizes[path], loaded[path], call.values, given, call.outputs, last))
        self._graphs = BatchGraphs(self._run) if self._device == "cuda" else None

    def __call__(self, pixels: Tensor) -> Tensor:
        """float [images, 3, H, W], images up to max_batch_size -> [images, num_visual_features, hidden].

        Raises:
            EngineError: Too many images, or wrong image size; MM786, packages that do not fit together.
        """
        check_pixels(pixels, self.config)
        with torch.inference_mode():
            given = to_device(pixels, self._device).to(DTYPES[self.config.dtype]).contiguous()
            if self._graphs is not None and len(given) <= _GRAPHED:
                return self._graphs(given)
            return self._run(given)

    def prepare(self) -> None:
        """On CUDA, do now what the first calls would wait for: load kernels, and capture graphs of small batches."""
        if self._graphs is not None:
            for count in range(1, min(_GRAPHED, self.config.max_batch_size) + 1):
                self(torch.zeros(count, 3, *self.config.image_size))

    def _run(self, pixels: Tensor) -> Tensor:
        """Call the packages one after the other."""
        values = {0: pixels}
        count = 1
        for call in self._calls:
            values.update(enumerate(call(values), start=count))
            count += call.outputs
            for value in call.last:
                del values[value]
        return values[self._result]

    def _select(self, tensors: Mapping[str, Tensor], call: Call, path: Path) -> list[Tensor]:
        """The weights of a call."""
        dtype = DTYPES[self.config.dtype]
        selected = select(tensors, call.weights, path)
        for name, tensor in zip(call.weights, selected, strict=True):
            if tensor.is_floating_point() and tensor.dtype != dtype:
                raise EngineError(
                    f"`{name}` in `{path.parent / WEIGHTS}` is {tensor.dtype}, but the engine was built for {dtype}",
                    code="MM505",
                    hint="the engine directory mixes files of two builds; apply its recipe again",
                )
        return selected

    def _shapes(self, call: Call, given: Sequence[Tensor]) -> list[tuple[str, tuple[int, ...]] | None]:
        """Names and shapes of what a call passes, as far as they are known before it runs."""
        pixels = ("pixels", (self.config.max_batch_size, 3, *self.config.image_size))
        weights = zip(call.weights, (tuple(tensor.shape) for tensor in given), strict=True)
        return [*(pixels if value == 0 else None for value in call.values), *weights]
