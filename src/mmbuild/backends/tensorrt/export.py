"""A visual module as ONNX, opset 17: the newest that TensorRT 8.6 reads, and one that all later versions read.

torch's exporter that writes opset 17 is the one that traces (``dynamo=False``); torch 2.11 to 2.13 have it. It
gives half-precision attention with a boolean mask float32 constants, so that types no longer agree; attention is
written out here before it comes to that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mmbuild.backends.tensorrt.program import INPUT, OUTPUT
from mmbuild.backends.visual.config import VisualConfig, check_features
from mmbuild.models.dtypes import DTYPES
from mmbuild.models.errors import EngineError

OPSET = 17
MODEL = "visual.onnx"
# Traced with more than one image, so that no dimension is taken for 1.
_TRACED_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported.

    Attributes:
        path: The model.
        hidden_size: Width of a feature.
    """

    path: Path
    hidden_size: int


def export(module: nn.Module, config: VisualConfig, out: Path, device: str = "cpu") -> Exported:
    """Write ``module`` (pixels [B, 3, H, W] -> features [B, rows, hidden]) as ONNX; B is dynamic.

    Weights are in ``config.dtype``, and lie in files of their own beside the model where all are over 2 GB
    (protobuf's limit).

    Args:
        module: The visual side, filled.
        config: What it is for.
        out: Directory for the model.
        device: Where it is traced.

    Raises:
        EngineError: MM564, it cannot be written as ONNX; MM533, it gives another number of features than planned.
    """
    module = module.requires_grad_(False).eval().to(device=device, dtype=DTYPES[config.dtype])
    pixels = torch.zeros(_TRACED_IMAGES, 3, *config.image_size, device=device, dtype=DTYPES[config.dtype])
    path = out / MODEL
    with torch.no_grad():
        _, count, hidden = module(pixels).shape
        check_features(count, config)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tracing warns of every size that it takes for a constant
                with _PlainTrace():
                    _trace(module, pixels, path)
        except (RuntimeError, TypeError, ValueError) as error:  # torch's own errors are RuntimeErrors
            raise EngineError(
                f"the visual side cannot be written as ONNX: {_first_line(error)}",
                code="MM564",
                hint="Use visual.backend torch, which compiles the module as it is",
            ) from error
    check_opset(path)
    return Exported(path, hidden)


def _trace(module: nn.Module, pixels: Tensor, path: Path) -> None:
    batch = {0: "batch"}
    torch.onnx.export(
        module,
        (pixels,),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: batch, OUTPUT: batch},
    )


def check_opset(path: Path) -> None:
    """Refuse a model of another opset than :data:`OPSET`, or with operators that are not ONNX's own.

    Raises:
        EngineError: MM564.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    found = {entry.domain: entry.version for entry in model.opset_import}
    foreign = sorted({node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    if found.get("") != OPSET or foreign:
        raise EngineError(
            f"the exported model is of opsets {found} with the operators {foreign}, and opset {OPSET} alone was "
            "asked for",
            code="MM564",
            hint="Use visual.backend torch, or a torch that mmbuild names in its extra `torch`",
        )


def node_names(path: Path) -> list[str]:
    """What error messages call the model's nodes, by number: ``/encoder/Add (Add)``."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return [f"{node.name} ({node.op_type})" for node in nodes]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


class _PlainTrace(TorchFunctionMode):
    """What a trace is to be like: attention written out, and of all sizes only that of the batch dynamic.

    Tracing takes every size for something that is computed, which would leave thousands of operators on shapes,
    some of which TensorRT computes on the GPU or not at all. The batch is part of a first dimension wherever it is.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        found = func(*args, **kwargs)
        if func in _SIZES and isinstance(found, torch.Size):
            return (*found[:1], *(int(size) for size in found[1:]))
        if func is torch.Tensor.size and (args[1] if len(args) > 1 else kwargs["dim"]) != 0:
            return int(found)
        return found


_SIZES = (torch.Tensor.shape.__get__, torch.Tensor.size)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As torch documents it; float [..., heads, rows, head_size] each."""
    if is_causal or enable_gqa or dropout_p or (attn_mask is not None and _hides(attn_mask)):
        raise ValueError("attention of the visual side is causal, grouped or masked")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    # Scaled before the product: what float16 holds ends at 65504.
    scores = (query * float(factor)) @ key.transpose(-2, -1)
    return functional.softmax(scores, dim=-1) @ value


def _hides(mask: Tensor) -> bool:
    shown = mask if mask.dtype == torch.bool else mask == 0
    return not bool(shown.all())
