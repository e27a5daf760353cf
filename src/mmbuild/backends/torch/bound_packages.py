"""The loaded packages of an LLM engine together with the tensors that each call passes to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmbuild.backends.torch import packages
from mmbuild.backends.torch.aot_package import LoadedPackage, load_package
from mmbuild.backends.torch.build_module import is_cache
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.package_shapes import check_sizes
from mmbuild.backends.torch.row_spans import Rows
from mmbuild.backends.torch.weights import select


class BoundPackages:
    """Calls packages by name. The caller must run them in ``torch.inference_mode()``."""

    def __init__(
        self, config: EngineConfig, directory: Path, tensors: Mapping[str, Tensor], device: str
    ) -> None:
        """Load the packages in ``directory``.

        Args:
            config: Config that they were compiled for.
            directory: Directory of the packages.
            tensors: Weights, caches and other buffers, by name in the model.
            device: Device that they were compiled for.

        Raises:
            EngineError: MM505, a tensor is missing; MM786, one has another shape; a package cannot be loaded.
        """
        model = packages.one_layer_model(config, "plain", "meta")
        self._loaded: dict[str, LoadedPackage] = {}
        self._weights: dict[str, list[list[Tensor]]] = {}
        self._caches: dict[str, list[list[Tensor]]] = {}
        self._views: dict[tuple[str, Rows], list[list[Tensor]]] = {}
        for name, package in packages.table(config).items():
            path, names = directory / f"{name}.pt2", package.names(model)
            modules = [
                select(tensors, [prefix + key for key in names], path) for prefix in package.prefixes(config)
            ]
            with torch.device("meta"):
                unknown = [None] * len(package.example(config).inputs)
            for shapes in {tuple(tuple(value.shape) for value in module) for module in modules}:
                named = zip(names, shapes, strict=True)
                check_sizes(
                    path, [*unknown, *(None if is_cache(key) else (key, shape) for key, shape in named)]
                )
            count = sum(not is_cache(key) for key in names)
            self._weights[name] = [module[:count] for module in modules]
            self._caches[name] = [module[count:] for module in modules]
            self._loaded[name] = load_package(path, device)

    def __call__(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Outputs of a package that is not a layer."""
        return self._loaded[name]([*inputs, *self._weights[name][0]])

    def layers(self, name: str, x: Tensor, *shared: Tensor, rows: Rows = (0, 0)) -> Tensor:
        """Run x through all layers of a package; each also gets ``shared`` and ``rows`` of its caches."""
        package = self._loaded[name]
        for weights, caches in zip(self._weights[name], self._rows_of(name, rows), strict=True):
            (x,) = package([x, *shared, *weights, *caches])
        return x

    def each_layer(self, name: str, x: Tensor, rows: Rows) -> None:
        """Give x to every layer of a package, for what that does to ``rows`` of its caches."""
        package = self._loaded[name]
        for weights, caches in zip(self._weights[name], self._rows_of(name, rows), strict=True):
            package([x, *weights, *caches])

    def _rows_of(self, name: str, rows: Rows) -> list[list[Tensor]]:
        key = name, rows
        if key not in self._views:
            first, last = rows
            self._views[key] = [[cache[first:last] for cache in caches] for caches in self._caches[name]]
        return self._views[key]
