"""Fits the scales of AWQ, SmoothQuant and FP8 with NVIDIA Model Optimizer; only this module imports it.

Model Optimizer gets only the linear layers of the decoder. They are measured in place while the whole model runs. The
results are read from its quantizers; :mod:`mmbuild.backends.torch.calibration.write` writes the checkpoint. Settings
are its presets (``INT4_AWQ_CFG``, ``FP8_DEFAULT_CFG`` of 0.47), except SmoothQuant's migration strength, which is 0.5
as in the paper (https://arxiv.org/abs/2211.10438) instead of 1. Plain weight-only int8 and int4 are fitted without
Model Optimizer, in :mod:`mmbuild.models.checkpoint.weight_only_fit`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmbuild.base.optional_packages import install_hint
from mmbuild.models.calibration_data.samples import CalibrationError

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True, slots=True)
class LayerFit:
    """Fitted parameters of one linear layer.

    Attributes:
        prescale: float32 [in]: inputs are multiplied by it, the weight's columns divided; None if the algorithm has
            none.
        input_amax: Largest magnitude of the inputs; None if the algorithm does not need it.
    """

    prescale: Tensor | None
    input_amax: float | None


def _off() -> dict[str, Any]:
    return {"quantizer_name": "*", "enable": False}


def _weights(**how: Any) -> dict[str, Any]:
    return {"quantizer_name": "*weight_quantizer", "cfg": how}


def _inputs(**how: Any) -> dict[str, Any]:
    return {"quantizer_name": "*input_quantizer", "cfg": how}


def config(algorithm: str, group_size: int | None) -> dict[str, Any]:
    """The settings of ``algorithm`` for ``modelopt.torch.quantization.quantize``.

    Raises:
        KeyError: The algorithm is not a calibrated one.
    """
    table: Mapping[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
        "int4_awq": (
            [_weights(num_bits=4, block_sizes={-1: group_size, "type": "static"})],
            {"method": "awq_lite", "alpha_step": 0.1},
        ),
        "smoothquant": (
            [_weights(num_bits=8, axis=0), _inputs(num_bits=8, axis=None)],
            {"method": "smoothquant", "alpha": 0.5},
        ),
        "fp8": (
            [_weights(num_bits=(4, 3), axis=None), _inputs(num_bits=(4, 3), axis=None)],
            {"method": "max"},
        ),
    }
    quantizers, method = table[algorithm]
    return {"quant_cfg": [_off(), *quantizers], "algorithm": method}


def fit(
    linears: Mapping[str, nn.Linear],
    algorithm: str,
    group_size: int | None,
    forward: Callable[[], None],
) -> dict[str, LayerFit]:
    """Fit ``linears`` while ``forward`` runs the model.

    Args:
        linears: Layers by name. They are modified in place, so the model cannot be used afterwards.
        algorithm: ``int4_awq``, ``smoothquant`` or ``fp8``.
        group_size: Inputs that share a scale, for ``int4_awq``.
        forward: Runs the whole model on all samples; called once or twice.

    Raises:
        CalibrationError: MM461, a layer's inputs are not finite, or all zero; MM462, Model Optimizer is missing.
    """
    quantization = _modelopt()
    with warnings.catch_warnings(), _without_extensions():
        warnings.simplefilter("ignore")  # that there are no extensions
        # Model Optimizer skips layers by parts of their names, so name them by numbers.
        numbered = nn.ModuleDict({str(number): linear for number, linear in enumerate(linears.values())})
        with _watched(linears), torch.inference_mode(False), torch.no_grad():
            quantization.quantize(numbered, config(algorithm, group_size), lambda _: forward())
    return {name: _observed(name, linear, algorithm) for name, linear in linears.items()}


@contextmanager
def _watched(linears: Mapping[str, nn.Linear]) -> Iterator[None]:
    """Raise on inputs that are not finite as soon as they occur, and on layers whose inputs were all zero."""
    seen = dict.fromkeys(linears, 0.0)

    def watch(name: str, inputs: tuple[Tensor, ...]) -> None:
        largest = float(inputs[0].detach().abs().amax())
        if not largest < float("inf"):
            raise unusable(name, "its inputs contain NaN or infinity")
        seen[name] = max(seen[name], largest)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: watch(name, inputs)

    handles = [linear.register_forward_pre_hook(hook(name)) for name, linear in linears.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    silent = next((name for name, largest in seen.items() if largest == 0), None)
    if silent is not None:
        raise unusable(silent, "its inputs are zero in every sample, so nothing can be fitted")


@contextmanager
def _without_extensions() -> Iterator[None]:
    """Keep Model Optimizer from compiling its CUDA extensions: that takes a minute, while the GPU is held for this
    alone, and saves seconds of arithmetic that torch does as well."""
    from modelopt.torch.quantization import extensions

    loaders = (extensions.get_cuda_ext, extensions.get_cuda_ext_fp8)
    # A loader keeps what it has loaded as its attribute.
    kept = [vars(loader).copy() for loader in loaders]
    try:
        for loader in loaders:
            loader.extension = None
        yield
    finally:
        for loader, own in zip(loaders, kept, strict=True):
            vars(loader).clear()
            vars(loader).update(own)


def _modelopt() -> ModuleType:
    try:
        from modelopt.torch import quantization
    except ImportError as error:
        raise CalibrationError(
            f"NVIDIA Model Optimizer cannot be imported: {error}",
            code="MM462",
            hint=install_hint("quantize"),
        ) from error
    module: ModuleType = quantization
    return module


def _observed(name: str, linear: Any, algorithm: str) -> LayerFit:
    """Read the fit of one layer from its quantizers."""
    quantizer = linear.input_quantizer
    if algorithm == "fp8":
        amax = float(quantizer.amax)
        if not 0 < amax < float("inf"):
            raise unusable(name, f"the largest magnitude of its inputs is {amax}")
        return LayerFit(None, amax)
    prescale: Tensor | None = getattr(quantizer, "pre_quant_scale", None)
    if prescale is None:
        raise unusable(name, "Model Optimizer did not fit it")
    prescale = prescale.detach().float().reshape(-1).cpu()
    if not bool(torch.isfinite(prescale).all()) or bool((prescale <= 0).any()):
        raise unusable(name, "the scales of its inputs are zero or not finite")
    return LayerFit(prescale, None)


def unusable(name: str, reason: str) -> CalibrationError:
    """The error for a layer that cannot be fitted."""
    return CalibrationError(
        f"calibration of layer `{name}` failed: {reason}",
        code="MM461",
        hint="check the model's weights and the calibration data; engine.dtype bfloat16 rules out overflow",
    )
