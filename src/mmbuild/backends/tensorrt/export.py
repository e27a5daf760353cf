"""Exports a visual module as ONNX with opset 17, which TensorRT 8.6 (as its newest) and all later versions read.

Only torch's tracing exporter (``dynamo=False``) writes opset 17; torch 2.11 to 2.13 have it. For half-precision
attention with a boolean mask it writes float32 constants, so that types no longer match; therefore attention is
decomposed here.
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
# Traced with more than one image, so that the batch is not specialized to 1.
_TRACED_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model.

    Attributes:
        path: The model.
        hidden_size: Width of a feature.
    """

    path: Path
    hidden_size: int


def export(module: nn.Module, config: VisualConfig, out: Path, device: str = "cpu") -> Exported:
    """Write ``module`` (pixels [B, 3, H, W] -> features [B, rows, hidden]) as ONNX; B is dynamic.

    Weights are in ``config.dtype``; if they exceed 2 GB (protobuf's limit), they are in separate files next to the
    model.

    Args:
        module: The visual module with weights.
        config: Configuration of the engine.
        out: Output directory.
        device: Device for tracing.

    Raises:
        EngineError: MM564, it cannot be exported as ONNX; MM533, the number of features is not as planned.
    """
    module = module.requires_grad_(False).eval().to(device=device, dtype=DTYPES[config.dtype])
    pixels = torch.zeros(_TRACED_IMAGES, 3, *config.image_size, device=device, dtype=DTYPES[config.dtype])
    path = out / MODEL
    with torch.no_grad():
        _, count, hidden = module(pixels).shape
        check_features(count, config)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tracing warns about every size that becomes a constant
                with _PlainTrace():
                    _trace(module, pixels, path)
        except (RuntimeError, TypeError, ValueError) as error:  # torch's own errors are RuntimeErrors
            raise EngineError(
                f"the visual side cannot be exported as ONNX: {_first_line(error)}",
                code="MM564",
                hint="use visual.backend torch, which compiles the module directly",
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
    """Check that a model has opset :data:`OPSET` and only standard ONNX operators.

    Raises:
        EngineError: MM564.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    foreign = sorted({node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    if opsets.get("") != OPSET or foreign:
        raise EngineError(
            f"the exported model has opsets {opsets} and non-standard operators {foreign}; only opset {OPSET} is "
            "supported",
            code="MM564",
            hint="use visual.backend torch, or a torch version from mmbuild's extra `torch`",
        )


def node_names(path: Path) -> list[str]:
    """Names of the model's nodes for error messages, by number: ``/encoder/Add (Add)``."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return [f"{node.name} ({node.op_type})" for node in nodes]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


class _PlainTrace(TorchFunctionMode):
    """Simplifies a trace: decomposes attention, and makes all sizes constant except the batch dimension.

    Tracing treats every size as computed, which would leave thousands of shape operators, some of which TensorRT runs
    on the GPU or does not support. The batch is always part of the first dimension.
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
        result = func(*args, **kwargs)
        if func in _SIZES and isinstance(result, torch.Size):
            return (*result[:1], *(int(size) for size in result[1:]))
        if func is torch.Tensor.size and (args[1] if len(args) > 1 else kwargs["dim"]) != 0:
            return int(result)
        return result


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
    """Decomposed ``scaled_dot_product_attention``; query, key, value: float [..., heads, rows, head_size]."""
    if is_causal or enable_gqa or dropout_p or (attn_mask is not None and _masks_anything(attn_mask)):
        raise ValueError("attention of the visual side is causal, grouped or masked")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    # Scaled before the product, because float16 overflows at 65504.
    scores = (query * float(factor)) @ key.transpose(-2, -1)
    return functional.softmax(scores, dim=-1) @ value


def _masks_anything(mask: Tensor) -> bool:
    visible = mask if mask.dtype == torch.bool else mask == 0
    return not bool(visible.all())
