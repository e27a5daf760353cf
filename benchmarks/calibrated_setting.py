"""What benchmarks of calibrated engines build: the shapes of LLaVA-1.5-7B with random weights, or small ones."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.llava_cuda import LIMITS, MODEL

# What a recipe calls them, and what checkpoints do.
PACKAGES = ("layer_prefill", "layer_chunk", "layer_decode", "embed", "head")
VARIANTS: Mapping[str, str | None] = {
    "none": None,
    "int4_awq": "W4A16_AWQ",
    "smoothquant": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "fp8": "FP8",
}
GROUP = 128
_SMALL = {
    "text_config": {
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and what.

    Attributes:
        room: Directory of all files.
        device: ``cuda`` or ``cpu``.
        tiny: Small shapes instead of a 7B model's.
        samples: Pictures that are shown while calibrating.
        data_free: Scales from the weights alone, in seconds; for what does not depend on them.
    """

    room: Path
    device: str
    tiny: bool
    samples: int
    data_free: bool = False

    @property
    def dtype(self) -> str:
        """Of the engine."""
        return "float16" if self.device == "cuda" else "float32"

    def config(self) -> dict[str, Any]:
        """``config.json`` of the model."""
        from mmbuild.models.sources.config import read_config

        config = dict(read_config(f"dummy://{MODEL}", None, Path()).config)
        if self.tiny:
            config |= {part: {**config[part], **shapes} for part, shapes in _SMALL.items()}
        return config

    def facts(self) -> Any:
        """ModelFacts."""
        from mmbuild.models.families import family

        return family("llava").facts(self.config())

    def target(self) -> dict[str, Any]:
        """The machine here."""
        import torch

        from mmbuild.backends.torch.aot_package import cpu_isa

        major, minor = torch.cuda.get_device_capability() if self.device == "cuda" else (0, 0)
        return {"device": self.device, "sm": 10 * major + minor or None, "isa": cpu_isa()}

    def engine_params(self, variant: str) -> dict[str, Any]:
        """Parameters of build_llm."""
        from mmbuild.backends.lowering import step_params

        group = GROUP if variant == "int4_awq" else None
        return step_params.build_llm(self.facts(), self.dtype, VARIANTS[variant], 1, LIMITS, group)

    def step(self, name: str, out: str, params: Mapping[str, Any], **rest: Any) -> float:
        """Run one step in this process; ``inputs`` are names of directories. Returns its seconds."""
        import importlib

        from mmbuild.core.steps.context import StepContext

        (self.room / out).mkdir()
        inputs = {key: self.room / value for key, value in rest.pop("inputs", {}).items()}
        context = StepContext(
            params=params,
            inputs=inputs,
            out=self.room / out,
            target=self.target(),
            cores=os.cpu_count() or 1,
            **rest,
        )
        return timed(lambda: importlib.import_module(f"mmbuild.steps.{name}").run(context))[0]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came back."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def say(**row: Any) -> None:
    """One line of JSON, at once."""
    plain = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
    print(json.dumps(plain), flush=True)


def size_of(directory: Path, pattern: str) -> int:
    """Bytes of the files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob(pattern))
