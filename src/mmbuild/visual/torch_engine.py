"""Visual engines of the torch backend: exported, compiled, weights beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

from mmbuild.engine import package, weights
from mmbuild.engine.config import DTYPES, EngineError
from mmbuild.engine.export import compile_package

PACKAGE, WEIGHTS, CONFIG = "visual.pt2", "visual.safetensors", "visual.json"


@dataclass(frozen=True, slots=True)
class VisualConfig:
    """What a visual engine is built for.

    Attributes:
        dtype: Of tower and projector.
        feature_dtype: Of the features it returns, the LLM's dtype.
        max_batch_size: Images at once.
        num_visual_features: Rows per image.
        image_size: Height and width, pixels.
    """

    dtype: str
    feature_dtype: str
    max_batch_size: int
    num_visual_features: int
    image_size: tuple[int, int]


def build(module: nn.Module, config: VisualConfig, out: Path, target: Mapping[str, Any]) -> None:
    """Export ``module`` (pixels [B, 3, H, W] -> features), compile it, and save what the package binds.

    Raises:
        EngineError: The module gives another number of features than ``config`` says.
    """
    device = str(target["device"])
    module = module.requires_grad_(False).eval().to(device=device, dtype=DTYPES[config.dtype])
    batch = min(2, config.max_batch_size)
    pixels = torch.zeros(batch, 3, *config.image_size, device=device, dtype=DTYPES[config.dtype])
    dim = Dim("batch", min=1, max=config.max_batch_size) if config.max_batch_size > 1 else Dim.STATIC
    with torch.no_grad():
        count = module(pixels).shape[1]
        if count != config.num_visual_features:
            raise EngineError(
                f"the visual tower gives {count} features per image, and config.json makes it "
                f"{config.num_visual_features}",
                code="MM533",
            )
        program = torch.export.export(module, (pixels,), dynamic_shapes=({0: dim},))
    compile_package(program, out / PACKAGE, target)
    state = {**module.state_dict(), **dict(module.named_buffers())}
    loaded = torch._inductor.aoti_load_package(str(out / PACKAGE), run_single_threaded=True)
    needed = {name: state[name].cpu().contiguous() for name in loaded.get_constant_fqns()}
    save_file(needed, out / WEIGHTS)
    (out / CONFIG).write_text(json.dumps(asdict(config), indent=2, sort_keys=True), encoding="utf-8")


def read_config(path: Path) -> VisualConfig:
    """Read ``visual.json``.

    Raises:
        EngineError: It is missing, damaged or of another version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return VisualConfig(**{**data, "image_size": tuple(data["image_size"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(
            f"`{path}` cannot be read: {type(error).__name__}: {error}",
            code="MM501",
            hint="Restore the engine directory with `mmbuild apply` on its recipe",
        ) from error


class VisualEngine:
    """A loaded visual engine."""

    def __init__(self, directory: Path, target: Mapping[str, Any]) -> None:
        """Load what :func:`build` wrote; check the target first (:func:`package.check_target`).

        Raises:
            EngineError: A file is missing or damaged.
        """
        self.config = read_config(directory / CONFIG)
        self._device = str(target["device"])
        self._constants = weights.load_rank_file(directory / WEIGHTS, self._device)
        self._package = package.load_package(directory / PACKAGE, self._constants, self._device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """float [images, 3, H, W], images up to max_batch_size -> [images, num_visual_features, hidden].

        Raises:
            EngineError: Too many images, or of another size.
        """
        config = self.config
        if not 1 <= pixels.shape[0] <= config.max_batch_size:
            raise EngineError(
                f"{pixels.shape[0]} images are given, and the visual engine takes 1 to {config.max_batch_size}",
                code="MM534",
                hint="Ask in smaller batches, or raise max_batch_size in the recipe",
            )
        if tuple(pixels.shape[1:]) != (3, *config.image_size):
            raise EngineError(
                f"the processor made pictures of {list(pixels.shape[1:])}, and the visual engine takes "
                f"{[3, *config.image_size]}",
                code="MM535",
                hint="preprocessor_config.json and config.json are of different models",
            )
        with torch.inference_mode():
            features: Tensor = self._package(pixels.to(self._device, DTYPES[config.dtype]))
        return features
